"""``python -m benchmarks capacity``: the simulation against queueing theory, the sheet against itself."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from math import ceil, factorial, log
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from benchmarks import capacity, decode_cost
from benchmarks.__main__ import app
from benchmarks.capacity import EngineOn, Input, Line
from benchmarks.commands import capacity as command
from benchmarks.figures import Figure, Row, read_result, report
from benchmarks.queueing import Wait, service_shape, wait_at, waits
from sfavivit.errors import UsageError

REQUESTS = 200_000
NEAR = 0.06  # three standard errors of the mean wait at 70%, by Daley's formula, and of its p99


def exponential(servers: int, utilisation: float) -> Wait:
    rng = np.random.default_rng(1)
    return wait_at(utilisation, rng.exponential(size=REQUESTS), servers, rng)


@pytest.mark.parametrize("utilisation", [0.5, 0.7])
def test_mm1(utilisation: float) -> None:
    """P(W > t) = rho exp(-(1 - rho) t), in service times."""
    wait = exponential(1, utilisation)
    assert wait.mean == pytest.approx(utilisation / (1 - utilisation), rel=NEAR)
    assert wait.p50 == pytest.approx(log(utilisation / 0.5) / (1 - utilisation), rel=NEAR, abs=0.02)
    assert wait.p99 == pytest.approx(log(utilisation / 0.01) / (1 - utilisation), rel=NEAR)


@pytest.mark.parametrize("utilisation", [0.5, 0.7])
def test_md1(utilisation: float) -> None:
    """Pollaczek and Khinchine: half the wait of M/M/1."""
    wait = wait_at(utilisation, np.ones(REQUESTS), 1, np.random.default_rng(1))
    assert wait.mean == pytest.approx(utilisation / (1 - utilisation) / 2, rel=NEAR)


@pytest.mark.parametrize("servers", [2, 8])
def test_mmc(servers: int) -> None:
    """Erlang C: the share that has to wait; of those, the wait is exponential."""
    utilisation = 0.8
    offered = servers * utilisation
    full = offered**servers / factorial(servers) / (1 - utilisation)
    waiting = full / (sum(offered**k / factorial(k) for k in range(servers)) + full)
    wait = exponential(servers, utilisation)
    assert wait.mean == pytest.approx(waiting / (servers - offered), rel=2 * NEAR)
    assert wait.p99 == pytest.approx(log(waiting / 0.01) / (servers - offered), rel=2 * NEAR)


SECONDS = st.floats(0, 10)


@given(st.lists(st.tuples(SECONDS, SECONDS), min_size=1, max_size=50), st.integers(1, 5))
def test_any_line(pairs: list[tuple[float, float]], servers: int) -> None:
    """One server: Lindley's recursion. More of them: nobody waits longer for it, nor with one for each."""
    gaps, services = (np.array(column) for column in zip(*pairs, strict=True))
    arrivals = gaps.cumsum()
    alone = waits(arrivals, services, 1)
    expected = 0.0
    for number, wait in enumerate(alone):
        assert wait == pytest.approx(expected, abs=1e-9)
        if number + 1 < len(gaps):
            expected = max(0.0, expected + services[number] - gaps[number + 1])
    several = waits(arrivals, services, servers)
    assert (several <= alone + 1e-9).all()
    assert not waits(arrivals, services, len(pairs)).any()


def test_shapes_of_service_times() -> None:
    rng = np.random.default_rng(0)
    lengths = service_shape(REQUESTS, rng, length_cv=0.5)
    assert lengths.mean() == pytest.approx(1, rel=0.01)
    assert lengths.std() == pytest.approx(0.5, rel=0.02)
    assert set(service_shape(1000, rng, measured=np.array([2.0, 6.0])).tolist()) == {0.5, 1.5}
    assert (service_shape(10, rng) == 1).all()


SCALING = Path(__file__).parent.parent / "docs" / "scaling.md"

