"""The TensorRT engine: the choice of plans, its errors, and on a GPU the same answers as ONNX Runtime."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from export.plans import PlanOptions, export_plans
from sfavivit import Recognizer
from sfavivit.engines import load_engine
from sfavivit.engines.base import Engine
from sfavivit.engines.model import LoadedModel
from sfavivit.errors import EngineError, UsageError
from sfavivit.repository.manifest import PlanPrecision, Repository
from tests import gpu
from tests.conftest import random_frames
from tests.fake_tensorrt import FakeTensorRt, installed

SPATIAL_PLAN = "sfavivit_spatial/1/model.plan"


def with_plans(repository: Path, target: Path, video: Path, precision: PlanPrecision = "fp32") -> Repository:
    shutil.copytree(repository, target)
    export_plans(target, PlanOptions(precision, 3, 6, parity_video=video))
    return Repository.load(target)


@pytest.fixture
def fake() -> Iterator[FakeTensorRt]:
    with installed() as stand_in:
        yield stand_in


@pytest.fixture(scope="module")
def loaded(repository: Path, parity_video: Path, tmp_path_factory: pytest.TempPathFactory) -> Repository:
    with installed():
        return with_plans(repository, tmp_path_factory.mktemp("plans") / "model_repository", parity_video)


def assert_equal(engine: Engine, repository: Repository, tolerance: float) -> None:
    """Every shape that a caller sends, against ONNX Runtime."""
    reference = load_engine("onnxruntime", repository)
    for batch, count in ((1, 6), (1, 2), (1, 12), (4, 6), (16, 12), (1, 6), (1, 6)):
        frames = np.stack([random_frames(count, seed=seed) for seed in range(batch)])
        features = reference.spatial(frames)
        np.testing.assert_allclose(engine.spatial(frames), features, atol=tolerance)
        for head in repository.manifest.heads:
            found = engine.temporal(head, features)
            for output, logits in reference.temporal(head, features).items():
                np.testing.assert_allclose(found[output], logits, atol=1e-4)


def test_every_model_runs_its_plan(fake: FakeTensorRt, loaded: Repository, recognizer: Recognizer) -> None:
    engine = load_engine("tensorrt", loaded)
    assert engine.device == "cuda:0"
    with pytest.raises(UsageError, match="cannot use device 'cpu'"):
        load_engine("tensorrt", loaded, device="cpu")
    assert_equal(engine, loaded, 1e-5)
    frames = random_frames(20)
    own = Recognizer(LoadedModel(loaded, engine, chunk_tubelets=3))
    np.testing.assert_allclose(own.features(frames), recognizer.features(frames), atol=1e-5)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"gpu": "NVIDIA A100"}, "NVIDIA A100"),
        ({"compute_capability": "8.0"}, "compute capability 8.0"),
        ({"tensorrt": "10.13.2.6"}, "TensorRT 10.13.2.6"),
    ],
)
def test_a_plan_for_another_machine_is_refused_unopened(
    fake: FakeTensorRt,
    loaded: Repository,
    change: dict[str, str],
    words: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plan = loaded.manifest.plans[SPATIAL_PLAN].model_copy(update=change)
    plans = loaded.manifest.plans | {SPATIAL_PLAN: plan}
    foreign = replace(loaded, manifest=loaded.manifest.model_copy(update={"plans": plans}))
    monkeypatch.delattr(sys.modules["sfavivit.engines.tensorrt"], "TensorRtModel")
    with pytest.raises(EngineError, match=words) as caught:
        load_engine("tensorrt", foreign)
    message = str(caught.value)
    assert "Fake H1" in message and "python -m export tensorrt" in message and "\n" not in message


def test_a_repository_without_plans_says_how_to_make_them(fake: FakeTensorRt, repository: Path) -> None:
    with pytest.raises(EngineError, match=r"no TensorRT plan sfavivit_spatial.*python -m export tensorrt"):
        load_engine("tensorrt", Repository.load(repository))


NO_GPU = """
from sfavivit.engines import cuda
from sfavivit.errors import EngineError
try:
    cuda.current_gpu()
except EngineError as error:
    print(error)
