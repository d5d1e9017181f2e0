"""Segments of one long video: each decoded from the video, or a slice of its stored features.

Both ways must give equal scores.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import numpy as np
import typer

from benchmarks.command_options import DEMO_MODEL, ModelRepository, Out, Rounds
from benchmarks.figures import RESULTS, Figure, Row, report, seconds_figure
from benchmarks.measuring import Meter, ratios, run_in_turn
from benchmarks.videos import write_video
from sfavivit import Recognizer
from sfavivit.cli.options import DeviceOption
from sfavivit.datasets import VideoItem
from sfavivit.features.reader import FeatureReader
from sfavivit.features.store import FeatureStore
from sfavivit.inference.options import ClassifyOptions
from sfavivit.scoring.job_options import ScoreOptions
from sfavivit.scoring.rows import Row as ScoreRow
from sfavivit.scoring.scorer import score_items

SEGMENT_SECONDS = (1.0, 8.0)  # about as long as the actions of EPIC-Kitchens
DECODED, STORED, SLICED = "each segment decoded", "the whole video stored", "each segment a slice"


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
    device: DeviceOption = "cpu",
) -> None:
    """Compare decoding segments of a long video with slicing its stored features."""
    recognizer = Recognizer.load(repository, device=device)
    plain = ScoreOptions(ClassifyOptions(recognizer.heads), align_to_tubelets=True)
    meters = {name: Meter() for name in (DECODED, STORED, SLICED)}
    with TemporaryDirectory() as folder:
        video = str(write_video(Path(folder) / "video.mp4", seconds))
        items = _segments(video, seconds, count)
        for number in range(rounds):
            store = FeatureStore(Path(folder) / f"store {number}")
            works = {
                DECODED: partial(_scored, recognizer, items, plain),
                STORED: partial(_fill, recognizer, video, store),
                SLICED: partial(_scored, recognizer, items, replace(plain, store=str(store.root))),
            }
            (rows,) = run_in_turn(works, meters, rounds=1)
            for decoded, sliced in zip(rows[DECODED], rows[SLICED], strict=True):
                np.testing.assert_array_equal(decoded["logits"], sliced["logits"])
    decoding, storing, slicing = (meters[name].wall for name in (DECODED, STORED, SLICED))
    faster = {
        "times faster": Figure("x", "higher", ratios(decoding, slicing)),
        "storing included": Figure("x", "higher", ratios(decoding, np.add(storing, slicing))),
    }
    case = {"video seconds": seconds, "segments": count}
    figures = {name: {"time": seconds_figure(*meter.wall)} for name, meter in meters.items()}
    figures[SLICED] |= faster
    report("segments", [Row({**case, "what": name}, found) for name, found in figures.items()], out)


def _segments(video: str, seconds: float, count: int) -> list[VideoItem]:
    """Return ``count`` random segments of a video of ``seconds``."""
    draw = np.random.default_rng(0)
    starts = draw.uniform(0, seconds - SEGMENT_SECONDS[1], count)
    ends = starts + draw.uniform(*SEGMENT_SECONDS, count)
    return [
        VideoItem(str(k), video, {}, float(start), float(end))
        for k, (start, end) in enumerate(zip(starts, ends, strict=True))
    ]


def _scored(recognizer: Recognizer, items: list[VideoItem], options: ScoreOptions) -> list[ScoreRow]:
    return [row for rows in score_items(recognizer, items, options) for row in rows]


def _fill(recognizer: Recognizer, video: str, store: FeatureStore) -> list[ScoreRow]:
    """Store the features of the whole video; there are no rows yet."""
    with FeatureReader(recognizer.model, video, store=store) as source:
        for _ in source:
            pass
    return []
