"""The ``sfavivit evaluate`` command."""

from __future__ import annotations

import json
import math
from collections.abc import Container, Iterable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from sfavivit.cli import options as opt
from sfavivit.errors import AnnotationError, UsageError
from sfavivit.evaluation.localisation import (
    ACTIVITYNET_THRESHOLDS,
    DEFAULT_FRAMES_PER_SECOND,
    OVERLAPS,
    THRESHOLDS,
    THUMOS_THRESHOLDS,
    Localisation,
    VideoSegments,
    evaluate_localisation,
)
from sfavivit.evaluation.segment_files import (
    MatchedVideos,
    OutputChoice,
    Videos,
    match_videos,
    read_predictions,
    read_truth,
    timeline_segments,
)
from sfavivit.utils.text import printable


def evaluate(
    predictions: Annotated[
        Path,
        typer.Argument(
            help="Predicted segments: JSON Lines of `sfavivit classify --json`, ActivityNet JSON, or the "
            "folder of `sfavivit score`."
        ),
    ],
    truth: Annotated[
        Path,
        typer.Argument(
            help="True segments: ActivityNet or THUMOS14 JSON, the folder of THUMOS14's text files, or a "
            "list of videos with a row for each segment."
        ),
    ],
    subset: Annotated[
        str | None, typer.Option(help="Videos of the truth to use, such as validation (default: all).")
    ] = None,
    head: Annotated[str | None, typer.Option(help="Head, where the predictions are of several.")] = None,
    output: Annotated[
        str | None, typer.Option(help="Output of the head, where it has several, such as verb.")
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(help="Minimum score of a prediction in all figures but mAP (default: none)."),
    ] = None,
    frames_per_second: Annotated[
        float, typer.Option(help="Moments of a second for frame accuracy and background.")
    ] = DEFAULT_FRAMES_PER_SECOND,
    per_class: Annotated[bool, typer.Option("--per-class", help="Show the classes, too.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Compare segments found in videos with the true ones: mAP, F1, edit score, frame accuracy."""
    if threshold is not None and not math.isfinite(threshold):
        raise UsageError(f"the threshold must be a finite number, got {threshold}")
    choice = OutputChoice(head, output)
    true = read_truth(truth, subset=subset, output=output)
    if predictions.is_dir():
        found = _read_rows(predictions, choice, true)
    else:
        found = read_predictions(predictions, choice)
    matched = match_videos(found, true)
    figures = evaluate_localisation(
        matched.predictions, true, min_score=threshold, frames_per_second=frames_per_second
    )
    if as_json:
        print(json.dumps({"videos": _video_counts(figures, matched), **figures.to_json()}), flush=True)
        return
    opt.out.print(Text(_headline(figures, matched)), soft_wrap=True)
    for table in [_map_table(figures), _answer_table(figures)]:
        opt.out.print(Text(), table)
    if per_class:
        opt.out.print(Text(), _class_table(figures))


def _read_rows(folder: Path, choice: OutputChoice, names: Container[str]) -> Videos:
    """Read the segments of a scoring job; rows of several segments of a video are put together.

    A video is called by the id of a row where that is one of ``names``, else by its path.
    """
    try:
        from sfavivit.scoring.parquet_parts import part_files, read_part  # noqa: PLC0415 - pyarrow is an extra
    except ModuleNotFoundError as error:
        raise UsageError(f"a folder of scores needs {error.name}: pip install 'sfavivit[score]'") from None
    columns = ["id", "video", "head", "output", "timeline", "duration_seconds"]
    rows = [row for part in part_files(folder) for row in read_part(part, columns).to_pylist()]
    if not rows:
        raise AnnotationError(f"{str(folder)!r} has no rows of `sfavivit score`; name its --out folder")
    chosen = choice.only(((row["head"], row["output"]) for row in rows), repr(str(folder)))
    by_video: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        if (row["head"], row["output"]) == chosen:
            by_video.setdefault(row["video"], []).append(row)
    return {
        next((row["id"] for row in rows if row["id"] in names), video): _of_rows(
            rows, f"{str(folder)!r}: {video!r:.200}"
        )
        for video, rows in by_video.items()
    }


def _of_rows(rows: list[dict[str, Any]], place: str) -> VideoSegments:
    segments = tuple(one for row in rows for one in timeline_segments(row["timeline"] or (), place))
    # The row of a segment has that segment's duration, and times of the whole video.
    ends = [segment.end_seconds for segment in segments]
    duration = max([*ends, *(row["duration_seconds"] or 0 for row in rows)])
    return VideoSegments(segments, duration or None)


def _video_counts(figures: Localisation, matched: MatchedVideos) -> dict[str, int]:
    return {
        "evaluated": figures.videos,
        "only_in_predictions": len(matched.only_predicted),
        "only_in_truth": len(matched.only_true),
    }


def _headline(figures: Localisation, matched: MatchedVideos) -> str:
    """Return the number of videos, and what was left out or has no counterpart."""
    parts = [f"videos: {figures.videos}, classes: {len(figures.classes)}"]
    if names := matched.only_true:
        parts.append(f"{len(names)} without predictions, as {names[0]!r:.80}")
    if names := matched.only_predicted:
        parts.append(f"{len(names)} that the truth lacks are left out, as {names[0]!r:.80}")
    if labels := figures.unknown_labels:
        count = sum(labels.values())
        parts.append(f"{count} predictions have labels that the truth lacks, as {next(iter(labels))!r:.80}")
    return printable("; ".join(parts))


def _map_table(figures: Localisation) -> Table:
    sets = {f"{threshold:g}": (threshold,) for threshold in THUMOS_THRESHOLDS}
    means = {"0.3:0.7": THUMOS_THRESHOLDS, "0.5:0.95": ACTIVITYNET_THRESHOLDS}
    cells = {name: figures.mean_average_precision(*chosen) for name, chosen in (sets | means).items()}
    return _one_row("tIoU", "mAP", cells)


def _answer_table(figures: Localisation) -> Table:
    f1 = {f"F1@{overlap:.0%}"[:-1]: share for overlap, share in zip(OVERLAPS, figures.f1, strict=True)}
    rest = {
        "edit": figures.edit,
        "frame accuracy": figures.frame_accuracy,
        "background called an action": figures.background_as_action,
    }
    return _one_row("", "", f1 | rest)


def _one_row(corner: str, name: str, cells: dict[str, float | None]) -> Table:
    table = Table(corner, box=None, pad_edge=False)
    for column in cells:
        table.add_column(column, justify="right")
    table.add_row(name, *_percent(cells.values()))
    return table


def _class_table(figures: Localisation) -> Table:
    table = Table("class", box=None, pad_edge=False)
    for column in ("true", "predicted", *(f"AP@{threshold:g}" for threshold in THUMOS_THRESHOLDS)):
        table.add_column(column, justify="right")
    for label, found in figures.classes.items():
        shown = (found.average_precision[THRESHOLDS.index(threshold)] for threshold in THUMOS_THRESHOLDS)
        counts = (str(found.true_segments), str(found.predicted_segments))
        table.add_row(Text(printable(label)), *counts, *_percent(shown))
    return table


def _percent(shares: Iterable[float | None]) -> list[str]:
    return ["" if share is None else f"{share:.1%}" for share in shares]
