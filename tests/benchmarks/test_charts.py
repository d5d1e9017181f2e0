"""The page and the charts of results, and their agreement with the names that benchmarks use."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Picture
from PIL import Image

from benchmarks import latency, limit, load, peers
from benchmarks.charts import CHARTS, page, plot
from benchmarks.figures import RESULTS, ROOT, Figure, Result, Row, read_result, report, table
from benchmarks.limit import Kernel
from benchmarks.peer_process import Facts, Peer, Settings
from sfavivit.config import named_dimensions
from sfavivit.errors import UsageError
from tests.benchmarks.support import invoke, refusal

PAGE = ROOT / "docs" / "benchmarks.md"


def result_of(name: str, rows: Sequence[Row]) -> Result:
    return Result(name, f"python -m benchmarks {name}", {}, tuple(rows))


def seconds(*samples: float) -> Figure:
    return Figure("s", "lower", samples)


def test_table() -> None:
    rows = [
        Row(
            {"size": "B", "engine": "a|b", "frames": 8},
            {"time": seconds(1, 2, 4), "n": Figure("n", "neither", (5,))},
        ),
        Row({"size": "B", "engine": "c", "frames": 8}, {"time": seconds(1.5, 1.50001)}),
        Row({"size": "B", "engine": "c", "frames": 16}, {"n": Figure("n", "neither", (12345.6,))}),
    ]
    assert table(rows).splitlines() == [
        "| engine | frames | time (s) | n |",
        "| --- | --- | ---: | ---: |",
        r"| a\|b | 8 | 2 (1–4) | 5 |",
        "| c | 8 | 1.5 |  |",
        "| c | 16 |  | 12,346 |",
    ]
    assert table(rows[:1], ["n", "other"]) == "| n |\n| ---: |\n| 5 |"


def test_page() -> None:
    rows = [Row({"a": k, "b": "x"}, {"time": seconds(k), "n": seconds(1)}) for k in (1, 2)]
    results = {"b_2": result_of("b", [*rows, Row({"a": 3}, {"time": seconds(3)})])}
    assert page("{source b_2}: x", results) == "`python -m benchmarks b` (`b_2.json`): x"
    assert (
        page("{table b_2: time; n | a=2, b=x}", results) == "| time (s) | n (s) |\n| ---: | ---: |\n| 2 | 1 |"
    )
    assert page("{table b_2: n}", results) == "| a | n (s) |\n| --- | ---: |\n| 1 | 1 |\n| 2 | 1 |"
    for wrong, message in (("{table d}", "shows the result 'd'"), ("{table b_2: m}", "has no such rows")):
        with pytest.raises(UsageError, match=message):
            page(wrong, results)


def drawn(name: str, rows: Sequence[Row]) -> Axes:
    axes = Picture().subplots()
    CHARTS[name](axes, rows)
    return axes


def widths(axes: Axes) -> list[float]:
    """Return the lengths of the bars, from the top down."""
    return [bar.get_width() for bar in axes.patches]  # type: ignore[attr-defined]


def lines_of(axes: Axes) -> dict[str, tuple[list[float], list[float]]]:
    """Return label -> places of its points, across and up."""
    handles, labels = axes.get_legend_handles_labels()
    data = [handle.lines[0].get_data() for handle in handles]  # type: ignore[attr-defined]
    return {label: (list(x), list(y)) for label, (x, y) in zip(labels, data, strict=True)}


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
    axes = drawn("peers", peers.rows(facts, known, Settings("B", 16, 2, 60.0, Path()), 2))
    assert widths(axes) == [8, 2, 0.5]
    assert [text.get_text() for text in axes.get_yticklabels()] == [
        "sfavivit onnxruntime, fp32", "pytorch eager, fp32", "pytorch eager, bf16, predicted",
    ]  # fmt: skip


def load_row(loop: str, throughput: float, p99: float) -> Row:
    values = dict.fromkeys(load.UNITS, 0.0) | {
        "throughput": throughput, "latency p50": 10, "latency p99": p99,
    }  # fmt: skip
    return Row({"loop": loop}, {name: Figure(*load.UNITS[name], (value,)) for name, value in values.items()})


def test_load() -> None:
    lines = lines_of(
        drawn("load", [load_row("open", 1, 20), load_row("open", 2, 90), load_row("closed", 2, 30)])
    )
    assert lines["open loop, p99"] == ([1, 2], [20, 90])
    assert lines["closed loop, p50"] == ([2], [10])


def test_latency() -> None:
    rows = []
    for frames, total in ((8, 1.0), (16, 2.2)):
        rounds = latency._Samples()
        rounds.add("clip", {"decode": [0.1], "total": [total]}, 9.0)
        rounds.add("2 streams", {"queue": [0.1], "total": [1.3]}, 9.0)
        rows += latency._rows(latency.Setting("onnxruntime", "int8", "B", frames, 8), rounds)
    places, values = lines_of(drawn("latency_frames", rows))["size B, int8"]
    assert places == [8, 16]
    assert values == pytest.approx([1000, 2200])


def test_limit() -> None:
    dims = named_dimensions("tiny", {"": 1})
    case: dict[str, str | int | float | bool] = {"size": "tiny", "chunk tubelets": 8}
    rates = {Kernel("onnxruntime", "fp32", "MatMul", lambda m, k, n: lambda: None): {limit.ALL_LAYERS: [4e9]}}
    engine = limit.engine_row("fp32", [1.0], rates, dims, case)
    time = Row({"what": "operator", "precision": "fp32", "name": "Gemm", **case}, {"time": seconds(1)})
    axes = drawn("limit", [*limit.product_rows(rates, case), engine, time])
    assert widths(axes) == [4, engine.figures["rate"].median]


def test_a_row_without_what_its_chart_shows() -> None:
    row = Row({"model": "m", "mode": "x", "precision": "fp32"}, {"throughput": seconds(1)})
    with pytest.raises(UsageError, match="the chart of 'peers' shows 'predicted', which a row does not have"):
        plot("peers", result_of("peers", [row]))


def test_charts_are_the_same_bytes_whatever_the_user_has_configured() -> None:
    result = read_result(RESULTS / "load.json")
    picture = plot("load", result)
    with mpl.rc_context({"axes.facecolor": "red", "font.size": 30, "savefig.dpi": 20}):
        assert plot("load", result) == picture
    assert Image.open(io.BytesIO(picture)).width == 900


def test_committed_page_is_that_of_the_committed_results(tmp_path: Path) -> None:
    done = invoke("charts", "--out", tmp_path)
    assert done.exit_code == 0, done.exception
    assert PAGE.read_text() == (tmp_path / PAGE.name).read_text(), "run python -m benchmarks charts"
    written = {picture.name for picture in tmp_path.glob("*.png")}
    assert written == {picture.name for picture in PAGE.parent.glob("benchmark_*.png")}


def test_results_that_cannot_be_shown(tmp_path: Path) -> None:
    report("b", [Row({"what": "x"}, {"time": seconds(1, 2)})], tmp_path, command="python -m benchmarks b")
    missing = refusal("charts", "--results", tmp_path, "--out", tmp_path)
    assert isinstance(missing, UsageError) and "'peers', which does not exist" in str(missing)
    (tmp_path / "other.json").write_text('{"benchmark": "other", "rows": [{"value": 1}]}')
    other = refusal("charts", "--results", tmp_path, "--out", tmp_path)
    assert isinstance(other, UsageError) and "other.json: not a result" in str(other)
    assert not list(tmp_path.glob("*.md"))
