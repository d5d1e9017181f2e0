"""What scoring costs: from videos, from the feature store, with a second head, with many views."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.figures import Figure, Row
from benchmarks.videos import write_video
from sfavivit import Recognizer
from sfavivit.datasets import VideoItem
from sfavivit.engines.base import Engine
from sfavivit.engines.model import LoadedModel
from sfavivit.inference.options import CROPS, ClassifyOptions, Views
from sfavivit.inference.windows import PADDING, view_windows
from sfavivit.repository.manifest import Repository
from sfavivit.scoring.job_options import ScoreOptions
from sfavivit.scoring.rows import Row as ScoreRow
from sfavivit.scoring.scorer import score_items
from sfavivit.types import Features, Frames, Logits
from sfavivit.video.reader import VideoReader

CLIP_SECONDS = 10  # as in Kinetics
VIEWS = Views(4, 3)
TOLERANCE = 1e-4


def measure(repository: Path, folder: Path, videos: int, view_videos: int) -> list[Row]:
    """What a video costs, in the mean; scores that must be the same are compared.

    ``repository`` has two heads. ``times faster``: than the first row.
    ``tubelets`` went through the spatial half of the model for it, ``windows`` through the temporal half.

    Many views are measured on the first ``view_videos`` of the ``videos`` clips, since they take so long.
    """
    engine = _Counting(Recognizer.load(repository).engine)
    recognizer = Recognizer(LoadedModel(Repository.load(repository), engine))
    first, second = recognizer.heads[:2]
    clips = [
        write_video(folder / f"{k}.mp4", CLIP_SECONDS, look=f"hue=h={40 * k}")  # no two are alike
        for k in range(videos)
    ]
    items = [VideoItem(str(k), str(clip), {}) for k, clip in enumerate(clips)]
    one, other = ScoreOptions(ClassifyOptions((first,))), ScoreOptions(ClassifyOptions((second,)))
    store = str(folder / "store")
    many = ScoreOptions(ClassifyOptions((first,), views=VIEWS), store=str(folder / "views"))
    results: list[Row] = []

    def scored(what: str, options: ScoreOptions, count: int = videos) -> list[Logits]:
        return timed(what, count, (_logits(rows) for rows in score_items(recognizer, items[:count], options)))

    def timed(what: str, count: int, work: Iterator[Logits]) -> list[Logits]:
        engine.tubelets = engine.windows = 0
        start = time.perf_counter()
        logits = list(work)
        seconds = (time.perf_counter() - start) / count
        first_seconds = results[0].figures["time"].median if results else seconds
        figures = {
            "time": Figure("s/video", "lower", (seconds,)),
            "times faster": Figure("x", "higher", (first_seconds / seconds,)),
            "tubelets": Figure("tubelets/video", "lower", (engine.tubelets / count,)),
            "windows": Figure("windows/video", "lower", (engine.windows / count,)),
        }
        results.append(Row({"what": what, "videos": count}, figures))
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
                clip = PADDING[entry.padding](clip, length)
            views.append(recognizer.logits(clip, head)[""])
    return {"": np.mean(views, axis=0)}


def _logits(rows: list[ScoreRow]) -> Logits:
    if "error_kind" in rows[0]:
        raise RuntimeError(rows[0]["error_message"])
    return {row["output"]: row["logits"] for row in rows}


def _expect_same(expected: list[Logits], found: list[Logits]) -> None:
    """Up to rounding: the sums of a call may be added in another order than those of another."""
    for one, other in zip(expected, found, strict=True):
        np.testing.assert_allclose(one[""], other[""], atol=TOLERANCE)