INPUTS = {
    name: Input(value, "", "")
    for name, value in {
        "hours_a_day": 720_000,  # 500 hours a minute
        "peak": 1.5,
        "video_seconds": 300,
        "fps": 12.5,
        "tubelet_frames": 2,
        "frame_bytes": 150_528,
        "tubelet_bytes": 2000,
        "retention_days": 10,
        "tubelets_per_second": 625,
        "decode_cpu_seconds": 0.2,
        "video_mbit": 5,
        "cores": 16,
        "utilisation": 0.75,
    }.items()
}


def lines(engine_on: EngineOn) -> dict[str, Line]:
    machine = capacity.machine_lines(INPUTS, engine_on)
    return {line.name: line for line in (*machine, *capacity.site_lines(INPUTS, machine))}


def test_the_sheet_by_hand() -> None:
    values = {name: line.value for name, line in lines("gpu").items()}
    # 100 s of video in a second of the engine, 80 s in one of the 16 cores: these set the pace.
    assert values["engine_seconds"] == pytest.approx(1 / 100)
    assert values["machine_seconds"] == values["decode_seconds"] == pytest.approx(1 / 80)
    assert values["cores_to_feed_engine"] == pytest.approx(20)
    assert values["mean_video"] == 30_000
    assert values["machines"] == 750  # 45,000 / 80 / 0.75
    assert values["decode_cores"] == pytest.approx(12_000)
    assert values["video_in"] == pytest.approx(225)
    assert values["frames_to_engine"] == pytest.approx(45_000 * 1.88160e6 * 8 / 1e9)
    assert values["features_out"] == pytest.approx(45_000 * 12_500 * 8 / 1e9)
    assert values["features_a_day"] == pytest.approx(32_400)  # 12.5 kB for each of 2,592,000,000 s
    assert values["features_kept"] == pytest.approx(324)
    assert values["features_a_year"] == pytest.approx(11_826)
    assert values["entries_a_day"] == pytest.approx(8_640_000)
    # Of one pool of cores: 1/100 + 1/80 of a second.
    assert lines("cpu")["machines"].value == ceil(45_000 * (1 / 100 + 1 / 80) / 0.75)


@pytest.mark.parametrize("engine_on", ["cpu", "gpu"])
def test_the_numbers_put_in_give_the_result(engine_on: EngineOn) -> None:
    for line in lines(engine_on).values():
        assert eval(line.inserted) == pytest.approx(line.value, rel=2e-3), line
        assert line.inserted in str(line) and line.formula in str(line)


def test_inputs_that_cannot_be() -> None:
    for value in (0, -1, float("nan"), float("inf")):
        with pytest.raises(UsageError, match="peak must be more than 0, got"):
            capacity.machine_lines(INPUTS | {"peak": Input(value, "", "")}, "cpu")
    for servers, requests, length_cv in ((0, 1000, 1), (1, 10, 1), (1, 1000, -1), (1, 1000, float("nan"))):
        with pytest.raises(UsageError, match="a line needs at least 1 server, 1000 requests"):
            capacity.simulate(servers, requests, length_cv=length_cv)


def test_headroom() -> None:
    simulated = capacity.simulate(1, 20_000, length_cv=1.0)
    assert [wait.utilisation for wait in simulated] == list(capacity.UTILISATIONS)
    chosen = capacity.headroom(simulated, 20)
    assert chosen.p99 <= 20
    assert all(wait.p99 > 20 for wait in simulated if wait.utilisation > chosen.utilisation)
    with pytest.raises(UsageError, match=r"at 0\.5 of the machine .* more than 0\.01; raise --most-wait"):
        capacity.headroom(simulated, 0.01)


def test_decoding_measured_through_the_real_decoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode_cost, "PICTURES", {"160x90": 1e5, "1280x720": 2e6})
    small, large = decode_cost.measure(tmp_path, video_seconds=0.8, rounds=2)
    assert (small.case["picture"], large.case["picture"]) == ("160x90", "1280x720")
    for row in (small, large):
        pairs = zip(row.figures["decode CPU"].samples, row.figures["speed"].samples, strict=True)
        for cpu, speed in pairs:  # no more than all cores, for all of the time
            assert 0 < cpu <= 1.1 * len(os.sched_getaffinity(0)) / speed
    assert large.figures["decode CPU"].median > small.figures["decode CPU"].median