"""


def test_no_gpu_is_one_line() -> None:
    """The real CUDA, which is shown no GPU, or has no driver."""
    pytest.importorskip("cuda.bindings.runtime")
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-c", NO_GPU]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("CUDA: ")
    assert "NVIDIA GPU" in done.stdout
    assert done.stdout.count("\n") == 1


def test_errors_of_tensorrt_become_one_line(fake: FakeTensorRt) -> None:
    module = import_module("sfavivit.engines.tensorrt")
    log, severity = module.Log(), sys.modules["tensorrt"].ILogger.Severity
    log.log(severity.ERROR, "the kernel\nfell over")
    log.log(severity.WARNING, "slow")
    for failed in (None, False):
        with pytest.raises(EngineError, match="^TensorRT failed in a run: the kernel fell over$"):
            log.require(failed, "failed in a run")
    assert log.require(0, "is a value") == 0


def test_the_first_profile_that_fits_is_taken(fake: FakeTensorRt) -> None:
    first_profile = import_module("sfavivit.engines.tensorrt").first_profile
    ranges = [((1, 2, 9), (1, 6, 9), (1, 6, 9)), ((1, 2, 9), (1, 12, 9), (16, 12, 9))]
    fitting: dict[int | None, list[tuple[int, ...]]] = {
        0: [(1, 2, 9), (1, 6, 9)],
        1: [(1, 8, 9), (2, 6, 9), (16, 12, 9)],
        None: [(1, 1, 9), (1, 14, 9), (1, 6), (17, 2, 9)],
    }
    for profile, shapes in fitting.items():
        assert {first_profile(ranges, shape) for shape in shapes} == {profile}


@pytest.fixture
def real_tensorrt() -> None:
    gpu.need("tensorrt")
    gpu.need("cuda.bindings.runtime")
    try:
        gpu.need("sfavivit.engines.cuda").current_gpu()
    except EngineError as error:
        gpu.without(str(error))


@pytest.mark.gpu
@pytest.mark.usefixtures("real_tensorrt")
@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-4), ("fp16", 0.05), ("bf16", 0.3)])
def test_on_a_gpu(
    repository: Path, parity_video: Path, tmp_path: Path, precision: PlanPrecision, tolerance: float
) -> None:
    """The real TensorRT: plans of every precision, every shape a caller sends, against ONNX Runtime."""
    planned = with_plans(repository, tmp_path / "model_repository", parity_video, precision)
    assert_equal(load_engine("tensorrt", planned), planned, tolerance)


@pytest.mark.gpu
@pytest.mark.usefixtures("real_tensorrt")
def test_buffers_threads_and_refusals_on_a_gpu(
    repository: Path, parity_video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned = with_plans(repository, tmp_path / "model_repository", parity_video)
    reference, engine = load_engine("onnxruntime", planned), load_engine("tensorrt", planned)
    backwards = random_frames(6)[None, ::-1]  # a view
    first = engine.spatial(backwards)
    kept = first.copy()
    np.testing.assert_array_equal(engine.spatial(backwards.copy()), kept)
    assert not np.array_equal(engine.spatial(random_frames(6, seed=2)[None]), kept)
    np.testing.assert_array_equal(first, kept, err_msg="an answer was overwritten by the next")

    module: Any = import_module("sfavivit.engines.tensorrt")
    monkeypatch.setattr(module, "MAX_SHAPES", 2)
    engine = load_engine("tensorrt", planned)
    inputs = [random_frames(2 * (1 + seed % 3), seed=seed)[None] for seed in range(24)]
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(engine.spatial, inputs))
    for frames, features in zip(inputs, answers, strict=True):
        np.testing.assert_allclose(features, reference.spatial(frames), atol=1e-4)

    with pytest.raises(
        EngineError, match=r"up to \[16, 12, 16, 16, 3\], not \[1, 14, 16, 16, 3\].*--large-chunk"
    ):
        engine.spatial(random_frames(14)[None])
    assert engine.spatial(random_frames(12)[None]).shape == (1, 6, 32)
    with pytest.raises(EngineError, match=r"cannot load x.plan: "):
        module.TensorRtModel(b"not a plan", "x.plan")
