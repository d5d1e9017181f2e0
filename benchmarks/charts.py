"""Results as pictures. ``CHARTS``: benchmarks with a chart of their own, or none; all others share one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import cycle

from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Picture

from benchmarks import drawing
from benchmarks.drawing import LINE_INCHES, QUIET, label_of, plain
from benchmarks.figures import Case, Figure, Result, Row
from benchmarks.tables import number, split_settings
from sfavivit.errors import UsageError
from sfavivit.reports.plot import PALETTE

MAX_ROWS = 200  # to show: a picture must stay one
LEAST_POINTS = 3  # of a line
MOST_OPERATORS = 6
ENGINE, OTHERS = "spatial engine", "others"  # as ``limit`` calls them
ACCURACY, COST = "top-1", "cost"  # as ``training-table`` calls them
# The figure that is shown of a benchmark without a chart of its own, and what it shows.
SHOWN = {
    "cold": ("time", "A fresh process answers a clip of two seconds"),
    "decode": ("decode CPU", "What it costs to decode a second of video"),
    "gpu": ("tubelets", "The spatial engine on a GPU"),
    "long": ("time", "A long video in overlapping windows"),
    "pipeline": ("ratio", "Classifying against the larger of decoding alone and inference alone"),
    "outliers": ("feature error", "int8 features of a model with outlier channels"),
    "precision": ("same top-1", "Videos with the same answer as in fp32"),
    "scoring": ("time", "Scoring a clip of ten seconds"),
    "triton_transport": ("throughput", "Ways of frames to Triton"),
}


def draw(result: Result) -> bytes | None:
    """A PNG, the same bytes for the same result; None where a table says it better.

    Raises:
        UsageError: the result lacks a setting or a figure that its chart shows.
    """
    if not result.rows:
        raise UsageError(f"the result of {result.benchmark!r} has no rows to draw; measure again")
    names = (name for name in CHARTS if f"{result.benchmark}_".startswith(f"{name}_"))
    chart = CHARTS.get(next(names, ""), draw_one_figure)
    if chart is None:
        return None
    with style.context("default"):  # whatever the user has configured
        try:
            return drawing.png(chart(result))
        except KeyError as error:
            raise UsageError(
                f"the chart of {result.benchmark!r} shows {error}, which a row does not have; measure again"
            ) from error


def draw_one_figure(result: Result) -> Picture:
    """A figure against the setting that is a number, where there is one such, else as bars; by size.

    Of a benchmark that is not in ``SHOWN`` it is the first figure that has a better direction.
    """
    first = next((name for name, figure in result.rows[0].figures.items() if figure.better != "neither"), "")
    name, title = SHOWN.get(result.benchmark, (first, f"{result.benchmark}: {first}"))
    rows = [row for row in result.rows if name in row.figures][:MAX_ROWS]
    if not rows:
        raise KeyError(name or "a figure that can be better")
    shared, settings = split_settings([row.case for row in rows])
    sizes = _distinct(rows, "size") if "size" in settings else [""]
    groups = [[row for row in rows if not size or str(row.case["size"]) == size] for size in sizes]
    settings = [setting for setting in settings if setting != "size"]
    scales = [setting for setting in settings if _is_scale(rows, setting)]
    heights = [LINE_INCHES if len(scales) == 1 else drawing.bars_inches(len(group)) for group in groups]
    picture, grid = drawing.new_picture(", ".join([title, *_values(shared, shared)]), heights)
    for [axis], group, size in zip(grid, groups, sizes, strict=True):
        axis.set_title(plain(f"size {size}" if size else ""), loc="left", fontsize=10)
        if len(scales) == 1:
            _lines(axis, group, settings, scales[0], name)
        else:
            _bars(axis, group, settings, name)
    return picture


def draw_peers(result: Result) -> Picture:
    """Frames a second as a multiple of those of plain PyTorch, or of the slowest where that was not run."""
    rows = sorted(result.rows, key=lambda row: -row.figures["throughput"].median)
    usual = {"model": "pytorch", "mode": "eager", "precision": "fp32"}
    base = next((row for row in rows if usual.items() <= row.case.items()), rows[-1])
    labels = [", ".join(_values(row.case, ["model", "mode", "precision"])) for row in rows]
    ratios, notes = [], []
    for row in rows:
        rate = row.figures["throughput"]
        ratio = Figure("x", "higher", tuple(one / base.figures["throughput"].median for one in rate.samples))
        predicted = ", predicted" if row.case.get("predicted") else ""
        ratios.append(ratio)
        notes.append(f"{ratio.median:.2f} x   {number(rate.median)} {rate.unit}{predicted}")
    colours = [PALETTE[0] if row.case["model"] == "sfavivit" else QUIET for row in rows]
    title = f"Speed against what one would use instead, size {base.case['size']}"
    picture, [[axis]] = drawing.new_picture(title, [drawing.bars_inches(len(rows))])
    drawing.bars(axis, labels, ratios, colours, notes)
    axis.set_xlabel(plain(f"frames a second, as a multiple of those of {labels[rows.index(base)]}"))
    return picture


def draw_load(result: Result) -> Picture:
    """Latency of the requests that were answered against their throughput, in each loop; and how many not."""
    series: dict[str, list[tuple[float, Figure]]] = {}
    picture, [[axis]] = drawing.new_picture("The video service: latency against throughput", [LINE_INCHES])
    for row in result.rows:
        throughput = row.figures["throughput"].median
        for name in ("latency p99", "latency p50"):
            label = f"{row.case['loop']} loop, {name.removeprefix('latency ')}"
            series.setdefault(label, []).append((throughput, row.figures[name]))
        if unanswered := sum(row.figures[name].median for name in ("refused", "unavailable", "failed")):
            text = f"{number(unanswered)} of {number(row.figures['requests'].median)} not answered"
            drawing.note(axis, (throughput, row.figures["latency p99"].median), text, "left")
    drawing.lines(axis, dict(sorted(series.items(), reverse=True)))
    drawing.log_scale(axis, "y")
    axis.set_xlim(left=0)
    figures = result.rows[0].figures
    axis.set_xlabel(label_of("throughput", figures["throughput"].unit))
    axis.set_ylabel(label_of("latency", figures["latency p50"].unit))
    return picture


def draw_memory(result: Result) -> Picture:
    """Peak memory against each of the things that it could grow with."""
    kinds = _distinct(result.rows, "against")
    picture, [axes] = drawing.new_picture("Peak memory of classifying a video", [LINE_INCHES], len(kinds))
    for axis, kind in zip(axes, kinds, strict=True):
        rows = [row for row in result.rows if row.case["against"] == kind]
        series = _series(rows, "value", ("with decoder", "process"))
        drawing.lines(axis, series)
        drawing.log_scale(axis, "x", [place for place, _ in series["process"]])
        axis.set_ylim(bottom=0)
        axis.set_xlabel(plain(kind.replace("_", " ")))
        axis.set_ylabel(label_of("peak", rows[0].figures["process"].unit))
    return picture


def draw_capacity(result: Result) -> Picture:
    """The wait for a server against how busy the servers are."""
    rows = [row for row in result.rows if row.case["quantity"] == "wait"]
    picture, [[axis]] = drawing.new_picture("Waiting for a busy service (simulated)", [LINE_INCHES])
    drawing.lines(axis, _series(rows, "utilisation", ("p99", "mean", "p50")))
    axis.set_ylim(bottom=0)
    axis.set(xlabel="utilisation", ylabel=label_of("wait", rows[0].figures["p99"].unit if rows else ""))
    return picture


def draw_limit(result: Result) -> Picture:
    """Rates of matrix products and of the engines at each precision; below, where the engines' time goes."""
    rows = [row for row in result.rows if row.case["what"] in ("matrix product", ENGINE)]
    rows.sort(key=lambda row: (str(row.case["precision"]), row.case["what"] == ENGINE))
    rates = [row.figures["rate" if row.case["what"] == ENGINE else "all layers"] for row in rows]
    labels, notes = [], []
    for row, rate in zip(rows, rates, strict=True):
        name = "our spatial engine" if row.case["what"] == ENGINE else row.case["name"]
        labels.append(f"{row.case['precision']}, {name}")
        share = (
            f", {row.figures['of the ceiling'].median:.0%} of the best" if row.case["what"] == ENGINE else ""
        )
        notes.append(f"{number(rate.median)}{share}")
    times = _operator_times([row for row in result.rows if row.case["what"] == "operator"])
    heights = [drawing.bars_inches(len(rows)), drawing.bars_inches(len(times))]
    title = f"How much of the machine the spatial engine uses, size {rows[0].case['size']}"
    picture, [[axis], [below]] = drawing.new_picture(title, heights)
    colours = [PALETTE[0] if row.case["what"] == ENGINE else QUIET for row in rows]
    drawing.bars(axis, labels, rates, colours, notes)
    axis.set_xlabel(label_of("matrix operations", rates[0].unit))
    names = list(dict.fromkeys(name for shares in times.values() for name in shares))
    parts = {name: [shares.get(name, 0.0) for shares in times.values()] for name in names}
    shades = dict(zip(names, (*PALETTE, *PALETTE), strict=False)) | {OTHERS: QUIET}
    drawing.stacked_bars(below, list(times), parts, shades)
    below.set_xlabel("share of the engine's time")
    drawing.legend_below(picture, {name: shades[name] for name in names})
    return picture


