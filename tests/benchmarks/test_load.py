"""``python -m benchmarks load``: what must hold however fast or busy the machine is."""

from __future__ import annotations

import asyncio
import socket
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from threading import Event

import numpy as np
import pytest

from benchmarks import load
from benchmarks.__main__ import app
from benchmarks.figures import Figure, Row, read_result
from benchmarks.load import (
    UNITS,
    Kind,
    Plan,
    Request,
    closed_loop,
    late_rows,
    measure,
    open_loop,
    schedule,
    summary,
)
from sfavivit.errors import ServiceError, UsageError
from sfavivit.protocol.client import AsyncVideoRecognitionClient, VideoRecognitionClient
from tests.commands import run_here
from tests.serving.support import address_of, encode_videos, running_service
from tests.waiting import eventually


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return encode_videos(tmp_path_factory.mktemp("video"), 1)[0]


@pytest.fixture(scope="module")
def address(repository: Path) -> Iterator[str]:
    with running_service(repository) as server:
        yield address_of(server)


def test_requests_of_the_open_loop_do_not_wait_for_answers() -> None:
    """The first answer comes after the last request. A client that waited would never get there."""

    async def run() -> list[Request]:
        sent, stall_over = 0, asyncio.Event()

        async def ask() -> None:
            nonlocal sent
            sent += 1
            if sent == 20:
                stall_over.set()
            await stall_over.wait()

        return await asyncio.wait_for(open_loop(ask, schedule(200, 0.1, "constant")), 20)

    requests = asyncio.run(run())
    last = requests[-1].due
    for number, request in enumerate(requests):
        assert request.due == pytest.approx(requests[0].due + number / 200)
        assert request.due <= request.sent
        assert request.ended - request.due >= last - request.due  # the stall counts from when it was due
    assert summary(requests)["latency max"] == pytest.approx(1000 * (requests[0].ended - requests[0].due))


def test_the_closed_loop_has_as_many_requests_under_way_as_clients() -> None:
    under_way = []

    async def run() -> list[Request]:
        running = 0

        async def ask() -> None:
            nonlocal running
            running += 1
            under_way.append(running)
            await asyncio.sleep(0.001)
            running -= 1

        return await closed_loop(ask, 3, 0.1)

    requests = asyncio.run(run())
    assert len(under_way) == len(requests) == summary(requests)["requests"]
    assert max(under_way) == 3


def test_schedules() -> None:
    assert schedule(4, 1.0, "constant").tolist() == [0, 0.25, 0.5, 0.75]
    random = schedule(50, 400.0, "poisson")
    gaps = np.diff(random)
    # The gaps of a Poisson process are exponential: their deviation is their mean. 20,000 of them: 0.7%.
    assert (len(random), gaps.mean(), gaps.std()) == (
        20_000,
        pytest.approx(1 / 50, rel=0.05),
        pytest.approx(1 / 50, rel=0.05),
    )
    assert (random == schedule(50, 400.0, "poisson")).all()
    assert (random != schedule(50, 400.0, "poisson", seed=1)).any()


def test_answers_refusals_and_failures_are_counted_apart() -> None:
    codes = ["OK", "RESOURCE_EXHAUSTED", "OK", "UNAVAILABLE", "INTERNAL", "DEADLINE_EXCEEDED", "OK"]
    # Due once a second; only the answered ones have a latency: 1, 3 and 7 seconds.
    figures = summary([Request(k, k + 0.25, 2.0 * k + 1, code) for k, code in enumerate(codes)])
    assert figures == {
        "requests": 7,
        "throughput": pytest.approx(3 / 13),
        "latency p50": 3000,
        "latency p90": pytest.approx(6200),
        "latency p99": pytest.approx(6920),
        "latency max": 7000,
        "refused": 1,
        "unavailable": 1,
        "failed": 2,
        "send lag p99": pytest.approx(250),
    }
    assert figures.keys() <= UNITS.keys()


def test_rows_of_a_client_that_was_late_are_void() -> None:
    def row(lag: float) -> Row:
        milliseconds = {"latency p50": 100.0, "send lag p99": lag}
        figures = {name: Figure("ms", "lower", (value,)) for name, value in milliseconds.items()}
        return Row({"loop": "open", "load": lag / 100}, figures)

    assert late_rows([row(1), row(50)]) == ["void: loop open, load 0.5: requests were sent up to 50 ms late"]


