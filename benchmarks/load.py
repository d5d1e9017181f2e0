"""Load test of the video service: latency against throughput, free of coordinated omission.

docs/benchmarks.md has the method.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Literal

import grpc.aio
import numpy as np
import typer
from numpy.typing import NDArray

from benchmarks.command_options import DEMO_MODEL, Floats, Ints, ModelRepository, Name, Out, Rounds
from benchmarks.figures import RESULTS, Better, Case, Figure, Row, report
from benchmarks.service_process import service_process
from benchmarks.videos import random_frames, write_video
from serving.settings import is_loopback
from sfavivit.cli.options import DeviceOption
from sfavivit.errors import ServiceError, SfaVivitError, UsageError, codes_of
from sfavivit.protocol.answers import Query, ServiceInfo
from sfavivit.protocol.client import AsyncVideoRecognitionClient

Arrivals = Literal["constant", "poisson"]
Kind = Literal["upload", "stream"]
Ask = Callable[[], Awaitable[object]]
Work = tuple[Case, Callable[[int], Awaitable[dict[str, float]]]]
"""Case of a row, and a function from the number of a round to the figures that it measures."""

CLIENTS = (1, 2, 4, 8, 16)
LOADS = (0.5, 0.7, 0.9, 1.1, 2.0)
CLIP_SECONDS = 2.0
TIMEOUT_SECONDS = 120.0  # after which a request has failed
HEAD_START_SECONDS = 0.2  # to set all timers before the first request is due
MAX_LAG_SHARE = 0.2  # of the median latency

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


def command(
    clients: Annotated[
        Ints, typer.Option(help="Clients of the closed loop; repeatable (default: 1, 2, 4, 8, 16).")
    ] = None,
    load: Annotated[
        Floats,
        typer.Option(
            help="Rate of the open loop as a share of the closed loop's best throughput; repeatable "
            "(default: 0.5, 0.7, 0.9, 1.1, 2, unless --rate is given)."
        ),
    ] = None,
    rate: Annotated[
        Floats, typer.Option(help="Rate of the open loop in requests a second; repeatable.")
    ] = None,
    arrivals: Annotated[
        Arrivals, typer.Option(help="Arrivals of the open loop: evenly spaced, or a Poisson process.")
    ] = "constant",
    request: Annotated[
        Kind,
        typer.Option(help="Kind of request: 2 s of video as an uploaded file, or as a stream of frames."),
    ] = "upload",
    size: Annotated[str, typer.Option(help="WIDTHxHEIGHT of the uploaded video.")] = "640x360",
    seconds: Annotated[float, typer.Option(help="Length of each round in seconds.")] = 12.0,
    rounds: Rounds = 3,
    repository: ModelRepository = DEMO_MODEL,
    address: Annotated[
        str | None, typer.Option(help="HOST:PORT of a running service (default: one is started).")
    ] = None,
    elsewhere: Annotated[
        bool, typer.Option("--elsewhere", help="Allow an --address of another machine.")
    ] = False,
    name: Name = "load",
    out: Out = RESULTS,
    device: DeviceOption = "cpu",
) -> None:
    """Measure the latency of the video service against the rate of requests."""
    if address and not elsewhere and not is_loopback(address.rpartition(":")[0]):
        raise UsageError(f"{address} is another machine; add --elsewhere if it is yours to put under load")
    plan = Plan(
        clients=clients or CLIENTS,
        loads=load or (() if rate else LOADS),
        rates=rate or (),
        arrivals=arrivals,
        kind=request,
        seconds=seconds,
        rounds=rounds,
    )
    with TemporaryDirectory() as folder, ExitStack() as stack:
        clip = write_video(Path(folder) / "clip.mp4", CLIP_SECONDS, size).read_bytes()
        if not address:
            address = stack.enter_context(
                service_process("--repository", repository, "--device", device)
            ).address
        rows = measure(address, clip, plan)
    report(name, rows, out)
    for line in late_rows(rows):
        typer.echo(line, err=True)


@dataclass(frozen=True)
class Plan:
    """Settings of a load test: ``rounds`` of ``seconds`` for each of its loads.

    ``clients``: numbers of clients of the closed loop. ``loads``: rates of the open loop as shares of the
    capacity that the closed loop finds; ``rates``: in requests a second. ``kind``: a clip uploaded, or its
    frames streamed.

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

    def __post_init__(self) -> None:
        if self.loads and not self.clients:
            raise UsageError("a load is a share of the closed loop's throughput: give --clients, or --rate")
        for name in ("clients", "loads", "rates"):
            if bad := [value for value in getattr(self, name) if not 0 < value < float("inf")]:
                raise UsageError(f"{name} must be more than 0, got {bad[0]:g}")
        for name in ("seconds", "rounds"):
            if not 0 < getattr(self, name) < float("inf"):
                raise UsageError(f"{name} must be more than 0, got {getattr(self, name):g}")


