"""Command-line options of the video service."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from serving.lifecycle import serve as serve_until_signal
from serving.settings import Security, Settings
from sfavivit.cli.options import (
    DEFAULT_REPOSITORY,
    MIB,
    DeviceOption,
    LimitDurationOption,
    LimitGapOption,
    LimitMemoryOption,
    LimitPixelsOption,
    LimitStallOption,
    RepositoryOption,
    ThreadsOption,
    limits_of,
)
from sfavivit.engines import TRITON_SCHEME
from sfavivit.errors import UsageError
from sfavivit.video.limits import Limits


def serve(
    repository: RepositoryOption = DEFAULT_REPOSITORY,
    engine: Annotated[
        str | None, typer.Option(help=f"onnxruntime (default), torch, tensorrt, or {TRITON_SCHEME}HOST:PORT.")
    ] = None,
    threads: ThreadsOption = None,
    device: DeviceOption = "auto",
    host: Annotated[str, typer.Option(help="Interface to listen on.")] = Settings.host,
    port: Annotated[int, typer.Option(help="Port to listen on; 0: any free one.")] = Settings.port,
    metrics_host: Annotated[str, typer.Option(help="Interface of the metrics.")] = Settings.metrics_host,
    metrics_port: Annotated[
        int, typer.Option(help="Port of the Prometheus metrics; 0: any free one, -1: no metrics.")
    ] = 9464,
    tls_cert: Annotated[Path | None, typer.Option(help="PEM certificate chain of the service.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="PEM private key of the service.")] = None,
    tls_client_ca: Annotated[
        Path | None,
        typer.Option(help="PEM certificates of the authorities that must have signed clients' certificates."),
    ] = None,
    token_file: Annotated[
        Path | None, typer.Option(help="File of bearer tokens, one a line; reloaded when it changes.")
    ] = None,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Allow plaintext on interfaces other than loopback.")
    ] = False,
    max_streams: Annotated[
        int, typer.Option(help="Maximum number of running requests.")
    ] = Settings.max_streams,
    max_waiting: Annotated[
        int, typer.Option(help="Maximum number of waiting requests; more are refused.")
    ] = Settings.max_waiting,
    engine_slots: Annotated[
        int | None,
        typer.Option(
            help="Concurrent engine calls (default: one a core for small models, 1 for large ones; "
            "--max-streams for Triton)."
        ),
    ] = None,
    chunk_tubelets: Annotated[
        int | None,
        typer.Option(
            help="Tubelets per engine call (default: the number with the best throughput). Fewer lower the "
            "latency of live streams."
        ),
    ] = None,
    engine_timeout_seconds: Annotated[
        float, typer.Option(help="Timeout of a request to Triton.")
    ] = Settings.engine_timeout_seconds,
    limit_upload_mib: Annotated[
        int, typer.Option(help="Maximum size of an upload in MiB.")
    ] = Settings.max_upload_bytes // MIB,
    limit_duration_seconds: LimitDurationOption = Limits.duration_seconds,
    limit_pixels: LimitPixelsOption = Limits.pixels,
    limit_stall_seconds: LimitStallOption = Limits.stall_seconds,
    limit_gap_seconds: LimitGapOption = Limits.gap_seconds,
    limit_memory_mib: LimitMemoryOption = Limits.memory_bytes // MIB,
    idle_seconds: Annotated[
        float, typer.Option(help="Maximum seconds to wait until a client sends, or reads its answers.")
    ] = Settings.idle_seconds,
    min_bytes_per_second: Annotated[
        float, typer.Option(help="Minimum upload rate of a client while the service waits for it.")
    ] = Settings.min_bytes_per_second,
    drain_seconds: Annotated[
        float, typer.Option(help="Maximum seconds for running requests to end after SIGTERM.")
    ] = Settings.drain_seconds,
    spool: Annotated[
        Path | None, typer.Option(help="Folder for uploads (default: the system's temporary folder).")
    ] = None,
    otlp_endpoint: Annotated[
        str | None, typer.Option(help="OpenTelemetry collector for traces, such as http://localhost:4317.")
    ] = None,
) -> None:
    """Run the gRPC video service until SIGTERM or SIGINT."""
    location, engine = _location(repository, engine)
    settings = Settings(
        location,
        engine,
        threads=threads,
        device=device,
        host=host,
        port=port,
        metrics_host=metrics_host,
        metrics_port=None if metrics_port == -1 else metrics_port,
        security=Security(tls_cert, tls_key, tls_client_ca, token_file, insecure),
        limits=limits_of(
            limit_duration_seconds, limit_pixels, limit_stall_seconds, limit_gap_seconds, limit_memory_mib
        ),
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
    """Return the location of the models, and the engine of this process (None: the default, or Triton).

    Raises:
        UsageError: an engine of this process for models that Triton serves.
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
