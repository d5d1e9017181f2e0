"""TensorRT plans: the export's side of them, with ONNX Runtime in TensorRT's place (``fake_tensorrt``)."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from export.__main__ import repository_app
from export.graphs import numpy_state, spatial_graph
from export.plan_profiles import spatial_profiles, temporal_profiles
from export.plans import PlanOptions, export_plans, write_onnx
from sfavivit.errors import EngineError, ExportError, ParityError
from sfavivit.repository.manifest import Repository
from tests.commands import run_here
from tests.conftest import SIDE, build_model, random_frames
from tests.export.support import config, cosines, export_plainly, run_reference
from tests.fake_tensorrt import FakeTensorRt, installed

SPATIAL_PLAN = "sfavivit_spatial/1/model.plan"


@pytest.fixture
def fake() -> Iterator[FakeTensorRt]:
    with installed() as stand_in:
        yield stand_in


@pytest.fixture(scope="module")
def planned(
    repository: Path, parity_video: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, set[int]]:
    """The repository with plans (chunks of 3 and of 6 tubelets), and the lengths that parity ran."""
    target = tmp_path_factory.mktemp("plans") / "model_repository"
    shutil.copytree(repository, target)
    with installed() as stand_in:
        export_plans(target, options(parity_video))
        return target, set(stand_in.chunks)


def options(parity_video: Path, **changes: Any) -> PlanOptions:
    return replace(PlanOptions("fp32", 3, 6, None, parity_video), **changes)


def test_every_model_gets_a_plan_that_the_manifest_describes(planned: tuple[Path, set[int]]) -> None:
    manifest = Repository.load(planned[0]).manifest
    heads = {f"sfavivit_temporal_{head}/1/model.plan" for head in ("default", "long")}
    assert set(manifest.plans) == {SPATIAL_PLAN, *heads}
    for name, plan in manifest.plans.items():
        assert name in manifest.files
        assert (plan.gpu, plan.compute_capability) == ("Fake H1", "9.0")
        assert (plan.tensorrt, plan.precision) == ("11.4.0.106", "fp32")
        assert 0 < plan.parity.max_abs_error < 1e-4


def test_parity_is_measured_in_both_profiles(planned: tuple[Path, set[int]]) -> None:
    assert {3 * 2, 6 * 2} <= planned[1]


def test_triton_runs_the_plans(planned: tuple[Path, set[int]]) -> None:
    for model in ("sfavivit_spatial", "sfavivit_temporal_default", "sfavivit_temporal_long"):
        parsed = config(planned[0], model)
        assert parsed.backend == "tensorrt"
        (group,) = parsed.instance_group
        assert (group.Kind.Name(group.kind), list(group.profile)) == ("KIND_GPU", ["0", "1"])
        assert parsed.max_batch_size == 16  # what the large profiles are built for
    assert config(planned[0], "sfavivit_default").platform == "ensemble"


def test_a_further_version_of_a_head_runs_without_a_plan(
    planned: tuple[Path, set[int]], parity_video: Path, tmp_path: Path
) -> None:
    target = tmp_path / "again"
    shutil.copytree(planned[0], target)
    export_plainly(build_model(seed=5), target, parity_video)
    assert config(target, "sfavivit_temporal_default").backend == "python"
    assert config(target, "sfavivit_temporal_long").backend == "tensorrt"
    assert "sfavivit_temporal_default/1/model.plan" in Repository.load(target).manifest.plans


@pytest.mark.parametrize(
    ("error", "failing", "outcome"),
    [(0.01, False, ParityError), (float("nan"), False, ParityError), (0, True, EngineError)],
)
def test_whatever_fails_the_repository_stays_as_it_was(
    fake: FakeTensorRt,
    own_copy: Path,
    parity_video: Path,
    error: float,
    failing: bool,
    outcome: type[Exception],
) -> None:
    before = {file: file.stat().st_mtime_ns for file in own_copy.rglob("*")}
    fake.error, fake.failing = error, failing
    with pytest.raises(outcome):
        export_plans(own_copy, options(parity_video))
    assert {file: file.stat().st_mtime_ns for file in own_copy.rglob("*")} == before
    assert list(own_copy.parent.iterdir()) == [own_copy]


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
    manifest = export_plans(target, options(parity_video, large_chunk=9, precision="fp16"))
    assert linked.read_bytes() == content != old.read_bytes()
    assert Repository.load(target).manifest == manifest


def test_a_timing_cache_is_kept_and_a_foreign_one_refused(fake: FakeTensorRt, tmp_path: Path) -> None:
    builder = import_module("export.plan_builder")
    kept = SimpleNamespace(get_timing_cache=lambda: SimpleNamespace(serialize=lambda: memoryview(b"built")))
    builder.keep_timing_cache(kept, tmp_path / "cache")
    assert (tmp_path / "cache").read_bytes() == b"built"
    assert list(tmp_path.iterdir()) == [tmp_path / "cache"]
    foreign = SimpleNamespace(
        create_timing_cache=lambda content: content, set_timing_cache=lambda cache, ignore_mismatch: False
    )
    with pytest.raises(ExportError, match="cache is of another GPU or TensorRT version"):
        builder.use_timing_cache(foreign, tmp_path / "cache")
    with pytest.raises(ExportError, match="cannot be read: Is a directory"):
        builder.use_timing_cache(foreign, tmp_path)
    with pytest.raises(ExportError, match="cannot be written: No such file"):
        builder.keep_timing_cache(kept, tmp_path / "no" / "cache")


def test_chunks_that_cannot_be_are_refused() -> None:
    with pytest.raises(ExportError, match="--small-chunk 9 and --large-chunk 8"):
        spatial_profiles(build_model().dims, 9, 8)
    with pytest.raises(ExportError, match="--small-chunk 0"):
        spatial_profiles(build_model().dims, 0, 8)


def test_profiles_hold_what_the_callers_send() -> None:
    dims = build_model().dims
    small, large = spatial_profiles(dims, 8, 32)
    assert small == ((1, 2, SIDE, SIDE, 3), (1, 16, SIDE, SIDE, 3), (1, 16, SIDE, SIDE, 3))
    assert large.max == (16, 64, SIDE, SIDE, 3)
    assert [profile.max for profile in temporal_profiles(dims)] == [(1, 8, 32), (16, 8, 32)]
    assert {profile.min for profile in temporal_profiles(dims)} == {(1, 1, 32)}


def test_bf16_graphs_are_standard_onnx_and_near_pytorch(tmp_path: Path) -> None:
    """ONNX Runtime has no bf16 on CPUs: the oracle is ONNX's own reference evaluator."""
    model = build_model()
    weights = numpy_state(model.spatial)
    file = write_onnx(spatial_graph(model.dims, weights, "bf16", cast_first=True), tmp_path)
    frames = random_frames(4)[None]
    found = run_reference(file, frames)
    expected = model.spatial(torch.from_numpy(frames)).detach().numpy()
    # 8 bits of mantissa; a width of 32 averages little out.
    assert found.dtype == np.float32
    assert 0.9995 < cosines(found, expected).min() < 0.99999


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_uint8_is_cast_first_in_the_graph_of_a_plan(precision: Any) -> None:
    """TensorRT takes uint8 as a network input and nowhere else."""
    model = build_model()
    graph = spatial_graph(model.dims, numpy_state(model.spatial), precision, cast_first=True).graph
    assert [node.op_type for node in graph.node if "FRAMES" in node.input] == ["Cast"]