def draw_training(result: Result) -> Picture:
    """Accuracy against what it cost to train, of each variant."""
    picture, [[axis]] = drawing.new_picture("Ways to train: accuracy against cost", [LINE_INCHES])
    rows = [row for row in result.rows if "variant" in row.case]
    for row, colour in zip(rows, cycle(PALETTE), strict=False):
        name = str(row.case["variant"])
        marker = "s" if name.startswith("SFA") else "o"
        drawing.point(axis, row.figures[COST], row.figures[ACCURACY], colour, marker, name)
    axis.set_xlim(left=0)
    axis.legend(loc="lower right", frameon=False)
    axis.set_xlabel(label_of(f"training {COST}", rows[0].figures[COST].unit if rows else ""))
    axis.set_ylabel(label_of(ACCURACY, rows[0].figures[ACCURACY].unit if rows else ""))
    return picture


def draw_latency(result: Result) -> Picture:
    """Medians of the stages, one after the other, for each work (down) and size (across)."""
    works, sizes, stages = (_distinct(result.rows, name) for name in ("work", "size", "stage"))
    stages = [stage for stage in stages if stage not in ("total", "spatial call")]
    colours = dict(zip(stages, PALETTE, strict=False))
    rows = {
        (work, size): [row for row in result.rows if (row.case["work"], row.case["size"]) == (work, size)]
        for work in works
        for size in sizes
    }
    heights = [
        drawing.bars_inches(
            max(sum(row.case["stage"] == "total" for row in rows[work, size]) for size in sizes)
        )
        for work in works
    ]
    title = "Latency by stage: medians; the line is the total"
    picture, grid = drawing.new_picture(title, heights, len(sizes))
    for axes, work in zip(grid, works, strict=True):
        for axis, size in zip(axes, sizes, strict=True):
            _stages(axis, rows[work, size], colours)
            axis.set_title(plain(f"{work}, size {size}"), loc="left", fontsize=10)
    drawing.legend_below(picture, colours)
    return picture


