"""Parts of one long video: each decoded from the video's start, or a slice of its stored features."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np

from benchmarks.figures import Figure, Row
from benchmarks.videos import write_video
from sfavivit import Recognizer
from sfavivit.datasets import VideoItem
from sfavivit.features.reader import FeatureReader
from sfavivit.features.store import FeatureStore
from sfavivit.inference.options import ClassifyOptions
from sfavivit.scoring.job_options import ScoreOptions
from sfavivit.scoring.rows import Row as ScoreRow
from sfavivit.scoring.scorer import score_items

Result = TypeVar("Result")
PART_SECONDS = (1.0, 8.0)  # about as long as the actions of EPIC-Kitchens


def measure(repository: Path, folder: Path, seconds: float, parts: int, rounds: int) -> list[Row]:
    """Seconds for all ``parts`` of a video of ``seconds``, in turn, ``rounds`` times; scores are compared.

    Raises:
        AssertionError: a slice gives other scores than the decoded part.
    """
    recognizer = Recognizer.load(repository)
    video = str(write_video(folder / "video.mp4", seconds))
    draw = np.random.default_rng(0)
    starts = draw.uniform(0, seconds - PART_SECONDS[1], parts)
    ends = starts + draw.uniform(*PART_SECONDS, parts)
    items = [
        VideoItem(str(k), video, {}, float(start), float(end))
        for k, (start, end) in enumerate(zip(starts, ends, strict=True))
    ]
    plain = ScoreOptions(ClassifyOptions(recognizer.heads), align_to_tubelets=True)
    decoding, storing, slicing = [], [], []
    for turn in range(rounds):
        store = FeatureStore(folder / f"store {turn}")
        stored = replace(plain, store=str(store.root))
        decoded, seconds_decoding = _timed(partial(_scored, recognizer, items, plain))
        _, seconds_storing = _timed(partial(_fill, recognizer, video, store))
        sliced, seconds_slicing = _timed(partial(_scored, recognizer, items, stored))
        for one, other in zip(decoded, sliced, strict=True):
            np.testing.assert_array_equal(one["logits"], other["logits"])
        decoding.append(seconds_decoding)
        storing.append(seconds_storing)
        slicing.append(seconds_slicing)
    ratios = {
        "times faster": np.divide(decoding, slicing),
        "storing included": np.divide(decoding, np.add(storing, slicing)),
    }
    case = {"video seconds": seconds, "parts": parts}
    return [
        Row({**case, "what": "each part decoded"}, {"time": _seconds(decoding)}),
        Row({**case, "what": "the whole video stored"}, {"time": _seconds(storing)}),
        Row(
            {**case, "what": "each part a slice"},
            {"time": _seconds(slicing)}
            | {name: Figure("x", "higher", tuple(values)) for name, values in ratios.items()},
        ),
    ]


def _seconds(values: list[float]) -> Figure:
    return Figure("s", "lower", tuple(values))


def _timed(work: Callable[[], Result]) -> tuple[Result, float]:
    begin = time.perf_counter()
    result = work()
    return result, time.perf_counter() - begin


def _scored(recognizer: Recognizer, items: list[VideoItem], options: ScoreOptions) -> list[ScoreRow]:
    return [row for rows in score_items(recognizer, items, options) for row in rows]


def _fill(recognizer: Recognizer, video: str, store: FeatureStore) -> None:
    with FeatureReader(recognizer.model, video, store=store) as source:
        for _ in source:
            pass
