"""Segments of one long video: each decoded from the video, or a slice of its stored features."""

from __future__ import annotations

from dataclasses import replace
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
from sfavivit.annotations import VideoItem
from sfavivit.feature_store import FeatureStore
from sfavivit.scoring.options import ScoreOptions
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
    with TemporaryDirectory() as folder:
        rows = measure(repository, Path(folder), seconds, count, rounds)
    report("segments", rows, out)


def measure(repository: Path, folder: Path, seconds: float, segments: int, rounds: int) -> list[Row]:
    """Time all ``segments`` of a video of ``seconds`` in both ways, in turn, and compare the scores.

    Raises:
        AssertionError: a slice and the decoded segment have different scores.
    """
    recognizer = Recognizer.load(repository)
    video = str(write_video(folder / "video.mp4", seconds))
    draw = np.random.default_rng(0)
    starts = draw.uniform(0, seconds - SEGMENT_SECONDS[1], segments)
    ends = starts + draw.uniform(*SEGMENT_SECONDS, segments)
    items = [
        VideoItem(str(k), video, {}, float(start), float(end))
        for k, (start, end) in enumerate(zip(starts, ends, strict=True))
    ]
    plain = ScoreOptions(recognizer.heads, snap=True)
    decoding, storing, slicing = [], [], []
    for turn in range(rounds):
        store = FeatureStore(folder / f"store {turn}")
        decoded: list[ScoreRow] = []
        sliced: list[ScoreRow] = []
        stored = replace(plain, store=str(store.root))
        decoding.append(timed(lambda: _score(recognizer, items, plain, decoded)))  # noqa: B023 - called at once
        storing.append(timed(lambda: _fill(recognizer, video, store)))  # noqa: B023
        slicing.append(timed(lambda: _score(recognizer, items, stored, sliced)))  # noqa: B023
        for one, other in zip(decoded, sliced, strict=True):
            np.testing.assert_array_equal(one["logits"], other["logits"])
    both = np.add(storing, slicing).tolist()
    faster = {"times faster": ratios(decoding, slicing), "storing included": ratios(decoding, both)}
    case = {"video seconds": seconds, "segments": segments}
    return [
        Row({**case, "what": "each segment decoded"}, {"time": seconds_figure(*decoding)}),
        Row({**case, "what": "the whole video stored"}, {"time": seconds_figure(*storing)}),
        Row(
            {**case, "what": "each segment a slice"},
            {"time": seconds_figure(*slicing)}
            | {name: Figure("x", "higher", values) for name, values in faster.items()},
        ),
    ]


def _score(
    recognizer: Recognizer, items: list[VideoItem], options: ScoreOptions, rows: list[ScoreRow]
) -> None:
    for of_item in score_items(recognizer, items, options):
        rows += of_item


def _fill(recognizer: Recognizer, video: str, store: FeatureStore) -> None:
    with recognizer.source(video, store=store) as source:
        for _ in source:
            pass