CHARTS: dict[str, Callable[[Result], Picture] | None] = {
    "capacity": draw_capacity,
    "fuzz": None,
    "latency": draw_latency,
    "limit": draw_limit,
    "load": draw_load,
    "memory": draw_memory,
    "new_head": None,
    "peers": draw_peers,
    "resume": None,
    "selection": None,
    "service": None,
    "training_table": draw_training,
}


def _operator_times(rows: Sequence[Row]) -> dict[str, dict[str, float]]:
    """Precision -> operator -> share of the time; the smallest as one."""
    times: dict[str, dict[str, float]] = {}
    for row in rows:
        shares = times.setdefault(str(row.case["precision"]), {})
        name = str(row.case["name"]) if len(shares) < MOST_OPERATORS else OTHERS
        shares[name] = shares.get(name, 0.0) + row.figures["time"].median
    return times


def _stages(axis: Axes, rows: Sequence[Row], colours: dict[str, str]) -> None:
    """A bar for each setting that these rows are of."""
    _, settings = split_settings([row.case for row in rows])
    settings.remove("stage")
    medians: dict[str, dict[str, float]] = {}
    for row in rows:
        label = ", ".join(_values(row.case, settings))
        medians.setdefault(label, {})[str(row.case["stage"])] = row.figures["p50"].median
    stages = [stage for stage in _distinct(rows, "stage") if stage in colours]
    parts = {stage: [bar.get(stage, 0.0) for bar in medians.values()] for stage in stages}
    totals = [bar["total"] for bar in medians.values()]
    drawing.stacked_bars(axis, list(medians), parts, colours)
    drawing.marks(axis, totals)
    axis.set_xlabel(rows[0].figures["p50"].unit if rows else "")


def _bars(axis: Axes, rows: Sequence[Row], settings: Sequence[str], name: str) -> None:
    figures = [row.figures[name] for row in rows]
    labels = [", ".join(_values(row.case, settings)) for row in rows]
    notes = [number(figure.median) for figure in figures]
    drawing.bars(axis, labels, figures, [PALETTE[0]] * len(rows), notes)
    axis.set_xlabel(label_of(name, figures[0].unit))


def _lines(axis: Axes, rows: Sequence[Row], settings: Sequence[str], scale: str, name: str) -> None:
    series: dict[str, list[tuple[float, Figure]]] = {}
    for row in rows:
        label = ", ".join(_values(row.case, [setting for setting in settings if setting != scale]))
        series.setdefault(label, []).append((float(row.case[scale]), row.figures[name]))
    drawing.lines(axis, series)
    axis.set_ylim(bottom=0)
    axis.set(xlabel=plain(scale.replace("_", " ")), ylabel=label_of(name, rows[0].figures[name].unit))


def _is_scale(rows: Sequence[Row], setting: str) -> bool:
    """Whether every row has a number there, and there are enough different ones for a line."""
    values = [row.case.get(setting) for row in rows]
    numeric = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    return numeric and len(set(values)) >= LEAST_POINTS


def _distinct(rows: Sequence[Row], setting: str) -> list[str]:
    return list(dict.fromkeys(str(row.case[setting]) for row in rows))


def _series(rows: Sequence[Row], setting: str, names: Sequence[str]) -> dict[str, list[tuple[float, Figure]]]:
    """Figures against a setting that is a number."""
    return {name: [(float(row.case[setting]), row.figures[name]) for row in rows] for name in names}


def _values(case: Case, settings: Sequence[str] | Case) -> list[str]:
    """What is set, numbers with their names: ``int8``, ``32 frames``, ``chunk 8``."""
    texts = []
    for name in settings:
        value = case.get(name, "")
        words = [str(value), name] if name.endswith("s") else [name, str(value)]
        texts.append(value if isinstance(value, str) else " ".join(words).replace("_", " "))
    return [text for text in texts if text]
