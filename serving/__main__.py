"""``python -m serving [OPTIONS]``: the video service; ``python -m serving triton REPOSITORY``: Triton."""

from __future__ import annotations

import signal
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer

from serving.command import serve
from serving.triton import TritonPorts, TritonServer
from sfavivit.cli.run import run_app
from sfavivit.utils.network import is_loopback

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@app.callback()
def describe() -> None:
    """Serve a model repository. Options without a command are those of `serve`: see `serve --help`."""


@app.command()
def triton(
    repository: Annotated[Path, typer.Argument(help="Model repository written by `python -m export`.")],
    grpc_port: Annotated[int, typer.Option(help="gRPC port; 0: any free one.")] = 8001,
    http_port: Annotated[int, typer.Option(help="HTTP port; 0: any free one.")] = 8000,
    metrics_port: Annotated[int, typer.Option(help="Metrics port; 0: any free one.")] = 8002,
    address: Annotated[str, typer.Option(help="IPv4 address to listen on.")] = "127.0.0.1",
    poll_seconds: Annotated[
        int, typer.Option(min=1, help="Seconds between checks of the repository for new versions.")
    ] = 2,
    log: Annotated[Path | None, typer.Option(help="File for Triton's log (default: stderr).")] = None,
) -> None:
    """Run the Triton Inference Server on a model repository until SIGINT, SIGTERM or SIGHUP."""
    for number in SIGNALS:
        signal.signal(number, _exit)
    if not is_loopback(address):
        print(
            f"warning: Triton has no authentication; anyone who can reach {address} can use it",
            file=sys.stderr,
        )
    ports = TritonPorts(grpc_port, http_port, metrics_port)
    with log.open("a", encoding="utf-8") if log else nullcontext(sys.stderr) as stream:
        server = TritonServer(repository, address=address, ports=ports, log=stream, poll_seconds=poll_seconds)
        with server:
            at = ", ".join(f"{name} {address}:{port}" for name, port in vars(server.ports).items())
            print(f"ready: {at}", flush=True)
            while True:
                server.wait(3600)


def _exit(number: int, frame: Any) -> None:
    """Exit once, through the ``with`` blocks, which stop Triton."""
    for further in SIGNALS:
        signal.signal(further, signal.SIG_IGN)
    raise SystemExit(0)


app.command()(serve)


if __name__ == "__main__":
    if sys.argv[1:2] not in (["triton"], ["serve"], ["--help"]):
        sys.argv.insert(1, "serve")  # the default command
    run_app(app)
