"""Mean cost of scoring a video: from the video, from the feature store, with a second head, in many views."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import numpy as np
import typer

from benchmarks.command_options import Out
from benchmarks.figures import RESULTS, Figure, Row, report
from benchmarks.long import recomputed_logits
from benchmarks.measuring import RecordingEngine
from benchmarks.models import random_repository
from benchmarks.videos import read_chunks, write_video
from sfavivit import Recognizer
from sfavivit.cli.options import DeviceOption
from sfavivit.datasets import VideoItem
from sfavivit.engines.device import Device
from sfavivit.engines.model import LoadedModel
from sfavivit.inference.options import CROPS, ClassifyOptions, Views
from sfavivit.inference.windows import view_windows
from sfavivit.repository.manifest import Repository
from sfavivit.scoring.job_options import ScoreOptions
from sfavivit.scoring.rows import Row as ScoreRow
from sfavivit.scoring.scorer import score_items
from sfavivit.types import Logits

CLIP_SECONDS = 10  # as in Kinetics
VIEWS = Views(4, 3)
TOLERANCE = 1e-4


def command(
    repository: Annotated[
        Path | None, typer.Option(help="Model repository with two heads (default: one of size B is made).")
    ] = None,
    videos: Annotated[int, typer.Option(min=1, help="Number of clips of ten seconds.")] = 4,
    view_videos: Annotated[int, typer.Option(min=1, help="Number of them scored in many views.")] = 1,
    out: Out = RESULTS,
    device: DeviceOption = "cpu",
) -> None:
    """Measure scoring from videos, from the feature store, with a second head, in many views."""
    with TemporaryDirectory() as folder:
        models = repository or random_repository(Path(folder) / "models", "B", "int8", heads=2)
        rows = _measure(models, Path(folder), videos, min(view_videos, videos), device)
    report("scoring", rows, out)


def _measure(repository: Path, folder: Path, videos: int, view_videos: int, device: Device) -> list[Row]:
    engine = RecordingEngine(Recognizer.load(repository, device=device).model.engine)
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
    scored("both heads at once, no store", ScoreOptions(ClassifyOptions((first, second))))
    base_other = scored("second head, from the videos", other)
    _expect_same(base_other, scored("second head, from the store", replace(other, store=store)))
    _expect_same(base, scored("rescoring, from the store", replace(one, store=store)))
    shared = scored(f"{VIEWS} views sharing tubelets, the store being filled", many, view_videos)
    _expect_same(shared, scored(f"{VIEWS} views, from the store", many, view_videos))
    alone = (_unshared_views(recognizer, item, first) for item in items[:view_videos])
    _expect_same(shared, timed(f"{VIEWS} views, each computed on its own", view_videos, alone))
    return results


def _unshared_views(recognizer: Recognizer, item: VideoItem, head: str) -> Logits:
    """Return the mean logits of all views, each from its own frames; clips of a crop share its decoding."""
    dims, views = recognizer.manifest.head(head).dimensions, []
    for crop in CROPS[VIEWS.crops]:
        chunks = read_chunks(item.video, recognizer.manifest.sampling, 64, (crop,))
        frames = np.concatenate(list(chunks))
        windows = view_windows(-(-len(frames) // dims.tubelet_frames), dims.max_tubelets, VIEWS.clips)
        views.append(recomputed_logits(recognizer, frames, windows, head))
    return {"": np.concatenate(views).mean(axis=0)}


def _logits(rows: list[ScoreRow]) -> Logits:
    if "error_kind" in rows[0]:
        raise RuntimeError(rows[0]["error_message"])
    return {row["output"]: row["logits"] for row in rows}


def _expect_same(expected: list[Logits], found: list[Logits]) -> None:
    """Assert equality up to rounding, since sums of two calls may be added in different orders."""
    for one, other in zip(expected, found, strict=True):
        np.testing.assert_allclose(one[""], other[""], atol=TOLERANCE)
