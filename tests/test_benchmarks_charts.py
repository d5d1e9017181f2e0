"""The page and the charts of results: what they show, and that they agree with the benchmarks on names."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import matplotlib as mpl
import pytest
from matplotlib.figure import Figure as Picture
from PIL import Image
from typer.testing import CliRunner

from benchmarks import capacity, charts, latency, limit, load, memory, peers, training_claims
from benchmarks.__main__ import app
from benchmarks.charts import draw
from benchmarks.figures import Figure, Result, Row, report
from benchmarks.machine import ROOT
from benchmarks.matrix_kernels import Kernel
from benchmarks.peer_process import Facts, Peer, Settings
from benchmarks.queueing import Wait
from benchmarks.tables import page, table
from sfavivit.config import named_dimensions
from sfavivit.errors import UsageError

MACHINE = {"processor": "P|Q", "cores": 2, "commit": "abc1234", "date": "2026-01-02T03:04:05+00:00"}


def result_of(name: str, rows: Sequence[Row]) -> Result:
    return Result(name, f"python -m benchmarks {name}", MACHINE, tuple(rows))


def seconds(*samples: float) -> Figure:
    return Figure("s", "lower", samples)


def test_table() -> None:
    rows = [
        Row(
            {"size": "B", "engine": "a|b", "frames": 8},
            {"time": seconds(1, 2, 4), "n": Figure("n", "neither", (5,))},
        ),
        Row({"size": "B", "engine": "c", "frames": 8}, {"time": seconds(1.5, 1.50001)}),
        Row(
            {"size": "B", "engine": "c", "frames": 16},
            {"time": seconds(12345.6), "n": Figure("n", "neither", (6,))},
        ),
    ]
    assert table(rows).splitlines() == [
        "All rows: size B.",
        "",
        "| engine | frames | time (s) | n |",
        "| --- | --- | ---: | ---: |",
        r"| a\|b | 8 | 2 (1–4) | 5 |",
        "| c | 8 | **1.5** |  |",
        "| c | 16 | 12,346 | 6 |",  # no rival has 16 frames, so none is the best
    ]


def test_best_is_the_highest_where_that_is_better_and_none_where_all_are_equal() -> None:
    def shown(better: str, *values: float) -> str:
        figures = [Figure("x", better, (value,)) for value in values]  # type: ignore[arg-type]
        return table([Row({"engine": str(k)}, {"f": figure}) for k, figure in enumerate(figures)])

    assert "**3**" in shown("higher", 1, 3, 2) and shown("higher", 1, 3, 2).count("**") == 2
    assert "**1**" in shown("lower", 1, 3, 2)
    assert "**" not in shown("neither", 1, 3, 2) + shown("lower", 2, 2) + shown("lower", 2)


def test_figures_of_one_name_in_several_units_say_theirs() -> None:
    rows = [Row({"what": unit}, {"value": Figure(unit, "neither", (3,))}) for unit in ("TB", "machines")]
    assert "| TB | 3 TB |" in table(rows) and "| machines | 3 machines |" in table(rows)


def test_page() -> None:
    rows = [Row({"a": k}, {"time": seconds(k)}) for k in range(1, 21)]
    text = page(
        {"b_2": result_of("b", [*rows, Row({"claim": "c"}, {"holds": seconds(1)})])},
        {"b_2": "b.png"},
    )
    origin = "`python -m benchmarks b` · P\\|Q, 2 cores · commit abc1234 · 2026-01-02"
    assert f"## b_2\n\n{origin} · [file](../benchmarks/results/b_2.json)\n\n![b_2](b.png)\n" in text
    assert "<details><summary>20 rows</summary>\n\n| a | time (s) |" in text
    assert "All rows" not in text and "| claim | holds (s) |\n| --- | ---: |\n| c | 1 |" in text


def test_parts_are_columns_of_their_whole() -> None:
    def row(work: str, stage: str, **figures: float) -> Row:
        return Row({"work": work, "stage": stage}, {name: seconds(value) for name, value in figures.items()})

    rows = [
        row("clip", "decode", p50=1, p90=2),
        row("clip", "total", p50=4, p90=5),
        row("clip", "spatial", p50=3),
        row("cold", "load", p50=6),  # there is no whole of it
    ]
    tables = page({"b": result_of("b", rows)}, {}).partition("b.json)\n\n")[2]
    assert tables.splitlines() == [
        "| work | stage | p50 (s) | p90 (s) | decode p50 (s) | spatial p50 (s) |",
        "| --- | --- | ---: | ---: | ---: | ---: |",
        "| clip | total | 4 | 5 | 1 | 3 |",
        "| cold | load | 6 |  |  |  |",
    ]


def test_rows_with_other_figures_are_of_other_tables() -> None:
    figures = [{"a": seconds(1)}, {"b": seconds(1)}, {"a": seconds(2), "c": seconds(1)}, {"a": seconds(3)}]
    rows = [Row({"what": str(k)}, of_row) for k, of_row in enumerate(figures)]
    text = page({"b": result_of("b", rows)}, {})
    assert "| what | a (s) | c (s) |" in text and "| what | b (s) |" in text and text.count("---:") == 3


def chart_of(result: Result) -> Picture:
    chart = charts.CHARTS.get(result.benchmark, charts.draw_one_figure)
    assert chart
    return chart(result)


def widths(result: Result, panel: int = 0) -> list[float]:
    """Of the bars, from the top down."""
    axis = chart_of(result).axes[panel]
    return [bar.get_width() for bar in axis.patches]  # type: ignore[attr-defined]


def lines_of(result: Result, panel: int = 0) -> dict[str, tuple[list[float], list[float]]]:
    """Label -> where its points are, across and up."""
    axis = chart_of(result).axes[panel]
    handles, labels = axis.get_legend_handles_labels()
    data = [handle.lines[0].get_data() for handle in handles]  # type: ignore[attr-defined]
    return {label: (list(x), list(y)) for label, (x, y) in zip(labels, data, strict=True)}


def test_bars_and_lines_of_a_benchmark_without_a_chart_of_its_own() -> None:
    bars = [
        Row({"what": what}, {"n": Figure("", "neither", (1,)), "time": seconds(1, 2, 9)}) for what in "ab"
    ]
    assert widths(result_of("other", bars)) == [2, 2]
    lines = [
        Row({"way": way, "overlap": overlap}, {"time": seconds(time)})
        for way, times in (("once", (1, 2, 3)), ("again", (1, 4, 8)))
        for overlap, time in zip((0, 0.5, 0.75), times, strict=True)
    ]
    places = [0, 0.5, 0.75]
    assert lines_of(result_of("long", lines)) == {"once": (places, [1, 2, 3]), "again": (places, [1, 4, 8])}


def test_sizes_are_panels() -> None:
    rows = [
        Row(
            {"engine": engine, "size": size, "chunk": chunk},
            {"tubelets": Figure("tubelets/s", "higher", (chunk,))},
        )
        for engine in ("a", "b")
        for size in "BL"
        for chunk in (1, 2, 4)
    ]
    assert lines_of(result_of("gpu", rows), 1) == {"a": ([1, 2, 4], [1, 2, 4]), "b": ([1, 2, 4], [1, 2, 4])}
    assert [axis.get_title("left") for axis in charts.draw_one_figure(result_of("gpu", rows)).axes] == [
        "size B",
        "size L",
    ]


def test_peers() -> None:
    known = {
        Peer("sfavivit", "onnxruntime", "fp32"): [2.0, 2.0],
        Peer("pytorch", "eager", "fp32"): [8.0, 8.0],
        Peer("pytorch", "eager", "bf16"): [],
    }
    facts = {
        peer: Facts(frames=16, logits=None, predicted_seconds=None if s else 32.0)
        for peer, s in known.items()
    }
    settings = Settings("B", 16, 2, 60.0, Path())
    result = result_of("peers", peers.rows(facts, known, settings, 2))
    assert widths(result) == [4, 1, 0.25]
    (axis,) = charts.draw_peers(result).axes
    assert [text.get_text() for text in axis.texts] == [
        "4.00 x   8 frames/s", "1.00 x   2 frames/s", "0.25 x   0.5 frames/s, predicted",
    ]  # fmt: skip


def load_row(loop: str, throughput: float, p99: float, refused: float) -> Row:
    values = dict.fromkeys(load.UNITS, 0.0) | {
        "requests": 50, "throughput": throughput, "latency p50": 10, "latency p99": p99, "refused": refused,
    }  # fmt: skip
    figures = {name: Figure(*load.UNITS[name], (value,)) for name, value in values.items()}
    return Row({"loop": loop, "load": throughput}, figures)


def test_load() -> None:
    result = result_of(
        "load", [load_row("open", 1, 20, 0), load_row("open", 2, 90, 7), load_row("closed", 2, 30, 0)]
    )
    assert lines_of(result)["open loop, p99"] == ([1, 2], [20, 90])
    assert lines_of(result)["closed loop, p50"] == ([2], [10])
    assert [text.get_text() for text in charts.draw_load(result).axes[0].texts] == ["7 of 50 not answered"]


def test_memory() -> None:
    peaks = memory._Peaks([90.0], [130.0], [1.0])
    cases = [("video_seconds", 10), ("video_seconds", 600), ("window_frames", 32)]
    rows = [memory._row({"against": what, "value": value}, peaks, peaks) for what, value in cases]
    assert lines_of(result_of("memory", rows), 0) == {
        "with decoder": ([10, 600], [130, 130]), "process": ([10, 600], [90, 90]),
    }  # fmt: skip
    assert lines_of(result_of("memory", rows), 1)["process"] == ([32], [90])


def test_latency() -> None:
    setting = latency.Setting("onnxruntime", "int8", "B", 32, 8)
    stages = {"decode": [0.1], "spatial": [2.0], "temporal": [0.5], "total": [2.2], "spatial call": [0.3]}
    rounds = latency._Rounds([{}])
    rounds.add("clip", stages, 9.0)
    rounds.add("2 streams", {"queue": [0.1], "spatial": [1.0], "temporal": [0.1], "total": [1.3]}, 9.0)
    result = result_of("latency", latency._rows(setting, rounds))
    assert widths(result, 0) == pytest.approx([100, 2000, 500])
    assert widths(result, 1) == pytest.approx([100, 1000, 100])
    (total,) = charts.draw_latency(result).axes[0].lines
    assert list(total.get_xdata()) == pytest.approx([2200, 2200])  # type: ignore[arg-type]


def test_limit() -> None:
    dims = named_dimensions("tiny", {"": 1})
    case: dict[str, str | int | float | bool] = {"size": "tiny", "chunk tubelets": 8}
    rates = {Kernel("onnxruntime", "fp32", "MatMul", lambda m, k, n: lambda: None): {limit.ALL_LAYERS: [4e9]}}
    engine = limit.engine_row("fp32", [1.0], rates, dims, case)
    shares = (
        ("MatMul", 0.5),
        ("a", 0.2),
        ("b", 0.1),
        ("c", 0.1),
        ("d", 0.05),
        ("e", 0.03),
        ("f", 0.01),
        ("g", 0.01),
    )
    times = [
        Row(
            {"what": "operator", "precision": "fp32", "name": n, **case},
            {"time": Figure("share", "neither", (t,))},
        )
        for n, t in shares
    ]
    result = result_of("limit", [*limit.product_rows(rates, case), engine, *times])
    assert widths(result, 0) == [4, engine.figures["rate"].median]
    assert widths(result, 1) == pytest.approx([0.5, 0.2, 0.1, 0.1, 0.05, 0.03, 0.02])


def test_capacity() -> None:
    waits = [Wait(utilisation, utilisation, 0.1, 3.0) for utilisation in (0.5, 0.9)]
    result = result_of("capacity_site", capacity.rows({}, [], waits, servers=1))
    assert draw(result)
    assert lines_of(replace(result, benchmark="capacity"))["mean"] == ([0.5, 0.9], [0.5, 0.9])


def test_training() -> None:
    rows = [
        Row({"variant": name}, {charts.ACCURACY: Figure("%", "higher", (top1,)), charts.COST: seconds(cost)})
        for name, top1, cost in (("SFA B", 80, 10), ("128 frames", 81, 60))
    ]
    result = result_of("training_table", [*rows, Row({"claim": "SFA B is good"}, {"holds": seconds(1)})])
    (axis,) = charts.draw_training(result).axes
    legend = axis.get_legend()
    assert legend and [text.get_text() for text in legend.get_texts()] == ["SFA B", "128 frames"]
    assert (charts.ACCURACY, charts.COST) == (training_claims.TOP1, training_claims.COST)
    assert [(line.get_xdata()[0], line.get_ydata()[0]) for line in axis.lines[::5]] == [(10, 80), (60, 81)]  # type: ignore[index]
    without_costs = replace(result, rows=(Row({"variant": "SFA B"}, {charts.ACCURACY: seconds(1)}),))
    with pytest.raises(
        UsageError, match=r"the chart of 'training_table' shows 'cost', which a row does not have"
    ):
        draw(without_costs)


def test_no_picture_where_a_table_says_it_better() -> None:
    assert draw(result_of("service_b", [Row({"engine": "a"}, {"time": seconds(1)})])) is None


@pytest.mark.parametrize("rows", [[], [Row({}, {})], [Row({"a": 1}, {"n": Figure("", "neither", (1,))})]])
def test_nothing_to_draw_is_one_line(rows: list[Row]) -> None:
    with pytest.raises(UsageError, match="measure again") as caught:
        draw(result_of("b", rows))
    assert "\n" not in str(caught.value)


def test_charts_are_the_same_bytes_whatever_the_user_has_configured() -> None:
    result = result_of("b", [Row({"what": "$a_1$"}, {"time": seconds(1, 2)})])
    picture = draw(result)
    assert picture
    with mpl.rc_context({"axes.facecolor": "red", "font.size": 30, "savefig.dpi": 20}):
        assert draw(result) == picture
    assert Image.open(io.BytesIO(picture)).width == 1296


PAGE = ROOT / "docs" / "benchmarks.md"


@pytest.mark.skipif(not PAGE.exists(), reason="nothing has been measured")
def test_committed_page_is_that_of_the_committed_results(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["charts", "--out", str(tmp_path)])
    assert done.exit_code == 0, done.exception
    assert PAGE.read_text() == (tmp_path / PAGE.name).read_text(), "run python -m benchmarks charts"
    assert all((PAGE.parent / picture.name).exists() for picture in tmp_path.glob("*.png"))


def test_command(tmp_path: Path) -> None:
    results, docs = tmp_path / "results", tmp_path / "docs"
    docs.mkdir()
    report("b", [Row({"what": "x"}, {"time": seconds(1, 2)})], results, command="python -m benchmarks b")
    report(
        "load", [Row({"what": "x"}, {"time": seconds(1, 2)})], results, command="python -m benchmarks load"
    )
    done = CliRunner().invoke(app, ["charts", "--results", str(results), "--out", str(docs)])
    assert done.exit_code == 0, done.exception
    (no_chart,) = done.stderr.splitlines()
    assert no_chart.startswith("no chart: the chart of 'load' shows 'throughput'")
    assert sorted(path.name for path in docs.iterdir()) == ["benchmark_b.png", "benchmarks.md"]
    text = (docs / "benchmarks.md").read_text()
    assert "![b](benchmark_b.png)" in text and "![load]" not in text and "## load" in text
    (results / "other.json").write_text('{"benchmark": "other", "rows": [{"value": 1}]}')
    other = CliRunner().invoke(app, ["charts", "--results", str(results), "--out", str(docs)])
    assert isinstance(other.exception, UsageError) and "other.json: not a result" in str(other.exception)
    empty = CliRunner().invoke(app, ["charts", "--results", str(docs), "--out", str(docs)])
    assert isinstance(empty.exception, UsageError)
