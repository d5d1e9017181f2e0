"""Segments of one long video: each decoded from the video, or a slice of its stored features.

Both ways must give equal scores.
"""

from __future__ import annotations

import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import numpy as np
import typer

from benchmarks.command_options import DEMO_MODEL, ModelRepository, Out, Rounds
from benchmarks.figures import RESULTS, Figure, Row, report, seconds_figure
from benchmarks.measuring import ratios, timed
from benchmarks.videos import write_video
from sfavivit import Recognizer
from sfavivit.datasets import VideoItem
from sfavivit.features.reader import FeatureReader
from sfavivit.features.store import FeatureStore
from sfavivit.inference.options import ClassifyOptions
from sfavivit.scoring.job_options import ScoreOptions
from sfavivit.scoring.rows import Row as ScoreRow
from sfavivit.scoring.scorer import score_items

SEGMENT_SECONDS = (1.0, 8.0)  # about as long as the actions of EPIC-Kitchens


def command(
    repository: ModelRepository = DEMO_MODEL,
    seconds: Annotated[
        int, typer.Option(min=20, help="Length of the video in seconds, a multiple of 20.")
    ] = 300,
    count: Annotated[
        int, typer.Option("--segments", min=1, help="Number of segments of 1 to 8 seconds, anywhere.")
    ] = 32,
    rounds: Rounds = 3,
    out: Out = RESULTS,
) -> None:
    """Compare decoding segments of a long video with slicing its stored features."""
    recognizer = Recognizer.load(repository)
    plain = ScoreOptions(ClassifyOptions(recognizer.heads), align_to_tubelets=True)
    decoding, storing, slicing = [], [], []
    with TemporaryDirectory() as folder:
        video = str(write_video(Path(folder) / "video.mp4", seconds))
        items = _segments(video, seconds, count)
        for number in range(rounds):
            store = FeatureStore(Path(folder) / f"store {number}")
            decoded, took = _scored(recognizer, items, plain)
            decoding.append(took)
            storing.append(timed(partial(_fill, recognizer, video, store)))
            sliced, took = _scored(recognizer, items, replace(plain, store=str(store.root)))
            slicing.append(took)
            for one, other in zip(decoded, sliced, strict=True):
                np.testing.assert_array_equal(one["logits"], other["logits"])
    both = np.add(storing, slicing).tolist()
    faster = {"times faster": ratios(decoding, slicing), "storing included": ratios(decoding, both)}
    case = {"video seconds": seconds, "segments": count}
    rows = [
        Row({**case, "what": "each segment decoded"}, {"time": seconds_figure(*decoding)}),
        Row({**case, "what": "the whole video stored"}, {"time": seconds_figure(*storing)}),
        Row(
            {**case, "what": "each segment a slice"},
            {"time": seconds_figure(*slicing)}
            | {name: Figure("x", "higher", values) for name, values in faster.items()},
        ),
    ]
    report("segments", rows, out)


def _segments(video: str, seconds: float, count: int) -> list[VideoItem]:
    """Return ``count`` random segments of a video of ``seconds``."""
    draw = np.random.default_rng(0)
    starts = draw.uniform(0, seconds - SEGMENT_SECONDS[1], count)
    ends = starts + draw.uniform(*SEGMENT_SECONDS, count)
    return [
        VideoItem(str(k), video, {}, float(start), float(end))
        for k, (start, end) in enumerate(zip(starts, ends, strict=True))
    ]


def _scored(
    recognizer: Recognizer, items: list[VideoItem], options: ScoreOptions
) -> tuple[list[ScoreRow], float]:
    """Return the rows of all items, and the seconds that scoring took."""
    start = time.perf_counter()
    rows = [row for of_item in score_items(recognizer, items, options) for row in of_item]
    return rows, time.perf_counter() - start


def _fill(recognizer: Recognizer, video: str, store: FeatureStore) -> None:
    with FeatureReader(recognizer.model, video, store=store) as source:
        for _ in source:
            pass
