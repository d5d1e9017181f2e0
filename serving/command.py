"""The options of the video service on the command line."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from serving.lifecycle import serve as serve_until_signal
from serving.settings import Security, Settings
from sfavivit.engines import TRITON_SCHEME
from sfavivit.errors import UsageError
from sfavivit.video.reader import Limits

MIB = 1 << 20


def serve(
    repository: Annotated[
        str,
        typer.Option(
            envvar="SFAVIVIT_REPOSITORY", help=f"Model repository, or {TRITON_SCHEME}HOST:PORT which has it."
        ),
    ] = "model_repository",
    engine: Annotated[
        str | None,
        typer.Option(help=f"onnxruntime (default), torch, tensorrt, or {TRITON_SCHEME}HOST:PORT."),
    ] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads of the engine (default: all).")] = None,
    host: Annotated[str, typer.Option(help="Interface to listen on.")] = Settings.host,
    port: Annotated[int, typer.Option(help="0 picks a free one.")] = Settings.port,
    metrics_host: Annotated[str, typer.Option(help="Interface of the metrics.")] = Settings.metrics_host,
    metrics_port: Annotated[int, typer.Option(help="Prometheus metrics; 0: any free, -1: none.")] = 9464,
    tls_cert: Annotated[Path | None, typer.Option(help="PEM certificate chain of the service.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="PEM key of the service.")] = None,
    tls_client_ca: Annotated[
        Path | None, typer.Option(help="PEM certificates: clients must have one signed by them.")
    ] = None,
    token_file: Annotated[
        Path | None, typer.Option(help="Bearer tokens, one a line; read again when it changes.")
    ] = None,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Plaintext on other interfaces than loopback.")
    ] = False,
    max_streams: Annotated[int, typer.Option(help="Requests that run at once.")] = Settings.max_streams,
    max_waiting: Annotated[int, typer.Option(help="Requests that wait; others are refused.")] = (
        Settings.max_waiting
    ),
    engine_slots: Annotated[
        int | None,
        typer.Option(
            help="Engine calls at once (default: 1 for large models, cores for small; Triton: max-streams)."
        ),
    ] = None,
    chunk_tubelets: Annotated[
        int | None,
        typer.Option(
            help="Of an engine call (default: what costs least). Fewer answer live streams sooner: of size B "
            "in int8, 1 instead of 4 takes a third of the time, for an eighth of the throughput."
        ),
    ] = None,
    engine_timeout_seconds: Annotated[
        float, typer.Option(help="Give up a call that Triton does not answer.")
    ] = Settings.engine_timeout_seconds,
    limit_upload_mib: Annotated[int, typer.Option(help="Bytes of an upload.")] = (
        Settings.max_upload_bytes // MIB
    ),
    limit_duration_seconds: Annotated[
        float, typer.Option(help="Refuse longer videos.")
    ] = Limits.duration_seconds,
    limit_pixels: Annotated[int, typer.Option(help="Refuse larger frames (width x height).")] = Limits.pixels,
    limit_stall_seconds: Annotated[
        float, typer.Option(help="Give up when the decoder makes no progress.")
    ] = Limits.stall_seconds,
    limit_memory_mib: Annotated[int, typer.Option(help="Address space of a decoder.")] = (
        Limits.memory_bytes // MIB
    ),
    idle_seconds: Annotated[
        float, typer.Option(help="Give up a client that sends nothing.")
    ] = Settings.idle_seconds,
    min_bytes_per_second: Annotated[
        float, typer.Option(help="Give up a client that sends less while it is waited for.")
    ] = Settings.min_bytes_per_second,
    drain_seconds: Annotated[
        float, typer.Option(help="For running requests, after SIGTERM.")
    ] = Settings.drain_seconds,
    spool: Annotated[Path | None, typer.Option(help="Folder for uploads (default: the system's).")] = None,
    otlp_endpoint: Annotated[
        str | None, typer.Option(help="OpenTelemetry collector, such as http://localhost:4317.")
    ] = None,
) -> None:
    """Run the gRPC video service until SIGTERM or SIGINT."""
    location, engine = _location(repository, engine)
    settings = Settings(
        location,
        engine,
        threads=threads,
        host=host,
        port=port,
        metrics_host=metrics_host,
        metrics_port=None if metrics_port < 0 else metrics_port,
        security=Security(tls_cert, tls_key, tls_client_ca, token_file, insecure),
        limits=Limits(limit_stall_seconds, limit_pixels, limit_duration_seconds, limit_memory_mib * MIB),
        max_upload_bytes=limit_upload_mib * MIB,
        max_streams=max_streams,
        max_waiting=max_waiting,
        idle_seconds=idle_seconds,
        min_bytes_per_second=min_bytes_per_second,
        drain_seconds=drain_seconds,
        engine_slots=engine_slots,
        chunk_tubelets=chunk_tubelets,
        engine_timeout_seconds=engine_timeout_seconds,
        spool=spool,
        otlp_endpoint=otlp_endpoint,
    )
    asyncio.run(serve_until_signal(settings))


def _location(repository: str, engine: str | None) -> tuple[str, str | None]:
    """Where the models are, and in which engine of this process they run (None: the default, or Triton).

    Raises:
        UsageError: an engine of this process for models that Triton has.
    """
    if engine and engine.startswith(TRITON_SCHEME):
        return engine, None
    if not repository.startswith(TRITON_SCHEME):
        if engine == "triton":
            raise UsageError(f"give Triton as --repository {TRITON_SCHEME}HOST:PORT")
        return repository, engine
    if engine not in (None, "triton"):
        raise UsageError(f"{repository} is served by Triton; the engine cannot be {engine!r}")
    return repository, None
