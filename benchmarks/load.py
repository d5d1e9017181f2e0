"""Load on the video service: latency against throughput, with nothing left out.

In the *open loop* the times at which requests are due are fixed before the first one is sent, whatever the
answers, and latency counts from them. A client that waits for its answer before it sends again leaves out,
when the service stalls, just those requests that would have had to wait: "coordinated omission" (G. Tene,
"How NOT to Measure Latency", 2015). The client shares the machine with the service, so it may itself be
late; ``send lag`` says by how much, and a row in which that is a good part of the latency is void.

In the *closed loop* each of n clients sends when it has its last answer, which gives throughput against
concurrency. The best of these throughputs is the capacity that ``load`` is a share of.

Latency is that of the requests that were answered. Refusals (the service is full) and failures are counted
apart: with them, a percentile of the answered ones alone says little.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Literal

import grpc.aio
import numpy as np
from numpy.typing import NDArray

from benchmarks.figures import Better, Case, Figure, Row
from sfavivit.errors import ServiceError, SfaVivitError, UsageError, codes_of
from sfavivit.protocol.answers import Query, ServiceInfo
from sfavivit.protocol.client import AsyncVideoRecognitionClient

Arrivals = Literal["constant", "poisson"]
Kind = Literal["upload", "stream"]
Ask = Callable[[], Awaitable[object]]

HEAD_START_SECONDS = 0.2  # to set all timers before the first request is due
MOST_LAG_SHARE = 0.2  # of the median latency
MOST_SERVICE_TIMES = 200  # kept in a result, for a simulation to draw from

UNITS: dict[str, tuple[str, Better]] = {
    "requests": ("", "neither"),
    "offered": ("requests/s", "neither"),
    "throughput": ("requests/s", "higher"),
    "latency p50": ("ms", "lower"),
    "latency p90": ("ms", "lower"),
    "latency p99": ("ms", "lower"),
    "latency max": ("ms", "lower"),
    "refused": ("requests", "lower"),
    "unavailable": ("requests", "lower"),
    "failed": ("requests", "lower"),
    "send lag p99": ("ms", "neither"),
}


@dataclass(frozen=True)
class Plan:
    """What to measure, ``rounds`` times, each for ``seconds``.

    ``clients``: of the closed loop. ``loads``: of the open one, shares of the capacity found by the closed
    one; ``rates``: requests a second. ``kind``: a clip uploaded, or its frames streamed. ``timeout_seconds``:
    for one request; beyond, it has failed.

    Raises:
        UsageError: nothing to measure, or shares of a capacity that is not measured.
    """

    clients: Sequence[int]
    loads: Sequence[float]
    rates: Sequence[float] = ()
    arrivals: Arrivals = "constant"
    kind: Kind = "upload"
    seconds: float = 12.0
    rounds: int = 3
    timeout_seconds: float = 120.0

    def __post_init__(self) -> None:
        if self.loads and not self.clients:
            raise UsageError("a load is a share of the closed loop's throughput: give --clients, or --rate")
        for name in ("clients", "loads", "rates"):
            if bad := [value for value in getattr(self, name) if not 0 < value < float("inf")]:
                raise UsageError(f"{name} must be more than 0, got {bad[0]:g}")
        for name in ("seconds", "rounds", "timeout_seconds"):
            if not 0 < getattr(self, name) < float("inf"):
                raise UsageError(f"{name} must be more than 0, got {getattr(self, name):g}")


@dataclass(frozen=True)
class Request:
    """One request: when it was due, sent and over, in seconds of one clock; ``code``: of gRPC."""

    due: float
    sent: float
    ended: float
    code: str


def measure(address: str, clip: bytes, plan: Plan) -> list[Row]:
    """Closed loop, then open loop, on the service at ``address``; ``clip``: the video file to upload.

    The alternatives of each take turns in rounds; the service is idle in between.

    Raises:
        SfaVivitError: the service does not answer a first request, or none of a whole round.
    """
    return asyncio.run(_measure(address, clip, plan))


async def _measure(address: str, clip: bytes, plan: Plan) -> list[Row]:
    async with AsyncVideoRecognitionClient(address, timeout_seconds=plan.timeout_seconds) as client:
        info = await client.list_heads()
        ask = _upload(client, clip) if plan.kind == "upload" else _stream(client, info)
        await ask()
        digest = next(iter(info.model_digests.values()), "")
        case: Case = {"model": f"{info.model} {digest[:8]}".strip(), "request": plan.kind}
        closed, capacity = await _closed_rows(ask, plan, case)
        return closed + await _open_rows(ask, plan, case, capacity)


def _upload(client: AsyncVideoRecognitionClient, clip: bytes) -> Ask:
    return lambda: client.classify(clip)


def _stream(client: AsyncVideoRecognitionClient, info: ServiceInfo) -> Ask:
    """Two seconds of frames, sent as fast as the service takes them."""
    form = info.frame_format
    shape = (round(2 * form.fps), form.height, form.width, 3)
    frames = np.random.default_rng(0).integers(0, 256, shape, np.uint8)

    async def ask() -> None:
        async def chunks() -> AsyncIterator[NDArray[np.uint8]]:
            yield frames

        async for _ in client.stream(chunks(), Query()):
            pass

    return ask


async def _closed_rows(ask: Ask, plan: Plan, case: Case) -> tuple[list[Row], float]:
    """A row for each number of clients, and the best throughput (requests/s, the median of its rounds)."""
    runs: dict[int, list[list[Request]]] = {clients: [] for clients in plan.clients}
    for _ in range(plan.rounds):
        for clients, rounds in runs.items():
            rounds.append(await closed_loop(ask, clients, plan.seconds))
    rows = []
    for clients, rounds in runs.items():
        figures = _figures([summary(requests) for requests in rounds])
        del figures["send lag p99"]  # none: they are due when they are sent
        if clients == 1:
            figures["service time"] = _service_times(chain(*rounds))
        rows.append(Row({**case, "loop": "closed", "clients": clients}, figures))
    return rows, max((row.figures["throughput"].median for row in rows), default=0.0)


async def _open_rows(ask: Ask, plan: Plan, case: Case, capacity: float) -> list[Row]:
    """A row for each load and each rate."""
    settings = [("load", load, load * capacity) for load in plan.loads]
    settings += [("rate", rate, rate) for rate in plan.rates]
    runs: list[list[dict[str, float]]] = [[] for _ in settings]
    for turn in range(plan.rounds):
        for (_, _, rate), rounds in zip(settings, runs, strict=True):
            due = schedule(rate, plan.seconds, plan.arrivals, seed=turn)
            rounds.append({"offered": rate, **summary(await open_loop(ask, due))})
    return [
        Row({**case, "loop": "open", "arrivals": plan.arrivals, name: value}, _figures(rounds))
        for (name, value, _), rounds in zip(settings, runs, strict=True)
    ]


def schedule(rate: float, seconds: float, arrivals: Arrivals, seed: int = 0) -> NDArray[np.float64]:
    """When requests are due, in seconds from the start: ``rate`` a second, evenly or as a Poisson process."""
    count = max(1, round(rate * seconds))
    if arrivals == "constant":
        return np.arange(count) / rate
    return np.random.default_rng(seed).exponential(1 / rate, count).cumsum()


async def open_loop(ask: Ask, due: Iterable[float]) -> list[Request]:
    """Each request when it is ``due``, whatever became of the others."""
    start = asyncio.get_running_loop().time() + HEAD_START_SECONDS
    return await asyncio.gather(*(_request(ask, start + at) for at in due))


async def closed_loop(ask: Ask, clients: int, seconds: float) -> list[Request]:
    """``clients`` that send one request after the other, the last before ``seconds`` are over."""
    clock = asyncio.get_running_loop().time
    end = clock() + seconds

    async def client() -> list[Request]:
        requests = []
        while (now := clock()) < end:
            requests.append(await _request(ask, now))
        return requests

    return [*chain(*await asyncio.gather(*(client() for _ in range(clients))))]


async def _request(ask: Ask, due: float) -> Request:
    clock = asyncio.get_running_loop().time
    await asyncio.sleep(due - clock())
    sent, code = clock(), "OK"
    try:
        await ask()
    except SfaVivitError as error:
        # The client keeps gRPC's own error as the context of the one it raises.
        cause = error.__context__
        code = cause.code().name if isinstance(cause, grpc.aio.AioRpcError) else codes_of(error).grpc_code
    return Request(due, sent, clock(), code)


def summary(requests: Sequence[Request]) -> dict[str, float]:
    """Figures of one round, as in ``UNITS``. Throughput: answers, from the first due to the last answer.

    Raises:
        ServiceError: none was answered.
    """
    codes = Counter(request.code for request in requests)
    answered = [request for request in requests if request.code == "OK"]
    if not answered:
        counts = ", ".join(f"{count} {code}" for code, count in codes.items())
        raise ServiceError(f"none of {len(requests)} requests was answered: {counts}; lower the load")
    milliseconds = 1000 * np.array([request.ended - request.due for request in answered])
    lag = 1000 * np.array([request.sent - request.due for request in requests])
    p50, p90, p99 = np.percentile(milliseconds, (50, 90, 99))
    wall = max(request.ended for request in answered) - min(request.due for request in requests)
    refused, unavailable = codes["RESOURCE_EXHAUSTED"], codes["UNAVAILABLE"]
    return {
        "requests": len(requests),
        "throughput": len(answered) / wall,
        "latency p50": p50,
        "latency p90": p90,
        "latency p99": p99,
        "latency max": milliseconds.max(),
        "refused": refused,
        "unavailable": unavailable,
        "failed": len(requests) - len(answered) - refused - unavailable,
        "send lag p99": np.percentile(lag, 99),
    }


def late_rows(rows: Iterable[Row]) -> list[str]:
    """One line for each row in which the client was late by a good part of the latency."""
    late = []
    for row in rows:
        lag = row.figures.get("send lag p99")
        if lag and lag.median > MOST_LAG_SHARE * row.figures["latency p50"].median:
            settings = ", ".join(f"{name} {value}" for name, value in row.case.items())
            late.append(f"void: {settings}: requests were sent up to {lag} late")
    return late


def _figures(rounds: Sequence[Mapping[str, float]]) -> dict[str, Figure]:
    return {
        name: Figure(*UNITS[name], tuple(float(figures[name]) for figures in rounds)) for name in rounds[0]
    }


def _service_times(requests: Iterable[Request]) -> Figure:
    """What an idle service takes for one request, each a sample: in order, and thinned out evenly."""
    times = sorted(1000 * (request.ended - request.due) for request in requests if request.code == "OK")
    kept = np.quantile(times, np.linspace(0, 1, min(len(times), MOST_SERVICE_TIMES)), method="nearest")
    return Figure("ms", "lower", tuple(kept.tolist()))
