"""TensorRT: plans and the engine, on stand-ins for TensorRT and CUDA; on the real ones given a GPU."""

from __future__ import annotations

import gc
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
import onnx
import pytest
import torch
from google.protobuf import text_format
from onnx.reference import ReferenceEvaluator
from tritonclient.grpc import model_config_pb2 as triton_config
from typer.testing import CliRunner

from export.exporter import ExportOptions, export_model
from export.graphs import spatial_graph
from export.outputs import label_outputs
from export.plan_profiles import spatial_profiles, temporal_profiles
from export.tensorrt import PlanOptions, app, export_plans
from sfavivit import Recognizer
from sfavivit.engines import load_engine
from sfavivit.engines.model import LoadedModel
from sfavivit.errors import EngineError, ExportError, ParityError
from sfavivit.repository.manifest import Repository
from tests import gpu
from tests.conftest import SIDE, build_model, random_frames
from tests.fake_tensorrt import FakeTensorRt, installed

ModelConfig: Any = vars(triton_config)["ModelConfig"]
SPATIAL_PLAN = "sfavivit_spatial/1/model.plan"


@pytest.fixture
def fake() -> Iterator[FakeTensorRt]:
    with installed() as stand_ins:
        yield stand_ins


@pytest.fixture(scope="module")
def planned(
    repository: Path, parity_video: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, set[int]]:
    """The repository with plans (chunks of 3 and of 6 tubelets), and the profiles that parity used."""
    target = tmp_path_factory.mktemp("plans") / "model_repository"
    shutil.copytree(repository, target)
    with installed() as stand_ins:
        export_plans(target, options(parity_video))
        return target, set(stand_ins.profiles_used)


def options(parity_video: Path, **changes: Any) -> PlanOptions:
    return replace(PlanOptions("fp32", 3, 6, None, parity_video), **changes)


@pytest.fixture
def loaded(planned: tuple[Path, set[int]]) -> Repository:
    return Repository.load(planned[0])


def config(root: Path, model: str) -> Any:
    return text_format.Parse((root / model / "config.pbtxt").read_text(), ModelConfig())


def test_every_model_gets_a_plan_that_the_manifest_describes(loaded: Repository) -> None:
    heads = {f"sfavivit_temporal_{head}/1/model.plan" for head in ("default", "long")}
    assert set(loaded.manifest.plans) == {SPATIAL_PLAN, *heads}
    for name, plan in loaded.manifest.plans.items():
        assert name in loaded.manifest.files
        assert (plan.gpu, plan.compute_capability) == ("Fake H1", "9.0")
        assert (plan.tensorrt, plan.precision) == ("11.4.0.106", "fp32")
        assert 0 < plan.parity.max_abs_error < 1e-4


def test_parity_is_measured_in_both_profiles(planned: tuple[Path, set[int]]) -> None:
    assert planned[1] == {0, 1}


def test_triton_runs_the_plans(loaded: Repository) -> None:
    for model in ("sfavivit_spatial", "sfavivit_temporal_default", "sfavivit_temporal_long"):
        parsed = config(loaded.path, model)
        assert parsed.backend == "tensorrt"
        (group,) = parsed.instance_group
        assert (group.Kind.Name(group.kind), list(group.profile)) == ("KIND_GPU", ["0", "1"])
        assert parsed.max_batch_size == 16  # what the large profiles are built for
    assert config(loaded.path, "sfavivit_default").platform == "ensemble"


def test_a_further_version_of_a_head_runs_without_a_plan(
    planned: tuple[Path, set[int]], parity_video: Path, tmp_path: Path
) -> None:
    target = tmp_path / "again"
    shutil.copytree(planned[0], target)
    model = build_model(seed=5)
    export_model(model, label_outputs(model, {}), target, ExportOptions(parity_video=parity_video))
    assert config(target, "sfavivit_temporal_default").backend == "python"
    assert config(target, "sfavivit_temporal_long").backend == "tensorrt"
    assert "sfavivit_temporal_default/1/model.plan" in Repository.load(target).manifest.plans


