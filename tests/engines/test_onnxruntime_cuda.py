"""ONNX Runtime with CUDA: the choice of provider, IO binding, and (on a GPU) the same answers as the CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from sfavivit.engines.onnxruntime import CPU, CUDA, OnnxModel, OnnxRuntimeEngine, best_provider
from sfavivit.errors import EngineError
from sfavivit.repository.manifest import Repository
from tests import gpu
from tests.conftest import random_frames


@pytest.fixture
def loaded(repository: Path) -> Repository:
    return Repository.load(repository)


def test_the_provider_in_use_is_visible(loaded: Repository) -> None:
    assert OnnxRuntimeEngine(loaded).provider in {CPU, CUDA}
    assert OnnxModel(loaded.spatial_file("model.onnx")).provider == CPU


def test_cuda_is_chosen_where_it_is_but_not_for_int8(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ort, "get_available_providers", lambda: [CUDA, CPU])
    assert [best_provider(p) for p in ("fp32", "fp16", "int8")] == [CUDA, CUDA, CPU]
    monkeypatch.setattr(ort, "get_available_providers", lambda: [CPU])
    assert best_provider("fp32") == CPU


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
    model.provider = CUDA  # as if: the session below is the CPU's
    with pytest.raises(EngineError, match="failed in a run") as caught:
        model.run({"FRAMES": np.zeros((1, 2, 3), np.uint8)})
    assert "\n" not in str(caught.value)


def test_tf32_is_off(monkeypatch: pytest.MonkeyPatch, loaded: Repository) -> None:
    asked: list[Any] = []

    class Session(ort.InferenceSession):
        def __init__(self, file: Any, options: Any, providers: list[Any]) -> None:
            asked.extend(providers)
            super().__init__(file, options, providers=[CPU])

    monkeypatch.setattr(ort, "InferenceSession", Session)
    OnnxModel(loaded.spatial_file("model.onnx"), provider=CUDA)
    assert asked == [(CUDA, {"use_tf32": "0"}), CPU]


@pytest.mark.gpu
def test_cuda_equals_the_cpu(loaded: Repository) -> None:
    if CUDA not in ort.get_available_providers():
        gpu.without("no onnxruntime-gpu")
    cuda = OnnxRuntimeEngine(loaded)
    if cuda.provider != CUDA:
        gpu.without("onnxruntime-gpu finds no GPU")
    frames = random_frames(16)[None]
    expected = OnnxModel(loaded.spatial_file("model.onnx")).run({"FRAMES": frames})["FEATURES"]
    features = cuda.spatial(frames)
    np.testing.assert_allclose(features, expected, atol=1e-5)
    reference = OnnxModel(loaded.temporal_file("default", "model.onnx")).run({"FEATURES": expected})
    np.testing.assert_allclose(cuda.temporal("default", expected)[""], reference["LOGITS"], atol=1e-5)


@pytest.mark.parametrize(("value", "outcome"), [("1", pytest.fail.Exception), ("", pytest.skip.Exception)])
def test_gpu_tests_fail_where_a_gpu_is_required(
    monkeypatch: pytest.MonkeyPatch, value: str, outcome: type[BaseException]
) -> None:
    monkeypatch.setenv(gpu.REQUIRE, value)
    with pytest.raises(outcome, match="no_such_package"):
        gpu.need("no_such_package")
