"""Terminal views of answers, repositories, scores and feature stores."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime, timedelta
from string import ascii_uppercase
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group, RenderableType
from rich.table import Column, Table
from rich.text import Text

from sfavivit.cli.options import err, out
from sfavivit.errors import SfaVivitError
from sfavivit.inference.results import LabelScore, OutputResult, Recognition, Segment
from sfavivit.repository.manifest import Repository
from sfavivit.utils.text import clock, output_title, printable

if TYPE_CHECKING:
    from sfavivit.features.maintenance import Stats
    from sfavivit.features.store import FeatureStore

BAR_WIDTH = 20
STRIP_MARGIN = 2
PALETTE = (
    "cyan",
    "magenta",
    "yellow",
    "green",
    "blue",
    "red",
    "bright_cyan",
    "bright_magenta",
    "bright_yellow",
)


def recognition_view(answer: Recognition, width: int) -> RenderableType:
    """Return the view of one video: a header, then top labels and timeline of every output."""
    timings = answer.timings
    computed = f"on {timings.device} " if timings.device else ""
    one_line: dict[str, Any] = {"no_wrap": True, "overflow": "ignore"}  # for grep and logs, however long
    views: list[RenderableType] = [
        Text.assemble(
            (printable(answer.video), "bold"),
            f"  {clock(answer.duration_seconds)}, {answer.frames_used} frames, {timings.total_seconds:.2f} s "
            f"{computed}(decode {timings.decode_seconds:.2f}, spatial {timings.spatial_seconds:.2f}, "
            f"temporal {timings.temporal_seconds:.2f})",
            **one_line,
        )
    ]
    if answer.warning:
        views.append(Text(f"warning: {printable(answer.warning)}", "yellow", **one_line))
    for head, outputs in answer.heads.items():
        for output, result in outputs.items():
            title = f"\n{output_title(head, output)}"
            views += [Text(title, "bold underline"), _labels_view(result.labels), Text()]
            views += [_strip(result, answer.duration_seconds, width), _timeline_view(result.timeline)]
    return Group(*views, Text())


def _labels_view(labels: tuple[LabelScore, ...]) -> Table:
    table = Table.grid(padding=(0, 2))
    for score in labels:
        table.add_row("", printable(score.label), _bar(score.confidence), f"{score.confidence:6.1%}")
    return table


def _bar(share: float) -> Text:
    filled = round(share * BAR_WIDTH)
    return Text.assemble(("━" * filled, "cyan"), ("┄" * (BAR_WIDTH - filled), "dim"))


def _marks(timeline: tuple[Segment, ...]) -> dict[str, tuple[str, str]]:
    """Return {label: (letter, style)}, so that a timeline reads without colours too."""
    labels = dict.fromkeys(segment.label for segment in timeline)
    return {
        label: (ascii_uppercase[i % len(ascii_uppercase)], f"bold black on {PALETTE[i % len(PALETTE)]}")
        for i, label in enumerate(labels)
    }


def _strip(result: OutputResult, duration_seconds: float, width: int) -> Text:
    """Return the timeline as one coloured line, time running across the terminal."""
    columns = max(10, width - 2 * STRIP_MARGIN)
    marks = _marks(result.timeline)
    strip = Text(" " * STRIP_MARGIN)
    origin = result.timeline[0].start_seconds if result.timeline else 0.0
    for segment in result.timeline:
        first, last = (
            round((t - origin) / duration_seconds * columns)
            for t in (segment.start_seconds, segment.end_seconds)
        )
        letter, style = marks[segment.label]
        strip.append(letter.ljust(last - first, "─")[: last - first], style)
    return strip


def _timeline_view(timeline: tuple[Segment, ...]) -> Table:
    table, marks = Table.grid(padding=(0, 2)), _marks(timeline)
    for segment in timeline:
        times = Text(f"{clock(segment.start_seconds):>9} – {clock(segment.end_seconds)}")
        letter, style = marks[segment.label]
        label = Text.assemble((f" {letter} ", style), " ", printable(segment.label))
        table.add_row(times, label, f"{segment.confidence:6.1%}")
    return table


def repository_view(repository: Repository, device: str) -> RenderableType:
    """Return the view of a repository's manifest, and of the device that its models run on here."""
    manifest, dims = repository.manifest, repository.manifest.dimensions
    size = sum(entry.bytes for entry in manifest.files.values())
    facts = Table.grid(padding=(0, 2))
    rows = {
        "repository": f"{printable(str(repository.path))} ({len(manifest.files)} files, {size / 1e6:.1f} MB, "
        "digests verified)",
        "spatial": f"{dims.spatial.layers} layers, {dims.spatial.heads} heads, hidden {dims.hidden_size}, "
        f"patch {dims.patch_size}, tubelet {dims.tubelet_frames} frames, {manifest.spatial.precision}",
        "sampling": f"{manifest.sampling.fps:g} fps, shortest side {manifest.sampling.shortest_side}, "
        f"crop {manifest.sampling.crop_size}",
        "timeline": "; ".join(
            f"{name} of windows of {', '.join(map(str, head.decoding.window_tubelets))} tubelets"
            for name, head in manifest.heads.items()
        ),
        "Triton backend": manifest.backend,
        "weights": manifest.spatial.weights_sha256,
        "device": printable(device),
    }
    for name, value in rows.items():
        facts.add_row(Text(name, "bold"), value)
    columns = ("head", "window", "layers", "adapter", "classes", "max error", "cosine")
    fixed = [Column(name, no_wrap=True) for name in columns]
    heads = Table(
        *fixed, box=None, pad_edge=False, title="heads (errors: logits against PyTorch fp32, at export)"
    )
    for name, head in manifest.heads.items():
        d = head.dimensions
        heads.add_row(
            name,
            f"{d.max_frames} ({d.max_frames / manifest.sampling.fps:.2f} s)",
            str(d.temporal.layers),
            str(d.adapter.width) if d.adapter else "none",
            ", ".join(f"{output} {classes}" if output else str(classes) for output, classes in d.outputs),
            f"{head.parity.max_abs_error:.2g}",
            f"{head.parity.min_cosine:.5f}",
        )
    return Group(facts, Text(), heads)