def test_the_engine_answers_like_the_others(fake: FakeTensorRt, loaded: Repository) -> None:
    reference, engine = load_engine("onnxruntime", loaded), load_engine("tensorrt", loaded)
    for batch, count in ((1, 6), (1, 2), (1, 12), (4, 6), (16, 12), (1, 6)):
        frames = np.stack([random_frames(count, seed=seed) for seed in range(batch)])
        features = reference.spatial(frames)
        np.testing.assert_allclose(engine.spatial(frames), features, atol=1e-5)
        for head in loaded.manifest.heads:
            found = engine.temporal(head, features)
            for output, logits in reference.temporal(head, features).items():
                np.testing.assert_allclose(found[output], logits, atol=1e-5)
    assert fake.profiles_used == {0, 1}


def test_recognizer_runs_on_it(fake: FakeTensorRt, loaded: Repository, recognizer: Recognizer) -> None:
    own = Recognizer(LoadedModel(loaded, load_engine("tensorrt", loaded), chunk_tubelets=3))
    frames = random_frames(20)
    np.testing.assert_allclose(own.features(frames), recognizer.features(frames), atol=1e-5)


def test_a_view_and_another_order_of_bytes_are_copied_right(fake: FakeTensorRt, loaded: Repository) -> None:
    engine = load_engine("tensorrt", loaded)
    frames = random_frames(6)[None]
    backwards = frames[:, ::-1]
    np.testing.assert_array_equal(engine.spatial(backwards), engine.spatial(backwards.copy()))


def test_an_answer_is_not_overwritten_by_the_next(fake: FakeTensorRt, loaded: Repository) -> None:
    engine = load_engine("tensorrt", loaded)
    first = engine.spatial(random_frames(6, seed=1)[None])
    kept = first.copy()
    assert not np.array_equal(engine.spatial(random_frames(6, seed=2)[None]), kept)
    np.testing.assert_array_equal(first, kept)


def test_threads_get_their_own_answers(fake: FakeTensorRt, loaded: Repository) -> None:
    reference, engine = load_engine("onnxruntime", loaded), load_engine("tensorrt", loaded)
    inputs = [random_frames(2 * (1 + seed % 3), seed=seed)[None] for seed in range(24)]
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(engine.spatial, inputs))
    for frames, features in zip(inputs, answers, strict=True):
        np.testing.assert_allclose(features, reference.spatial(frames), atol=1e-5)


