"""Actions found in untrimmed videos of the demo model's motions, through MP4 and ``classify`` as shipped."""

from __future__ import annotations

import hashlib
import json
import re
from contextlib import nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from benchmarks.command_options import DEMO_MODEL, Names, Out, check_known
from benchmarks.figures import RESULTS, Case, Figure, Row, report
from examples.motions.untrimmed import DEVELOPMENT_SEED, EVALUATION_SEED, KINDS, draw_untrimmed
from sfavivit import Recognizer
from sfavivit.cli.options import DeviceOption
from sfavivit.errors import UsageError
from sfavivit.evaluation.localisation import (
    ACTIVITYNET_THRESHOLDS,
    OVERLAPS,
    THUMOS_THRESHOLDS,
    Localisation,
    evaluate_localisation,
)
from sfavivit.evaluation.segment_files import OutputChoice, Videos, read_predictions, truth_json
from sfavivit.utils.atomic import atomic_write
from training.progress import work_bar

QUICK_VIDEOS, QUICK_SECONDS = 2, 24.0


def command(
    kinds: Annotated[
        Names, typer.Option("--kind", help=f"Kind of video; repeatable (default: all): {'; '.join(KINDS)}.")
    ] = None,
    videos: Annotated[int, typer.Option(min=1, help="Videos of each kind.")] = 20,
    seconds: Annotated[float, typer.Option(min=1, help="Longest video.")] = 60.0,
    development: Annotated[
        bool,
        typer.Option("--development", help="Use the videos on which settings are chosen, to report nothing."),
    ] = False,
    quick: Annotated[bool, typer.Option("--quick", help="Two short videos of each kind.")] = False,
    folder: Annotated[
        Path | None,
        typer.Option(help="Folder that keeps answers and truth; answers that it has are taken as they are."),
    ] = None,
    repository: Annotated[Path, typer.Option(help="Model repository of the demo model.")] = DEMO_MODEL,
    out: Out = RESULTS,
    device: DeviceOption = "cpu",
) -> None:
    """Measure how well the timelines of untrimmed videos agree with the truth."""
    check_known("kind", kinds, KINDS)
    if quick:
        videos, seconds = QUICK_VIDEOS, QUICK_SECONDS
    recognizer = Recognizer.load(repository, device=device)
    seed = DEVELOPMENT_SEED if development else EVALUATION_SEED
    rows = []
    with nullcontext(folder) if folder else TemporaryDirectory() as kept:
        work = Path(kept)
        _claim(work, recognizer, seed, seconds)
        for kind in kinds or KINDS:
            predictions, truth = _answers(work, kind, recognizer, seed, seconds, videos)
            found = evaluate_localisation(predictions, truth)
            case: Case = {"kind": kind, "videos": videos, "seconds": seconds, "development": development}
            rows.append(Row(case, _figures(found)))
    report("localisation", rows, out)


def _claim(folder: Path, recognizer: Recognizer, seed: int, seconds: float) -> None:
    """Record the model and the videos of the answers in a folder. Raises ``UsageError`` if it has others."""
    digest = hashlib.sha256(recognizer.manifest.to_json().encode()).hexdigest()
    job = json.dumps({"manifest_sha256": digest, "seed": seed, "seconds": seconds})
    folder.mkdir(parents=True, exist_ok=True)
    record = folder / "job.json"
    if record.exists() and record.read_text() != job:
        raise UsageError(
            f"{folder} has answers of {record.read_text()!r:.300}, not {job}; name another --folder"
        )
    atomic_write(record, job.encode())


def _answers(
    folder: Path, kind: str, recognizer: Recognizer, seed: int, seconds: float, videos: int
) -> tuple[Videos, Videos]:
    """Return predictions and truth of a kind, also as files for ``sfavivit evaluate``."""
    stem = re.sub(r"[^\w.-]+", "_", kind)
    lines, truth = folder / f"{stem}.jsonl", {}
    kept = lines.read_text().splitlines(keepends=True) if lines.exists() else []
    with work_bar(kind, videos) as done, TemporaryDirectory() as scratch:
        for index in range(videos):
            video = draw_untrimmed(kind, seed, index, seconds)
            path = Path(scratch) / f"{stem}_{index:04d}.mp4"
            truth[path.name] = video.truth
            if index >= len(kept):
                video.write(path)
                answer = recognizer.classify(path).to_json() | {"video": path.name}
                path.unlink()
                kept.append(json.dumps(answer) + "\n")
                atomic_write(lines, "".join(kept).encode())
            done(index + 1)
    atomic_write(folder / f"{stem}_truth.json", truth_json(truth, "test").encode())
    return read_predictions(lines, OutputChoice()), truth


def _figures(found: Localisation) -> dict[str, Figure]:
    """Return the metrics that the videos have."""
    shares = {f"mAP@{threshold:g}": found.mean_average_precision(threshold) for threshold in (0.3, 0.5, 0.7)}
    shares |= {
        "mAP@0.3:0.7": found.mean_average_precision(*THUMOS_THRESHOLDS),
        "mAP@0.5:0.95": found.mean_average_precision(*ACTIVITYNET_THRESHOLDS),
        **{f"F1@{100 * overlap:g}": share for overlap, share in zip(OVERLAPS, found.f1, strict=True)},
        "edit": found.edit,
        "frame accuracy": found.frame_accuracy,
    }
    figures = {
        name: Figure("share", "higher", (share,)) for name, share in shares.items() if share is not None
    }
    if (share := found.background_as_action) is not None:
        figures["background called an action"] = Figure("share", "lower", (share,))
    return figures
