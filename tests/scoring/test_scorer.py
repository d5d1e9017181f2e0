"""Scores of several heads, from videos and from the feature store."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from sfavivit import Recognizer
from sfavivit.datasets import VideoItem
from sfavivit.engines.base import Engine
from sfavivit.engines.model import LoadedModel
from sfavivit.inference.options import ClassifyOptions, Views
from sfavivit.scoring.job_options import ScoreOptions
from sfavivit.types import Features, Frames, Logits
from tests.conftest import random_frames
from tests.scoring.support import BOTH, scored
from tests.video_files import encode


class Counting:
    """An engine that counts the tubelets and windows it is given."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.spatial_calls = 0
        self.windows: dict[str, int] = {}

    def spatial(self, frames: Frames) -> Features:
        self.spatial_calls += 1
        return self._engine.spatial(frames)

    def temporal(self, head: str, features: Features) -> Logits:
        self.windows[head] = self.windows.get(head, 0) + len(features)
        return self._engine.temporal(head, features)


@pytest.fixture
def counting(recognizer: Recognizer) -> Recognizer:
    model = LoadedModel(recognizer.model.catalog, Counting(recognizer.model.engine), chunk_tubelets=3)
    return Recognizer(model)


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> list[VideoItem]:
    folder = tmp_path_factory.mktemp("videos")
    files = [
        encode(folder / f"{k}.mp4", random_frames(30 + 20 * k, seed=k).repeat(4, 1).repeat(4, 2))
        for k in range(3)
    ]
    return [VideoItem(f"v{k}", str(file), {}) for k, file in enumerate(files)]


def test_one_spatial_pass_serves_all_heads(counting: Recognizer, videos: list[VideoItem]) -> None:
    engine = counting.model.engine
    assert isinstance(engine, Counting)
    calls = []
    for heads in (("default",), ("long",), ("default", "long")):
        engine.spatial_calls, engine.windows = 0, {}
        scored(counting, videos, ScoreOptions(ClassifyOptions(heads)))
        calls.append((engine.spatial_calls, engine.windows))
    (one, default), (_, long), (both, windows) = calls
    assert one == both > len(videos)
    assert windows == default | long


@pytest.mark.parametrize("views", [None, Views(2, 3)])
def test_a_second_head_from_the_store_costs_its_temporal_pass_only(
    counting: Recognizer, videos: list[VideoItem], tmp_path: Path, views: Views | None
) -> None:
    engine = counting.model.engine
    assert isinstance(engine, Counting)
    options = ScoreOptions(ClassifyOptions(("long",), views=views))
    expected = scored(counting, videos, options)
    windows = engine.windows["long"]
    store = str(tmp_path / "store")
    scored(counting, videos, ScoreOptions(ClassifyOptions(("default",), views=views), store=store))
    engine.spatial_calls, engine.windows = 0, {}
    assert scored(counting, videos, replace(options, store=store)) == expected
    assert (engine.spatial_calls, engine.windows) == (0, {"long": windows})


def test_damaged_entries_never_change_a_score(
    counting: Recognizer, videos: list[VideoItem], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    engine = counting.model.engine
    assert isinstance(engine, Counting)
    options = replace(BOTH, store=str(tmp_path))
    expected = scored(counting, videos, BOTH)
    scored(counting, videos, options)
    entries = sorted(tmp_path.glob("??/*"))
    assert len(entries) == len(videos)

    def truncate(entry: Path) -> None:
        entry.write_bytes(entry.read_bytes()[:-5])

    def flip(entry: Path) -> None:
        content = bytearray(entry.read_bytes())
        content[-100] ^= 1
        entry.write_bytes(content)

    def foreign(entry: Path) -> None:
        entry.write_text("somebody else's file")

    def of_another_video(entry: Path) -> None:
        shutil.copy(next(other for other in entries if other != entry), entry)

    for damage in (truncate, flip, foreign, of_another_video, Path.unlink):
        damage(entries[1])
        engine.spatial_calls = 0
        caplog.clear()
        assert scored(counting, videos, options) == expected, damage
        assert 0 < engine.spatial_calls < 10  # those of one video
        assert bool(caplog.records) == (damage is not Path.unlink)
        engine.spatial_calls = 0
        assert scored(counting, videos, options) == expected
        assert engine.spatial_calls == 0
