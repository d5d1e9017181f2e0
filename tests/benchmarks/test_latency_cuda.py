"""``latency --device cuda``: all but CUDA itself on the CPU and on stand-ins; on a GPU where there is one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
import torch

from benchmarks import latency_cuda
from benchmarks.latency_cuda import (
    VARIANTS,
    Opened,
    Variant,
    choose,
    gpu_name,
    measure,
    open_variants,
    sweep,
    torch_run,
)
from benchmarks.measuring import cosines
from benchmarks.models import random_model, spatial_operations
from sfavivit.config import named_dimensions
from sfavivit.errors import EngineError, codes_of
from sfavivit.types import Features, Frames
from tests import gpu
from tests.benchmarks.support import refusal
from tests.conftest import build_model, random_frames
from tests.fake_tensorrt import FakeTensorRt, installed

DIMS = named_dimensions("tiny", {"": 1})
EAGER, PLAN = Variant("torch", "eager", "bf16"), Variant("tensorrt", "plan", "fp16")


@pytest.fixture
def no_torch_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.fixture
def torch_cuda() -> None:
    """Skip a test, or fail it where a GPU must be, if PyTorch sees none."""
    if not torch.cuda.is_available():
        gpu.without("PyTorch sees no GPU")


@pytest.fixture
def fake(no_torch_cuda: None) -> Iterator[FakeTensorRt]:
    with installed() as stand_ins:
        yield stand_ins


def test_without_a_gpu_there_is_one_line_and_no_result(fake: FakeTensorRt, tmp_path: Path) -> None:
    fake.has_gpu = False
    error = refusal("latency", "--device", "cuda", "--out", tmp_path)
    assert isinstance(error, EngineError)
    assert codes_of(error).exit_code == 1
    assert "no NVIDIA GPU" in str(error)
    assert not list(tmp_path.iterdir())


def test_the_gpu_has_its_name_without_pytorch(fake: FakeTensorRt) -> None:
    assert gpu_name() == "Fake H1"


def test_choice_of_engines() -> None:
    assert choose(None, None) == list(VARIANTS)
    assert {variant.engine for variant in choose(["tensorrt"], [])} == {"tensorrt"}
    assert {variant.engine for variant in choose(None, ["bf16"])} == {"torch", "tensorrt"}
    modes = {(variant.mode, variant.precision) for variant in choose(["torch"], [])}
    assert modes == {
        (mode, precision)
        for mode in ("eager", "graph", "compile", "compile-graph")
        for precision in ("fp16", "bf16")
    }


class Recorder:
    """A run that answers nothing and writes down its calls."""

    def __init__(self, name: str, log: list[tuple[str, int]]) -> None:
        self.name, self.log = name, log

    def __call__(self, frames: Frames) -> Features:
        tubelets = frames.shape[1] // DIMS.tubelet_frames
        if not self.log or self.log[-1] != (self.name, tubelets):
            self.log.append((self.name, tubelets))
        return np.zeros((1, tubelets, DIMS.hidden_size), np.float32)


def test_a_sweep_takes_turns_and_its_figures_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latency_cuda, "SAMPLE_SECONDS", 0.0)
    log: list[tuple[str, int]] = []
    opened = {EAGER: Opened(Recorder("torch", log), 0.5), PLAN: Opened(Recorder("plan", log), 0.25)}
    rates = {"bf16": iter([1e12, 2e12]), "fp16": iter([4e12, 8e12])}
    rows = sweep(opened, DIMS, [2, 3], 2, lambda precision: next(rates[precision]), {"gpu": "a GPU"})
    assert log == [("torch", 2), ("plan", 2), ("torch", 3), ("plan", 3)] * 2
    assert [(row.case["engine"], row.case["chunk"]) for row in rows] == [
        (engine, chunk) for chunk in (2, 3) for engine in ("torch", "tensorrt")
    ]
    for row in rows:
        assert row.case["gpu"] == "a GPU"
        ours = row.case["engine"] == "tensorrt"
        operations = spatial_operations(DIMS, last_block_for_cls=ours) / 1e12
        values = {name: np.array(figure.samples) for name, figure in row.figures.items()}
        assert values["cosine"] == (0.25 if ours else 0.5)
        np.testing.assert_allclose(values["call"], 1e3 * int(row.case["chunk"]) / values["throughput"])
        np.testing.assert_allclose(values["128 frames"], 64e3 / values["throughput"])
        np.testing.assert_allclose(values["rate"], values["throughput"] * operations)
        np.testing.assert_array_equal(values["ceiling"], [4, 8] if ours else [1, 2])
        np.testing.assert_allclose(values["of the ceiling"], values["rate"] / values["ceiling"])


def test_without_a_ceiling_there_is_no_share(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latency_cuda, "SAMPLE_SECONDS", 0.0)
    (row,) = sweep({PLAN: Opened(Recorder("plan", []), 1.0)}, DIMS, [1], 1, lambda _: None, {})
    assert "rate" in row.figures
    assert "of the ceiling" not in row.figures
    assert "memory" not in row.figures
    (row,) = sweep({PLAN: Opened(Recorder("plan", []), 1.0, 96.0)}, DIMS, [1], 1, lambda _: None, {})
    assert row.figures["memory"].samples == (96,)


def test_a_sample_is_the_mean_of_many_short_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def run(frames: Frames) -> Features:
        calls.append(frames)
        return np.zeros(1, np.float32)

    def ten_milliseconds_each(work: Callable[[], object]) -> float:
        before = len(calls)
        work()
        return 0.01 * (len(calls) - before)

    monkeypatch.setattr(latency_cuda, "timed", ten_milliseconds_each)
    assert latency_cuda.call_seconds(run, np.zeros(1, np.uint8)) == pytest.approx(0.01)
    assert 25 < len(calls) < 35


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_pytorch_in_fewer_bits_gives_the_features(dtype: torch.dtype) -> None:
    spatial = build_model().spatial
    frames = random_frames(8)[None]
    with torch.inference_mode():
        expected = spatial(torch.from_numpy(frames)).numpy()
    features = torch_run(spatial, "eager", dtype, "cpu")(frames)
    assert features.dtype == np.float32
    assert features.shape == expected.shape
    assert cosines(features, expected).min() > (0.99999 if dtype == torch.float32 else 0.999)
    assert next(spatial.parameters()).dtype == torch.float32  # a copy was changed


def test_cosines() -> None:
    a = np.array([[[3.0, 4.0], [1.0, 0.0]]], np.float32)
    b = np.array([[[6.0, 8.0], [1.0, 1.0]]], np.float32)
    np.testing.assert_allclose(cosines(a, b), [[1, np.sqrt(0.5)]])


def test_what_is_usable_runs_and_the_rest_is_told(
    fake: FakeTensorRt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TensorRT's stand-in runs the real plan flow; PyTorch and ONNX Runtime see no GPU."""
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CPUExecutionProvider"])
    monkeypatch.setattr(latency_cuda, "SAMPLE_SECONDS", 0.0)
    told: list[str] = []
    variants = [EAGER, Variant("onnxruntime", "cuda", "fp16"), PLAN]
    (small, large) = measure(variants, ["tiny"], [1, 2], 1, tmp_path, told.append)
    for row, chunk in ((small, 1), (large, 2)):
        case: dict[str, Any] = {"engine": "tensorrt", "gpu": "Fake H1", "chunk": chunk}
        assert case.items() <= row.case.items()
        assert row.figures["cosine"].median > 0.999
    assert [line.split(": ")[1] for line in told] == [
        "size tiny, torch/eager/bf16",
        "size tiny, onnxruntime/cuda/fp16",
    ]
    with pytest.raises(EngineError, match="no engine can use Fake H1"):
        measure([EAGER], ["tiny"], [1], 1, tmp_path, told.append)