def test_refusals_of_a_full_service(repository: Path, video: Path) -> None:
    """Requests to a service whose only slot is taken, through gRPC and both clients."""

    async def requests(address: str) -> list[Request]:
        async with AsyncVideoRecognitionClient(address) as client:
            return await open_loop(lambda: client.classify(video), np.zeros(3))

    with (
        running_service(repository, max_streams=1, max_waiting=0) as server,
        VideoRecognitionClient(address_of(server)) as client,
        ThreadPoolExecutor(1) as pool,
    ):
        content, release = video.read_bytes(), Event()

        def chunks() -> Iterator[bytes]:
            yield content[:5000]
            release.wait(20)
            yield content[5000:]

        holding = pool.submit(lambda: list(client.stream(chunks())))
        assert eventually(lambda: server.servicer.admission.running == 1)
        refused = asyncio.run(requests(address_of(server)))
        release.set()
        holding.result(20)
    assert [request.code for request in refused] == ["RESOURCE_EXHAUSTED"] * 3
    with pytest.raises(ServiceError, match="none of 3 requests was answered: 3 RESOURCE_EXHAUSTED"):
        summary(refused)


def test_a_service_that_is_not_there(video: Path) -> None:
    with socket.socket() as taken:  # bound but not listening: nobody else gets it
        taken.bind(("127.0.0.1", 0))
        with pytest.raises(ServiceError, match="UNAVAILABLE"):
            measure(f"127.0.0.1:{taken.getsockname()[1]}", video.read_bytes(), Plan((1,), (1,)))


@pytest.mark.parametrize("kind", ["upload", "stream"])
def test_rows(address: str, video: Path, kind: Kind) -> None:
    plan = Plan((1, 3), (0.5,), rates=(15,), arrivals="poisson", kind=kind, seconds=0.2, rounds=2)
    rows = measure(address, video.read_bytes(), plan)
    cases = [
        {key: value for key, value in row.case.items() if key not in ("model", "request")} for row in rows
    ]
    assert cases == [
        {"loop": "closed", "clients": 1},
        {"loop": "closed", "clients": 3},
        {"loop": "open", "arrivals": "poisson", "load": 0.5},
        {"loop": "open", "arrivals": "poisson", "rate": 15},
    ]
    assert all(row.case["request"] == kind for row in rows)
    capacity = max(row.figures["throughput"].median for row in rows[:2])
    assert rows[2].figures["offered"].samples == (0.5 * capacity,) * 2
    assert rows[3].figures["requests"].samples == (3, 3)
    for row in rows:
        _check(row)


def _check(row: Row) -> None:
    """Check the relations of the figures of a service with room for everybody."""
    columns = {name: np.array(figure.samples) for name, figure in row.figures.items()}
    assert {len(column) for column in columns.values()} == {2}
    assert not any(columns[name].any() for name in ("refused", "unavailable", "failed"))
    ordered = [columns[f"latency {name}"] for name in ("p50", "p90", "p99", "max")]
    for smaller, larger in pairwise(ordered):
        assert (smaller > 0).all() and (smaller <= larger).all()
    # Nobody waits longer than the run takes.
    assert (columns["latency max"] / 1000 <= columns["requests"] / columns["throughput"] * (1 + 1e-9)).all()


def run(*options: str | Path) -> subprocess.CompletedProcess[str]:
    return run_here(app, "load", *options)


def test_the_command_starts_a_service_and_writes_a_result(repository: Path, tmp_path: Path) -> None:
    quick = ("--clients", 2, "--load", 0.5, "--seconds", 0.2, "--rounds", 1, "--size", "64x64")
    done = run("--repository", repository, "--out", tmp_path, *map(str, quick))
    assert done.returncode == 0, done.stderr
    result = read_result(tmp_path / "load.json")
    assert [row.case["loop"] for row in result.rows] == ["closed", "open"]
    assert result.command.startswith("python -m benchmarks load --repository")


def test_a_service_that_does_not_start_says_why_in_one_line(tmp_path: Path) -> None:
    done = run("--repository", tmp_path)
    assert done.returncode != 0
    assert done.stderr.startswith("error: the service did not start: ") and done.stderr.count("\n") == 1


def test_options_that_cannot_work() -> None:
    with pytest.raises(UsageError, match="192.0.2.1:50051 is another machine; add --elsewhere"):
        load.command(address="192.0.2.1:50051")
    with pytest.raises(UsageError, match="give --clients, or --rate"):
        Plan((), (0.5,))
    with pytest.raises(UsageError, match="clients must be more than 0, got 0"):
        Plan((0,), ())
    with pytest.raises(UsageError, match="seconds must be more than 0, got nan"):
        Plan((1,), (), seconds=float("nan"))