def on_devices(summary: dict[str, Any]) -> str:
    """Return the devices of a job's summary as words, such as `` on cpu``; nothing where none computed."""
    return f" on {', '.join(summary['devices'])}" if summary["devices"] else ""


def print_score_summary(console: Console, summary: dict[str, Any], folder: str) -> None:
    """Print the summary of a scoring job: counts, errors by kind, and accuracies where labels are known."""
    left = summary["videos"] - summary["done_before"] - summary["done_now"]
    time = timedelta(seconds=round(summary["seconds"]))
    console.print(
        Text.assemble(
            (f"{summary['done_now']} videos", "bold"),
            f" in {time}{on_devices(summary)} ({summary['videos_per_second']:.3g} a second)",
            f", {summary['done_before']} were done before" if summary["done_before"] else "",
            f", {left} are left: start again to go on" if left else "",
        )
    )
    if failed := summary["failed"]:
        kinds = ", ".join(f"{kind} {count}" for kind, count in failed.items())
        console.print(Text.assemble((f"{sum(failed.values())} failed: ", "bold red"), kinds))
    console.print(f"rows: {folder}/rows", markup=False, soft_wrap=True)
    if summary["metrics"]:
        console.print(Text(), _metrics_view(summary["metrics"]))


def _metrics_view(metrics: dict[str, Any]) -> RenderableType:
    """Return accuracies by head and output, and labels of the list that a head does not know."""
    table = Table("head", "videos", "top-1", "top-5", "mean of classes", box=None, pad_edge=False)
    notes: list[Text] = []
    for head, evaluation in metrics.items():
        action = {"action": evaluation["action"]} if "action" in evaluation else {}
        for output, counts in (evaluation["outputs"] | action).items():
            name = printable(output_title(head, output))
            shares = (counts.get(key) for key in ("top1", "top5", "mean_per_class"))
            cells = ("" if share is None else f"{share:.1%}" for share in shares)
            table.add_row(Text(name), str(counts["evaluated"]), *cells)
            if unknown := counts.get("unknown"):
                examples = ", ".join(map(repr, [*counts["unknown_labels"]][:3]))
                notes.append(
                    Text(f"{name}: {unknown} videos have labels that it does not know, as {examples}")
                )
    return Group(table, *notes)


def store_view(store: FeatureStore, counted: Stats) -> RenderableType:
    """Return the view of a feature store: entries and sizes by spatial engine, and facts of the whole."""
    table = Table("spatial engine", box=None, pad_edge=False)
    for name in ("entries", "MB", "tubelets", "hours of video"):
        table.add_column(name, justify="right")
    models = {digest[:16]: usage for digest, usage in counted.models.items()}
    for name, usage in {**models, "all": counted.total}.items():
        hours = f"{usage.video_seconds / 3600:.2f}"
        table.add_row(name, str(usage.entries), f"{usage.bytes / 1e6:.1f}", str(usage.tubelets), hours)
    facts = [f"{store.dtype} features of {counted.videos} different videos"]
    if counted.oldest is not None and counted.newest is not None:
        oldest, newest = (
            datetime.fromtimestamp(seconds, UTC).date() for seconds in (counted.oldest, counted.newest)
        )
        facts.append(f"written {oldest} to {newest}")
    if counted.damaged:
        facts.append(f"{counted.damaged} damaged (`sfavivit store verify` says why)")
    facts += [f"{count} {kind} files" for kind, count in counted.others.items()]
    return Group(table, *map(Text, facts))


def show_recognition(answer: Recognition, *, as_json: bool) -> None:
    """Print the answer to one video on standard output, as a line of JSON or as a view."""
    if as_json:
        print(json.dumps(answer.to_json()), flush=True)
    else:
        out.print(recognition_view(answer, terminal_width(out)), crop=False)


def show_failure(video: str, error: SfaVivitError, *, as_json: bool) -> None:
    """Print why a video has no answer, with its name if the message does not hold it."""
    if as_json:
        fields = {"kind": error.kind, "message": str(error)}
        print(json.dumps({"video": video, "error": fields}), flush=True)
    else:
        print_error(err, error if repr(video) in str(error) else f"{video}: {error}")


def terminal_width(console: Console) -> int:
    """Return the columns to use: a very wide terminal does not help a timeline."""
    return min(console.width, 100)


def print_note(console: Console, note: str) -> None:
    """Print a line about something that is no error."""
    console.print(Text.assemble(("note: ", "bold"), printable(note)), soft_wrap=True)


def print_error(console: Console, error: Exception | str) -> None:
    """Print an error as one line, after what has been printed to standard output."""
    sys.stdout.flush()
    console.print(Text.assemble(("error: ", "bold red"), printable(str(error))), soft_wrap=True)