@dataclass(frozen=True)
class Request:
    """Times in seconds at which a request was due, sent and ended, and its gRPC status code."""

    due: float
    sent: float
    ended: float
    code: str


def measure(address: str, clip: bytes, plan: Plan) -> list[Row]:
    """Run the closed loop, then the open loop, on the service at ``address``.

    ``clip``: content of the video file to upload. The alternatives of each loop alternate in rounds.

    Raises:
        SfaVivitError: the service does not answer a first request, or none of a whole round.
    """
    return asyncio.run(_measure(address, clip, plan))


async def _measure(address: str, clip: bytes, plan: Plan) -> list[Row]:
    async with AsyncVideoRecognitionClient(address, timeout_seconds=TIMEOUT_SECONDS) as client:
        info = await client.list_heads()
        ask = partial(client.classify, clip) if plan.kind == "upload" else _stream(client, info)
        await ask()
        digest = next(iter(info.model_digests.values()), "")
        case: Case = {"model": f"{info.model} {digest[:8]}".strip(), "request": plan.kind}
        closed = await _rows(_closed_works(ask, plan, case), plan.rounds)
        capacity = max((row.figures["throughput"].median for row in closed), default=0.0)
        return closed + await _rows(_open_works(ask, plan, case, capacity), plan.rounds)


def _stream(client: AsyncVideoRecognitionClient, info: ServiceInfo) -> Ask:
    """Return a request of two seconds of frames, sent as fast as the service takes them."""
    form = info.frame_format
    frames = random_frames(round(CLIP_SECONDS * form.fps), form.height)

    async def ask() -> None:
        async def chunks() -> AsyncIterator[NDArray[np.uint8]]:
            yield frames

        async for _ in client.stream(chunks(), Query()):
            pass

    return ask


def _closed_works(ask: Ask, plan: Plan, case: Case) -> list[Work]:
    """Return the work of each number of clients."""

    async def work(clients: int, turn: int) -> dict[str, float]:
        figures = summary(await closed_loop(ask, clients, plan.seconds))
        del figures["send lag p99"]  # none: they are due when they are sent
        return figures

    return [({**case, "loop": "closed", "clients": count}, partial(work, count)) for count in plan.clients]


def _open_works(ask: Ask, plan: Plan, case: Case, capacity: float) -> list[Work]:
    """Return the work of each load and each rate; ``capacity`` in requests a second."""

    async def work(rate: float, turn: int) -> dict[str, float]:
        due = schedule(rate, plan.seconds, plan.arrivals, seed=turn)
        return {"offered": rate, **summary(await open_loop(ask, due))}

    settings = [("load", load, load * capacity) for load in plan.loads]
    settings += [("rate", rate, rate) for rate in plan.rates]
    case = {**case, "loop": "open", "arrivals": plan.arrivals}
    return [({**case, name: value}, partial(work, rate)) for name, value, rate in settings]


async def _rows(works: Sequence[Work], rounds: int) -> list[Row]:
    """Do all works in turn, ``rounds`` times, and return a row for each."""
    found: list[list[dict[str, float]]] = [[] for _ in works]
    for turn in range(rounds):
        for (_, work), samples in zip(works, found, strict=True):
            samples.append(await work(turn))
    rows = []
    for (case, _), samples in zip(works, found, strict=True):
        values = {name: tuple(float(one[name]) for one in samples) for name in samples[0]}
        rows.append(Row(case, {name: Figure(*UNITS[name], taken) for name, taken in values.items()}))
    return rows


def schedule(rate: float, seconds: float, arrivals: Arrivals, seed: int = 0) -> NDArray[np.float64]:
    """Return the due times of ``rate`` requests a second, float64 [N] in seconds from the start."""
    count = max(1, round(rate * seconds))
    if arrivals == "constant":
        return np.arange(count) / rate
    return np.random.default_rng(seed).exponential(1 / rate, count).cumsum()


async def open_loop(ask: Ask, due: Iterable[float]) -> list[Request]:
    """Send each request at its ``due`` time, whatever became of the others."""
    start = asyncio.get_running_loop().time() + HEAD_START_SECONDS
    return await asyncio.gather(*(_request(ask, start + at) for at in due))


async def closed_loop(ask: Ask, clients: int, seconds: float) -> list[Request]:
    """Let each client send one request after the other, the last before ``seconds`` are over."""
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
    """Return the figures of one round, named as in ``UNITS``.

    Throughput is the number of answers over the time from the first due time to the last answer.

    Raises:
        ServiceError: no request was answered.
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
    """Return a warning for each row in which the client was late by a good part of the latency."""
    late = []
    for row in rows:
        lag = row.figures.get("send lag p99")
        if lag and lag.median > MAX_LAG_SHARE * row.figures["latency p50"].median:
            settings = ", ".join(f"{name} {value}" for name, value in row.case.items())
            late.append(f"void: {settings}: requests were sent up to {lag} late")
    return late
