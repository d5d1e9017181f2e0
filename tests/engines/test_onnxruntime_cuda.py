"""The choice of the device, IO binding, and (on a GPU) the same answers as the CPU."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
import torch

import sfavivit.engines.device
import sfavivit.engines.onnxruntime
from sfavivit.engines import load_engine
from sfavivit.engines.device import driver_problem
from sfavivit.engines.onnxruntime import CPU, CUDA, OnnxModel, OnnxRuntimeEngine
from sfavivit.errors import EngineError, UsageError
from sfavivit.repository.manifest import Repository
from tests import gpu
from tests.conftest import random_frames


@pytest.fixture
def loaded(repository: Path) -> Repository:
    return Repository.load(repository)


@pytest.fixture
def int8(repository: Path, tmp_path: Path) -> Repository:
    """The same files, called int8."""
    own = Path(shutil.copytree(repository, tmp_path / "int8"))
    file = own / "manifest.json"
    manifest = json.loads(file.read_text())
    manifest["spatial"]["precision"] = "int8"
    file.write_text(json.dumps(manifest))
    return Repository.load(own)


@pytest.fixture
def no_driver() -> None:
    if driver_problem() is None:
        pytest.skip("this machine has a GPU")


@pytest.fixture
def cuda_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """The package of the CPU says of itself that it has CUDA; a session falls back all the same."""
    monkeypatch.setattr(ort, "get_available_providers", lambda: [CUDA, CPU])


def test_the_device_in_use_is_visible(loaded: Repository) -> None:
    assert OnnxRuntimeEngine(loaded, device="cpu").device == "cpu"
    assert OnnxModel(loaded.spatial_file("model.onnx")).device == "cpu"


@pytest.mark.parametrize("engine", ["onnxruntime", "torch"])
def test_a_package_without_cuda_is_named(
    loaded: Repository, monkeypatch: pytest.MonkeyPatch, engine: str, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(ort, "get_available_providers", lambda: [CPU])
    monkeypatch.setattr(torch, "zeros", without_cuda(torch.zeros))
    reason = {"onnxruntime": r"one for CPUs.* pip install 'sfavivit\[gpu\]'", "torch": "not compiled with"}
    with pytest.raises(EngineError, match=f"cannot use cuda: .*{reason[engine]}"):
        load_engine(engine, loaded, device="cuda")
    monkeypatch.setattr(sfavivit.engines.device, "driver_problem", lambda: "no NVIDIA driver")
    assert load_engine(engine, loaded).device == "cpu"
    assert not caplog.messages
    monkeypatch.setattr(sfavivit.engines.device, "driver_problem", lambda: None)
    assert load_engine(engine, loaded).device == "cpu"
    (line,) = caplog.messages
    assert re.search(f"{reason[engine]}.*; computing on the CPU", line)


def without_cuda(zeros: Callable[..., Any]) -> Callable[..., Any]:
    def refusing(*shape: int, device: str | None = None) -> Any:
        if device == "cuda":
            raise AssertionError("Torch not compiled with CUDA enabled")
        return zeros(*shape, device=device)

    return refusing


@pytest.mark.usefixtures("no_driver", "cuda_package")
def test_a_package_with_cuda_on_a_machine_without_it(
    loaded: Repository, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(EngineError, match="^ONNX Runtime cannot .*cuda"):
        OnnxRuntimeEngine(loaded, device="cuda")
    assert OnnxRuntimeEngine(loaded).device == "cpu"
    assert len(caplog.messages) == 1 and "computing on the CPU" in caplog.text
    assert capfd.readouterr() == ("", "")


@pytest.mark.usefixtures("cuda_package")
def test_a_session_that_fell_back_is_refused_with_the_reason(
    loaded: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Session(ort.InferenceSession):
        def __init__(self, file: Any, options: Any, providers: list[Any], enable_fallback: bool) -> None:
            assert (providers, enable_fallback) == ([(CUDA, {"use_tf32": "0"}), CPU], False)
            super().__init__(file, options, providers=[CPU])

    monkeypatch.setattr(ort, "InferenceSession", Session)
    file = loaded.spatial_file("model.onnx")
    for problem, text in (("no NVIDIA driver", "no NVIDIA driver"), (None, "providers_cuda.so: cannot open")):
        monkeypatch.setattr(sfavivit.engines.onnxruntime, "driver_problem", lambda said=problem: said)
        with pytest.raises(EngineError, match=f"cannot use cuda: .*{text}"):
            OnnxModel(file, processor="cuda")


@pytest.mark.usefixtures("cuda_package")
def test_int8_is_for_the_cpu(int8: Repository, caplog: pytest.LogCaptureFixture) -> None:
    assert OnnxRuntimeEngine(int8).device == "cpu"
    assert not caplog.messages
    with pytest.raises(UsageError, match="int8 models run on the CPU"):
        OnnxRuntimeEngine(int8, device="cuda")


def test_bound_inputs_and_outputs_change_nothing(loaded: Repository) -> None:
    """The way of a CUDA run, here with the CPU below it: bit for bit the plain run."""
    model = OnnxModel(loaded.spatial_file("model.onnx"))
    frames = np.stack([random_frames(4, seed=seed) for seed in range(3)])
    backwards = frames[:, ::-1]  # a view that is not contiguous
    for feed in ({"FRAMES": frames}, {"FRAMES": backwards}):
        plain = model.run(feed)["FEATURES"]
        np.testing.assert_array_equal(model._run_bound(feed)[0], plain)


def test_a_failed_bound_run_is_one_line(loaded: Repository) -> None:
    model = OnnxModel(loaded.spatial_file("model.onnx"))
    model.device = "cuda:0"  # as if: the session below is the CPU's
    with pytest.raises(EngineError, match="failed in a run") as caught:
        model.run({"FRAMES": np.zeros((1, 2, 3), np.uint8)})
    assert "\n" not in str(caught.value)


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["onnxruntime", "torch"])
def test_cuda_equals_the_cpu(loaded: Repository, name: str) -> None:
    try:
        cuda = load_engine(name, loaded, device="cuda")
    except EngineError as error:
        gpu.without(str(error))
    assert cuda.device == load_engine(name, loaded).device == "cuda:0"
    frames, cpu = random_frames(16)[None], load_engine(name, loaded, device="cpu")
    features = cpu.spatial(frames)
    np.testing.assert_allclose(cuda.spatial(frames), features, atol=1e-5)
    for head in loaded.manifest.heads:
        for output, logits in cpu.temporal(head, features).items():
            np.testing.assert_allclose(cuda.temporal(head, features)[output], logits, atol=1e-5)


@pytest.mark.parametrize(("value", "outcome"), [("1", pytest.fail.Exception), ("", pytest.skip.Exception)])
def test_gpu_tests_fail_where_a_gpu_is_required(
    monkeypatch: pytest.MonkeyPatch, value: str, outcome: type[BaseException]
) -> None:
    monkeypatch.setenv(gpu.REQUIRE, value)
    with pytest.raises(outcome, match="no_such_package"):
        gpu.need("no_such_package")