def test_a_shape_is_captured_once_and_their_number_is_bounded(
    fake: FakeTensorRt, loaded: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = load_engine("tensorrt", loaded)
    monkeypatch.setattr(sys.modules["sfavivit.engines.tensorrt"], "MAX_SHAPES", 2)
    gc.collect()
    idle = len(fake.cuda.memory)
    for count in (2, 4, 2, 4, 2):
        engine.spatial(random_frames(count)[None])
    assert (fake.cuda.graphs, fake.cuda.launches) == (2, 5)
    per_shape = (len(fake.cuda.memory) - idle) // 2
    for count in (6, 8, 2, 12, 10):
        engine.spatial(random_frames(count)[None])
    gc.collect()
    assert fake.cuda.graphs == 2
    assert len(fake.cuda.memory) == idle + 2 * per_shape
    del engine
    gc.collect()
    assert (fake.cuda.graphs, len(fake.cuda.memory), len(fake.cuda.streams)) == (0, 0, 0)


def test_the_longest_unused_shape_makes_room(
    fake: FakeTensorRt, loaded: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = load_engine("tensorrt", loaded)
    monkeypatch.setattr(sys.modules["sfavivit.engines.tensorrt"], "MAX_SHAPES", 2)
    for count in (2, 4, 2, 6, 2):
        engine.spatial(random_frames(count)[None])
    assert fake.cuda.captures == 3


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
    monkeypatch.delattr(sys.modules["tensorrt"], "Runtime")
    with pytest.raises(EngineError, match=words) as caught:
        load_engine("tensorrt", foreign)
    message = str(caught.value)
    assert "Fake H1" in message and "python -m export tensorrt" in message and "\n" not in message


def test_a_repository_without_plans_says_how_to_make_them(fake: FakeTensorRt, repository: Path) -> None:
    with pytest.raises(EngineError, match=r"no TensorRT plan sfavivit_spatial.*python -m export tensorrt"):
        load_engine("tensorrt", Repository.load(repository))


def test_no_gpu_is_one_line(fake: FakeTensorRt, loaded: Repository) -> None:
    fake.cuda.has_gpu = False
    with pytest.raises(EngineError, match=r"cudaErrorNoDevice.*NVIDIA GPU"):
        load_engine("tensorrt", loaded)


def test_a_chunk_beyond_the_profiles_is_refused_with_its_shape(
    fake: FakeTensorRt, loaded: Repository
) -> None:
    engine = load_engine("tensorrt", loaded)
    with pytest.raises(
        EngineError, match=r"up to \[16, 12, 16, 16, 3\], not \[1, 14, 16, 16, 3\].*--large-chunk"
    ):
        engine.spatial(random_frames(14)[None])
    assert engine.spatial(random_frames(12)[None]).shape == (1, 6, 32)


def test_what_tensorrt_says_becomes_one_line(fake: FakeTensorRt, loaded: Repository) -> None:
    engine = load_engine("tensorrt", loaded)
    fake.failing = True
    with pytest.raises(EngineError, match="failed in a run: the kernel fell over"):
        engine.spatial(random_frames(2)[None])
    fake.failing = False
    assert np.isfinite(engine.spatial(random_frames(2)[None])).all()
    model = sys.modules["sfavivit.engines.tensorrt"].TensorRtModel
    with pytest.raises(EngineError, match=r"cannot load x.plan: magic tag does not match"):
        model(b"not a plan", "x.plan")


@pytest.mark.parametrize(
    ("error", "failing", "outcome"),
    [(0.01, False, ParityError), (float("nan"), False, ParityError), (0, True, EngineError)],
)
def test_whatever_fails_the_repository_stays_as_it_was(
    fake: FakeTensorRt,
    repository: Path,
    parity_video: Path,
    tmp_path: Path,
    error: float,
    failing: bool,
    outcome: type[Exception],
) -> None:
    target = tmp_path / "model_repository"
    shutil.copytree(repository, target)
    before = {file: file.stat().st_mtime_ns for file in target.rglob("*")}
    fake.error, fake.failing = error, failing
    with pytest.raises(outcome):
        export_plans(target, options(parity_video))
    assert {file: file.stat().st_mtime_ns for file in target.rglob("*")} == before
    assert [path.name for path in tmp_path.iterdir()] == ["model_repository"]


def test_plans_can_be_built_again(
    fake: FakeTensorRt, planned: tuple[Path, set[int]], parity_video: Path, tmp_path: Path
) -> None:
    """Into a copy whose old plans are hard links: the originals keep their bytes."""
    target = tmp_path / "model_repository"
    shutil.copytree(planned[0], target)
    old = target / SPATIAL_PLAN
    linked = tmp_path / "linked"
    os.link(old, linked)
    content = linked.read_bytes()
    manifest = export_plans(target, options(parity_video, large_chunk=9))
    assert linked.read_bytes() == content
    assert Repository.load(target).manifest == manifest


def test_a_timing_cache_is_kept_and_a_foreign_one_refused(
    fake: FakeTensorRt, repository: Path, parity_video: Path, tmp_path: Path
) -> None:
    target = tmp_path / "model_repository"
    shutil.copytree(repository, target)
    cache = tmp_path / "cache"
    export_plans(target, options(parity_video, timing_cache=cache))
    assert cache.read_bytes() == b"Fake H1:" + 3 * b" built"
    cache.write_bytes(b"Other GPU")
    with pytest.raises(ExportError, match=r"cache is of another GPU or TensorRT version"):
        export_plans(target, options(parity_video, timing_cache=cache))
    with pytest.raises(ExportError, match=r"cannot be written: No such file"):
        export_plans(target, options(parity_video, timing_cache=tmp_path / "no" / "cache"))


def test_chunks_that_cannot_be_are_refused() -> None:
    with pytest.raises(ExportError, match="--small-chunk 9 and --large-chunk 8"):
        spatial_profiles(build_model().dims, 9, 8)
    with pytest.raises(ExportError, match="--small-chunk 0"):
        spatial_profiles(build_model().dims, 0, 8)


def test_profiles_hold_what_the_callers_send() -> None:
    dims = build_model().dims
    small, large = spatial_profiles(dims, 8, 32)
    assert small == ((1, 2, SIDE, SIDE, 3), (1, 16, SIDE, SIDE, 3), (1, 16, SIDE, SIDE, 3))
    assert large.largest == (16, 64, SIDE, SIDE, 3)
    assert [profile.largest for profile in temporal_profiles(dims)] == [(1, 8, 32), (16, 8, 32)]
    assert {profile.smallest for profile in temporal_profiles(dims)} == {(1, 1, 32)}


def test_bf16_graphs_are_standard_onnx_and_near_pytorch(fake: FakeTensorRt, tmp_path: Path) -> None:
    """ONNX Runtime has no bf16 on CPUs: the oracle is ONNX's own reference evaluator."""
    model = build_model()
    weights = {name: value.numpy() for name, value in model.spatial.state_dict().items()}
    write_onnx = import_module("export.plan_builder").write_onnx
    file = write_onnx(spatial_graph(model.dims, weights, "bf16", cast_first=True), tmp_path)
    onnx.checker.check_model(str(file), full_check=True)
    frames = random_frames(4)[None]
    evaluator: Any = ReferenceEvaluator(onnx.load(str(file)))
    found = evaluator.run(None, {"FRAMES": frames})[0]
    expected = model.spatial(torch.from_numpy(frames)).detach().numpy()
    cosines = (found * expected).sum(-1) / np.linalg.norm(found, axis=-1) / np.linalg.norm(expected, axis=-1)
    # 8 bits of mantissa; a width of 32 averages little out.
    assert found.dtype == np.float32
    assert 0.9995 < cosines.min() < 0.99999


def test_reduced_precision_is_judged_by_its_own_rule(
    fake: FakeTensorRt, repository: Path, parity_video: Path, tmp_path: Path
) -> None:
    target = tmp_path / "model_repository"
    shutil.copytree(repository, target)
    plan = export_plans(target, options(parity_video, precision="fp16")).plans[SPATIAL_PLAN]
    assert plan.precision == "fp16"
    assert 1e-4 < plan.parity.max_abs_error < 0.1
    assert plan.parity.min_cosine > 0.999


def test_the_command_builds_and_tells_what_it_measured(
    fake: FakeTensorRt, repository: Path, parity_video: Path, tmp_path: Path
) -> None:
    target = tmp_path / "model_repository"
    shutil.copytree(repository, target)
    words = [
        "--precision",
        "fp32",
        "--small-chunk",
        "2",
        "--large-chunk",
        "4",
        "--parity-video",
        str(parity_video),
    ]
    result = CliRunner().invoke(app, [str(target), *words])
    assert not result.exit_code, result.exception
    assert f"{SPATIAL_PLAN}: fp32 for Fake H1 and TensorRT 11.4.0.106" in result.stderr
    assert len(Repository.load(target).manifest.plans) == 3


def test_without_tensorrt_the_command_says_what_is_missing(repository: Path) -> None:
    command = [sys.executable, "-m", "export", "tensorrt", str(repository)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: ")
    assert "Traceback" not in done.stderr
    assert "sfavivit[gpu]" in done.stderr or "NVIDIA GPU" in done.stderr


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_on_a_gpu(repository: Path, parity_video: Path, tmp_path: Path, precision: Any) -> None:
    """The real TensorRT: plans of every precision, every shape a caller sends, against ONNX Runtime."""
    gpu.need("tensorrt")
    gpu.need("cuda.bindings.runtime")
    try:
        gpu.need("sfavivit.engines.cuda").current_gpu()
    except EngineError as error:
        gpu.without(str(error))
    target = tmp_path / "model_repository"
    shutil.copytree(repository, target)
    export_plans(target, options(parity_video, precision=precision))
    loaded = Repository.load(target)
    reference, engine = load_engine("onnxruntime", loaded), load_engine("tensorrt", loaded)
    tolerance = {"fp32": 1e-4, "fp16": 0.05, "bf16": 0.3}[precision]
    for batch, count in ((1, 6), (1, 2), (1, 12), (4, 6), (16, 12), (1, 6), (1, 6)):
        frames = np.stack([random_frames(count, seed=seed) for seed in range(batch)])
        features = reference.spatial(frames)
        np.testing.assert_allclose(engine.spatial(frames), features, atol=tolerance)
        logits = reference.temporal("default", features)[""]
        np.testing.assert_allclose(engine.temporal("default", features)[""], logits, atol=1e-4)