def measured_results(folder: Path) -> None:
    """As the other benchmarks write them."""

    def throughput(value: float) -> dict[str, Figure]:
        return {"throughput": Figure("tubelets/s", "higher", (value,))}

    slow, fast = ({"engine": "onnxruntime", "precision": name, "size": "B"} for name in ("fp32", "int8"))
    other: dict[str, str | int | float | bool] = {
        "engine": "onnxruntime",
        "precision": "fp32",
        "size": "tiny",
    }
    rates = [Row({**slow}, throughput(4)), Row({**fast}, throughput(5)), Row(other, throughput(900))]
    report("latency", rates, folder)
    costs = {"decode CPU": Figure("CPU s per video s", "lower", (0.04, 0.05, 0.09))}
    costs["bit rate"] = Figure("Mbit/s", "neither", (1.0,))
    report("decode", [Row({"codec": "h264", "picture": "640x360"}, costs)], folder)
    times = {"service time": Figure("ms", "lower", (80, 100, 120))}
    report("load", [Row({"loop": "closed", "clients": 1}, times)], folder)


def test_the_command_takes_what_was_measured(tmp_path: Path) -> None:
    measured_results(tmp_path)
    line = [sys.executable, "-m", "benchmarks", "capacity", "--out", str(tmp_path), "--requests", "5000"]
    line += ["--cores", "2"]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "tubelets_per_second = 5 tubelets/s (measured: latency, onnxruntime int8)" in done.stdout
    assert "= 1.25 + 0.025 = 1.275 machine s/video s on the same cores" in done.stdout
    assert "(3 measured service times, lognormal lengths of deviation 1)" in done.stdout
    rows = read_result(tmp_path / "capacity.json").rows
    values = {row.case["quantity"]: row.figures["value"].median for row in rows if "value" in row.figures}
    assert values["decode_cpu_seconds"] == 0.05
    assert values["machines"] == ceil(1.5 * 1.275 / values["utilisation"])
    utilisations = [row.case["utilisation"] for row in rows if row.case["quantity"] == "wait"]
    assert utilisations == list(capacity.UTILISATIONS)


def test_assumed_operations(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A rate that nothing measured is called an assumption."""
    measured_results(tmp_path)
    command.capacity(size="L", tera_operations=100, share=0.5, out=tmp_path, requests=5000)
    out = capsys.readouterr().out
    [line] = [line for line in out.splitlines() if line.startswith("tubelets_per_second")]
    # 2 x 24 layers of 12 x 1024^2 multiply-adds for each of 197 tokens, the last one for the CLS token alone:
    # about 120e9, so 420 of them a second; attention and embedding are a few percent.
    assert 380 < float(line.split()[2]) < 440
    assert "(assumed: 0.5 x 100 Tera/s over" in line


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="latency.json: cannot be read"):
        command.capacity(out=tmp_path)
    measured_results(tmp_path)
    with pytest.raises(UsageError, match="no tubelets/s of size L; give --tubelets-per-second"):
        command.capacity(size="L", out=tmp_path)
    with pytest.raises(UsageError, match="no 'decode CPU' of picture 8x8; give the value as an option"):
        command.capacity(picture="8x8", out=tmp_path)


QUOTED = re.findall(
    r"(?m)^    python -m benchmarks (capacity .*(?:\\\n.*)*)\n((?:\n?    .* = .*\n)+)", SCALING.read_text()
)


@pytest.mark.parametrize(("options", "lines"), QUOTED, ids=["machine", "box", "site"])
def test_the_commands_in_the_docs_say_what_the_docs_say(options: str, lines: str, tmp_path: Path) -> None:
    words = shlex.split(options.replace("\\\n", " "))
    done = CliRunner().invoke(app, [*words, "--out", str(tmp_path), "--requests", "50000"])
    assert done.exit_code == 0, done.exception
    said = {line.strip() for line in done.stdout.splitlines()}
    assert not {line.strip() for line in lines.splitlines() if line} - said