def test_reduced_precision_is_judged_by_its_own_rule(
    fake: FakeTensorRt, own_copy: Path, parity_video: Path
) -> None:
    plan = export_plans(own_copy, options(parity_video, precision="fp16")).plans[SPATIAL_PLAN]
    assert plan.precision == "fp16"
    assert 1e-4 < plan.parity.max_abs_error < 0.1
    assert plan.parity.min_cosine > 0.999


def test_the_command_builds_and_tells_what_it_measured(
    fake: FakeTensorRt, own_copy: Path, parity_video: Path
) -> None:
    words = ["--precision", "fp32", "--small-chunk", "2", "--large-chunk", "4"]
    result = run_here(repository_app, "tensorrt", own_copy, *words, "--parity-video", parity_video)
    assert result.returncode == 0, result.stderr
    assert f"{SPATIAL_PLAN}: fp32 for Fake H1 and TensorRT 11.4.0.106" in result.stderr
    assert len(Repository.load(own_copy).manifest.plans) == 3


def test_without_tensorrt_the_command_says_what_is_missing(repository: Path) -> None:
    command = [sys.executable, "-m", "export", "tensorrt", str(repository)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: ")
    assert "Traceback" not in done.stderr
    assert "sfavivit[gpu]" in done.stderr or "NVIDIA GPU" in done.stderr
