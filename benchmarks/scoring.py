"""What scoring costs: from videos, from the feature store, with a second head, with many views."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from sfavivit import Recognizer
from sfavivit.annotations import VideoItem
from sfavivit.engines.base import Engine, Features, Frames, Logits
from sfavivit.ffmpeg_program import find_ffmpeg
from sfavivit.repository import Repository
from sfavivit.scoring.options import ScoreOptions
from sfavivit.scoring.rows import Row
from sfavivit.scoring.scorer import score_items
from sfavivit.video import VideoReader
from sfavivit.views import CROPS, Views
from sfavivit.windows import SHORT_CLIP, view_windows

CLIP_SECONDS = 10  # as in Kinetics
VIEWS = Views(4, 3)
TOLERANCE = 1e-4


@dataclass(frozen=True)
class ScoringCost:
    """What a video costs, in the mean. ``times``: how many times faster than the first row.

    ``tubelets`` went through the spatial half of the model for it, ``windows`` through the temporal half.
    """

    what: str
    seconds: float
    times: float
    tubelets: int
    windows: int


def measure(repository: Path, folder: Path, videos: int, view_videos: int) -> list[ScoringCost]:
    """The table of costs; ``repository`` has two heads. Scores that must be the same are compared.

    Many views are measured on the first ``view_videos`` of the ``videos`` clips, since they take so long.
    """
    engine = _Counting(Recognizer.load(repository).engine)
    recognizer = Recognizer(Repository.load(repository), engine)
    first, second = recognizer.heads[:2]
    items = [VideoItem(str(k), str(_clip(folder / f"{k}.mp4", k)), {}) for k in range(videos)]
    one, other = ScoreOptions((first,)), ScoreOptions((second,))
    store = str(folder / "store")
    many = ScoreOptions((first,), views=VIEWS, store=str(folder / "views"))
    results: list[ScoringCost] = []

    def scored(what: str, options: ScoreOptions, count: int = videos) -> list[Logits]:
        return timed(what, count, (_logits(rows) for rows in score_items(recognizer, items[:count], options)))

    def timed(what: str, count: int, work: Iterator[Logits]) -> list[Logits]:
        engine.tubelets = engine.windows = 0
        start = time.perf_counter()
        logits = list(work)
        seconds = (time.perf_counter() - start) / count
        times = (results[0].seconds if results else seconds) / seconds
        counts = (engine.tubelets // count, engine.windows // count)
        results.append(ScoringCost(what, round(seconds, 4), round(times, 2), *counts))
        return logits

    list(score_items(recognizer, items[:1], one))  # the first call of an engine is slow
    base = scored("first scoring, the store being filled", replace(one, store=store))
    _expect_same(base, scored("first scoring, no store", one))
    scored("both heads at once, no store", replace(one, heads=(first, second)))
    base_other = scored("second head, from the videos", other)
    _expect_same(base_other, scored("second head, from the store", replace(other, store=store)))
    _expect_same(base, scored("rescoring, from the store", replace(one, store=store)))
    shared = scored(f"{VIEWS} views sharing tubelets, the store being filled", many, view_videos)
    _expect_same(shared, scored(f"{VIEWS} views, from the store", many, view_videos))
    alone = (_unshared_views(recognizer, item, first) for item in items[:view_videos])
    _expect_same(shared, timed(f"{VIEWS} views, each computed on its own", view_videos, alone))
    return results


class _Counting:
    """An engine that counts what goes through it."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.tubelets = 0
        self.windows = 0

    def spatial(self, frames: Frames) -> Features:
        features = self._engine.spatial(frames)
        self.tubelets += features.shape[0] * features.shape[1]
        return features

    def temporal(self, head: str, features: Features) -> Logits:
        self.windows += len(features)
        return self._engine.temporal(head, features)


def _unshared_views(recognizer: Recognizer, item: VideoItem, head: str) -> Logits:
    """The mean of all views, every one from its own frames; the clips of a crop share its decoding."""
    manifest = recognizer.manifest
    entry, tubelet_frames = manifest.head(head), manifest.dimensions.tubelet_frames
    length = entry.dimensions.max_tubelets
    views = []
    for crop in CROPS[VIEWS.crops]:
        with VideoReader(item.video, manifest.sampling, chunk_frames=64, crops=(crop,)) as reader:
            frames = np.concatenate(list(reader))
        for window in view_windows(-(-len(frames) // tubelet_frames), length, VIEWS.clips):
            clip = recognizer.features(frames[window.start * tubelet_frames : window.stop * tubelet_frames])
            if len(clip) < length:
                clip = SHORT_CLIP[entry.short_clip](clip, length)
            views.append(recognizer.logits(clip, head)[""])
    return {"": np.mean(views, axis=0)}


def _logits(rows: list[Row]) -> Logits:
    if "error_kind" in rows[0]:
        raise RuntimeError(rows[0]["error_message"])
    return {row["output"]: row["logits"] for row in rows}


def _expect_same(expected: list[Logits], found: list[Logits]) -> None:
    """Up to rounding: an int8 engine's scales depend on which tubelets share a call."""
    for one, other in zip(expected, found, strict=True):
        np.testing.assert_allclose(one[""], other[""], atol=TOLERANCE)


def _clip(path: Path, number: int) -> Path:
    """Ten seconds of 340x256 video at 25 frames a second, of which no two are alike."""
    picture = f"testsrc2=size=340x256:rate=25:duration={CLIP_SECONDS},hue=h={number * 40}"
    command = [find_ffmpeg().path, "-v", "error", "-y", "-f", "lavfi", "-i", picture]
    options = "-c:v libx264 -preset veryfast -pix_fmt yuv420p"
    subprocess.run([*command, *options.split(), str(path)], check=True)
    return path
