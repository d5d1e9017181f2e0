"""How answers look in a terminal."""

from __future__ import annotations

from string import ascii_uppercase

from rich.console import Console, Group, RenderableType
from rich.table import Column, Table
from rich.text import Text

from sfavivit.inference.results import LabelScore, OutputResult, Recognition, Segment
from sfavivit.repository.manifest import Repository
from sfavivit.utils.text import printable

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
    """The answer for one video: header, then top labels and timeline of every output."""
    timings = answer.timings
    parts: list[RenderableType] = [
        Text.assemble(
            (printable(answer.video), "bold"),
            f"  {clock(answer.duration_seconds)}, {answer.frames_used} frames, {timings.total_seconds:.2f} s "
            f"(decode {timings.decode_seconds:.2f}, spatial {timings.spatial_seconds:.2f}, "
            f"temporal {timings.temporal_seconds:.2f})",
        )
    ]
    if answer.warning:
        parts.append(Text(f"warning: {printable(answer.warning)}", "yellow"))
    for head, outputs in answer.heads.items():
        for output, result in outputs.items():
            title = f"{head} / {output}" if output else head
            parts += [Text(f"\n{title}", "bold underline"), _labels_view(result.labels), Text()]
            parts += [_strip(result, answer.duration_seconds, width), _timeline_view(result.timeline)]
    return Group(*parts, Text())


def clock(seconds: float) -> str:
    """``m:ss.s``, or ``h:mm:ss.s`` from one hour on."""
    minutes, rest = divmod(round(seconds, 1), 60)
    hours, minutes = divmod(int(minutes), 60)
    return f"{hours}:{minutes:02d}:{rest:04.1f}" if hours else f"{minutes}:{rest:04.1f}"


def _labels_view(labels: tuple[LabelScore, ...]) -> Table:
    table = Table.grid(padding=(0, 2))
    for score in labels:
        table.add_row("", printable(score.label), _bar(score.confidence), f"{score.confidence:6.1%}")
    return table


def _bar(share: float) -> Text:
    filled = round(share * BAR_WIDTH)
    return Text.assemble(("━" * filled, "cyan"), ("┄" * (BAR_WIDTH - filled), "dim"))


def _marks(timeline: tuple[Segment, ...]) -> dict[str, tuple[str, str]]:
    """label -> (letter, style), so that a timeline reads without colours too."""
    labels = dict.fromkeys(segment.label for segment in timeline)
    return {
        label: (ascii_uppercase[i % len(ascii_uppercase)], f"bold black on {PALETTE[i % len(PALETTE)]}")
        for i, label in enumerate(labels)
    }


def _strip(result: OutputResult, duration_seconds: float, width: int) -> Text:
    """The timeline as one coloured line, time running across the terminal."""
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


def repository_view(repository: Repository) -> RenderableType:
    """What ``sfavivit inspect`` shows."""
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
        "Triton backend": manifest.backend,
        "weights": manifest.spatial.weights_sha256,
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


def terminal_width(console: Console) -> int:
    """Columns to use: a very wide terminal is no help to a timeline."""
    return min(console.width, 100)
