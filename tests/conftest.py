"""Shared by the tests: a small repository, exported once by the real export."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from uuid import uuid4

import numpy as np
import pytest
import torch
from hypothesis import settings
from numpy.typing import NDArray

from export.exporter import ExportOptions, export_model
from export.outputs import label_outputs
from serving.triton import TritonServer
from sfavivit import Recognizer
from sfavivit.config import named_dimensions
from sfavivit.models.vivit import SfaVivit
from sfavivit.repository.manifest import TimelineDecoding
from sfavivit.utils.cpus import available_cpus
from tests.counting_engine import CountingEngine
from tests.video_files import encode
from tests.waiting import eventually

SIDE = 16
WINDOW_FRAMES = 16

settings.register_profile("no deadline", deadline=None)  # an example's time says nothing on a busy machine
settings.load_profile("no deadline")

SLOW_FILES = ("test_ray_executor", "test_stage_run", "test_score", "test_service_triton")
"""Begun first, so that no worker is left alone with one of them at the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.stem not in SLOW_FILES)


def build_model(
    outputs: dict[str, int] | None = None,
    *,
    frames: int = WINDOW_FRAMES,
    seed: int = 0,
    spatial_seed: int = 0,
) -> SfaVivit:
    """A small model with weights far from zero, so that different frames give different answers.

    Models of one ``spatial_seed`` share their spatial half; ``seed`` draws the rest.
    """
    dims = named_dimensions(
        "tiny", outputs or {"": 7}, frames=frames, temporal_layers=2, hidden_size=32, image_size=SIDE
    )
    model = SfaVivit(dims).eval()
    with torch.no_grad():
        for half, half_seed in ((model.spatial, spatial_seed), (model.temporal, seed + 1000)):
            generator = torch.Generator().manual_seed(half_seed)
            for name, parameter in half.named_parameters():
                if "norm" not in name:
                    parameter.normal_(0, 0.15, generator=generator)
    return model


def random_frames(count: int, seed: int = 0) -> NDArray[np.uint8]:
    """Smoothly changing noise, uint8 [count, SIDE, SIDE, 3]: neighbours are alike, far ones are not."""
    rng = np.random.default_rng(seed)
    steps = rng.normal(0, 12, (count, SIDE, SIDE, 3)).cumsum(0) + rng.integers(0, 256, (SIDE, SIDE, 3))
    return np.asarray(np.abs(steps % 510 - 255).astype(np.uint8))


def noise_video(path: Path, frames: int, seed: int = 0) -> Path:
    """25 fps of ``random_frames``, four times as large, so that they survive the codec."""
    return encode(path, random_frames(frames, seed).repeat(4, 1).repeat(4, 2))


def wide_video(path: Path, frames: int, seed: int = 3) -> Path:
    """25 fps, twice as wide as high: its three crops differ."""
    pictures = np.concatenate([random_frames(frames, seed), random_frames(frames, seed + 1)], axis=2)
    return encode(path, pictures.repeat(3, 1).repeat(3, 2))


@pytest.fixture(scope="session")
def parity_video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return noise_video(tmp_path_factory.mktemp("video") / "parity.mp4", 40)


@pytest.fixture(scope="session")
def repository(tmp_path_factory: pytest.TempPathFactory, parity_video: Path) -> Path:
    """Heads ``default`` (7 classes, 16 frames) and ``long`` (verb and noun, 24 frames, no padding).

    The timeline of ``default`` is of its windows, that of ``long`` of windows of 6 and of 24 frames.
    """
    target = tmp_path_factory.mktemp("export") / "model_repository"
    default = build_model()
    export_model(
        default,
        label_outputs(default, {}),
        target,
        ExportOptions(shortest_side=SIDE, parity_video=parity_video),
    )
    long = build_model({"verb": 5, "noun": 3}, frames=24, seed=1)
    decoding = TimelineDecoding(window_tubelets=(3, 12), switch_cost=0.2)
    options = ExportOptions(head="long", padding="none", timeline=decoding, parity_video=parity_video)
    export_model(long, label_outputs(long, {}), target, options)
    return target


@pytest.fixture
def own_copy(repository: Path, tmp_path: Path) -> Path:
    """A copy of the shared repository that the test may change."""
    return Path(shutil.copytree(repository, tmp_path / "model_repository"))


@pytest.fixture(scope="session")
def recognizer(repository: Path) -> Recognizer:
    return Recognizer.load(repository, chunk_tubelets=3)


@pytest.fixture
def counting(repository: Path) -> tuple[Recognizer, CountingEngine]:
    return CountingEngine.recognizer(repository)


@pytest.fixture(scope="session")
def triton_server(repository: Path) -> Iterator[TritonServer]:
    """A real Triton on ``repository``. Tests that stop or change it start their own."""
    with TritonServer(repository, exit_seconds=0) as server:
        yield server


@pytest.fixture
def one_cpu() -> Iterator[Sequence[str]]:
    """Beginning of a command that then runs in a new cgroup, below one whose quota is one CPU."""
    if available_cpus() < 2:
        pytest.skip("one CPU is all there is, with a quota or not")
    reasons = []
    for top, limit, quota in (
        ("/sys/fs/cgroup", "cpu.max", "100000 100000"),
        ("/sys/fs/cgroup/cpu", "cpu.cfs_quota_us", "100000"),
    ):
        outer = Path(top) / f"sfavivit-test-{uuid4().hex}"
        inner = outer / "inner"
        try:
            inner.mkdir(parents=True)
            with (outer / limit).open("r+") as file:  # another kind of file system has none
                file.write(quota)
            yield ("sh", "-c", f'echo $$ > {inner}/cgroup.procs && exec "$@"', "sh")
            return
        except OSError as error:
            reasons.append(str(error))
        finally:
            assert eventually(partial(_is_removed, inner), 5) and _is_removed(outer)
    pytest.skip(f"no cgroup with a quota can be made here: {'; '.join(reasons)}")


def _is_removed(group: Path) -> bool:
    with suppress(OSError):  # busy until its last process is gone
        group.rmdir()
    return not group.exists()
