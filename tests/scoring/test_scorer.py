"""Scores of several heads, from videos and from the feature store."""

from __future__ import annotations

import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from sfavivit import Recognizer
from sfavivit.datasets import VideoItem
from sfavivit.engines.model import LoadedModel
from sfavivit.inference.options import ClassifyOptions, Views
from sfavivit.scoring.job_options import ScoreOptions
from sfavivit.types import Features, Logits
from tests.conftest import random_frames
from tests.counting_engine import CountingEngine
from tests.scoring.support import BOTH, scored
from tests.video_files import encode


class Counting(CountingEngine):
    """An engine that also counts the windows that each head is given."""

    windows: Counter[str]

    def temporal(self, head: str, features: Features) -> Logits:
        self.windows[head] += len(features)
        return super().temporal(head, features)

    def reset(self) -> None:
        self.frames, self.windows = [], Counter()


@pytest.fixture
def engine(recognizer: Recognizer) -> Counting:
    engine = Counting(recognizer.model.engine)
    engine.reset()
    return engine


@pytest.fixture
def counting(recognizer: Recognizer, engine: Counting) -> Recognizer:
    return Recognizer(LoadedModel(recognizer.model.catalog, engine, chunk_tubelets=3))


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> list[VideoItem]:
    folder = tmp_path_factory.mktemp("videos")
    files = [
        encode(folder / f"{k}.mp4", random_frames(30 + 20 * k, seed=k).repeat(4, 1).repeat(4, 2))
        for k in range(3)
    ]
    return [VideoItem(f"v{k}", str(file), {}) for k, file in enumerate(files)]


def test_one_spatial_pass_serves_all_heads(
    engine: Counting, counting: Recognizer, videos: list[VideoItem]
) -> None:
    calls = []
    for heads in (("default",), ("long",), ("default", "long")):
        engine.reset()
        scored(counting, videos, ScoreOptions(ClassifyOptions(heads)))
        calls.append((len(engine.frames), engine.windows))
    (one, default), (_, long), (both, windows) = calls
    assert one == both > len(videos)
    assert windows == default | long


@pytest.mark.parametrize("views", [None, Views(2, 3)])
def test_a_second_head_from_the_store_costs_its_temporal_pass_only(
    engine: Counting, counting: Recognizer, videos: list[VideoItem], tmp_path: Path, views: Views | None
) -> None:
    options = ScoreOptions(ClassifyOptions(("long",), views=views))
    expected = scored(counting, videos, options)
    windows = engine.windows["long"]
    store = str(tmp_path / "store")
    scored(counting, videos, ScoreOptions(ClassifyOptions(("default",), views=views), store=store))
    engine.reset()
    assert scored(counting, videos, replace(options, store=store)) == expected
    assert (len(engine.frames), engine.windows) == (0, {"long": windows})


def test_damaged_entries_never_change_a_score(
    engine: Counting,
    counting: Recognizer,
    videos: list[VideoItem],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
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
        engine.reset()
        caplog.clear()
        assert scored(counting, videos, options) == expected, damage
        assert 0 < len(engine.frames) < 10  # those of one video
        assert bool(caplog.records) == (damage is not Path.unlink)
        engine.reset()
        assert scored(counting, videos, options) == expected
        assert len(engine.frames) == 0
