"""``python -m benchmarks load``."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Literal

import typer

from benchmarks.commands.options import DEMO_MODEL, ModelRepository, Name, Out, Rounds
from benchmarks.figures import RESULTS, report
from sfavivit.errors import UsageError

CLIENTS = (1, 2, 4, 8, 16)
LOADS = (0.5, 0.7, 0.9, 1.1, 2.0)
CLIP_SECONDS = 2.0


def load(
    clients: Annotated[
        list[int] | None, typer.Option(help="Closed loop; repeatable (default: 1, 2, 4, 8, 16).")
    ] = None,
    load: Annotated[
        list[float] | None,
        typer.Option(
            help="Open loop, a share of the closed one's best throughput; repeatable (default: 0.5, 0.7, "
            "0.9, 1.1, 2, unless --rate is given)."
        ),
    ] = None,
    rate: Annotated[
        list[float] | None, typer.Option(help="Open loop, requests a second; repeatable.")
    ] = None,
    arrivals: Annotated[
        Literal["constant", "poisson"], typer.Option(help="Evenly in time, or at random.")
    ] = "constant",
    request: Annotated[
        Literal["upload", "stream"], typer.Option(help="2 s of video as a file, or as frames.")
    ] = "upload",
    size: Annotated[str, typer.Option(help="Of the uploaded picture.")] = "640x360",
    seconds: Annotated[float, typer.Option(help="Of each round.")] = 12.0,
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
) -> None:
    """Latency of the video service against the rate of requests, none left out."""
    from benchmarks import load as loads  # noqa: PLC0415 - needs gRPC
    from benchmarks.service_process import service_process  # noqa: PLC0415 - as above
    from benchmarks.videos import write_video  # noqa: PLC0415 - as above
    from serving.settings import is_loopback  # noqa: PLC0415 - as above

    if address and not elsewhere and not is_loopback(address.rpartition(":")[0]):
        raise UsageError(f"{address} is another machine; add --elsewhere if it is yours to put under load")
    plan = loads.Plan(
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
            address = stack.enter_context(service_process("--repository", repository)).address
        rows = loads.measure(address, clip, plan)
    report(name, rows, out)
    for line in loads.late_rows(rows):
        typer.echo(line, err=True)