def test_an_engine_that_breaks_in_a_run_is_left_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def breaks(*_: Any) -> Any:
        def run(frames: Frames) -> Features:
            raise RuntimeError("CUDA out of memory.\nTried to allocate 80 GiB")

        return run

    monkeypatch.setattr(latency_cuda, "open_run", breaks)
    told: list[str] = []
    assert open_variants([EAGER], "tiny", build_model().spatial, [1], tmp_path, told.append) == {}
    assert told == ["left out: size tiny, torch/eager/bf16: CUDA out of memory. Tried to allocate 80 GiB"]


@pytest.mark.gpu
@pytest.mark.usefixtures("torch_cuda")
@pytest.mark.parametrize("variant", choose(["torch"], []), ids=str)
def test_pytorch_on_the_gpu(variant: Variant, tmp_path: Path) -> None:
    model = random_model("tiny").spatial
    opened = open_variants([variant], "tiny", model, [2, 3], tmp_path, pytest.fail)
    assert opened[variant].cosine > 0.999
    assert opened[variant].memory_mib


@pytest.mark.gpu
@pytest.mark.usefixtures("torch_cuda")
def test_a_recorded_graph_sees_new_frames() -> None:
    spatial = build_model().spatial
    eager, graph = (torch_run(spatial, mode, torch.float16, "cuda") for mode in ("eager", "graph"))
    for seed in range(3):
        frames = random_frames(8, seed)[None]
        np.testing.assert_allclose(graph(frames), eager(frames), atol=1e-3)


@pytest.mark.gpu
@pytest.mark.usefixtures("torch_cuda")
def test_the_ceiling_of_the_gpu() -> None:
    rate = latency_cuda.matrix_rate("bf16")
    assert rate
    assert rate > 1e12
