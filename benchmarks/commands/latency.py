"""``python -m benchmarks latency``."""

from __future__ import annotations

from functools import partial
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, cast, get_args

import typer

from benchmarks.commands.options import SIZE_NAMES, ModelsFolder, Name, Out, Rounds
from benchmarks.figures import RESULTS, report
from sfavivit.engines import ENGINES
from sfavivit.errors import UsageError
from sfavivit.repository.manifest import Precision

PRECISIONS = get_args(Precision)


def latency(
    engine: Annotated[
        list[str] | None, typer.Option(help=f"{', '.join(ENGINES)}; repeatable (default: onnxruntime).")
    ] = None,
    precision: Annotated[
        list[str] | None, typer.Option(help=f"{', '.join(PRECISIONS)}; repeatable (default: fp32, int8).")
    ] = None,
    size: Annotated[
        list[str] | None, typer.Option(help=f"{SIZE_NAMES}; repeatable (default: tiny, B).")
    ] = None,
    frames: Annotated[
        list[int] | None, typer.Option(min=2, help="Of a window; repeatable (default: 32, and 128 of tiny).")
    ] = None,
    chunk: Annotated[
        list[int] | None,
        typer.Option(min=1, help="Tubelets of a call to the spatial engine; repeatable (default: 4)."),
    ] = None,
    streams: Annotated[
        list[int] | None, typer.Option(min=1, help="Side by side; repeatable (default: 4).")
    ] = None,
    rounds: Rounds = 4,
    seconds: Annotated[float, typer.Option(min=0, help="Of clips, and of streams, in a round.")] = 2.0,
    models: ModelsFolder = None,
    name: Name = "latency",
    out: Out = RESULTS,
) -> None:
    """Percentiles of each stage: of a clip, of streams, of a fresh process."""
    from benchmarks import latency as latencies  # noqa: PLC0415 - needs torch and gRPC

    for what, names, known in (("engine", engine, ENGINES), ("precision", precision, PRECISIONS)):
        if unknown := set(names or ()) - set(known):
            raise UsageError(f"unknown {what} {min(unknown)!r}; choose one of {', '.join(known)}")
    settings = [
        latencies.Setting(runtime, cast(Precision, bits), model, window, call)
        for runtime, bits, model in product(
            engine or ["onnxruntime"], precision or ["fp32", "int8"], size or ["tiny", "B"]
        )
        for window in frames or ([32, 128] if model == "tiny" else [32])
        for call in chunk or [4]
    ]
    with TemporaryDirectory() as folder:
        rows = latencies.measure(
            list(dict.fromkeys(settings)),
            models or Path(folder),
            streams=streams or [4],
            rounds=rounds,
            seconds=seconds,
            left_out=partial(typer.echo, err=True),
        )
    if not rows:
        raise UsageError("nothing was measured: this machine can run none of the settings")
    report(name, rows, out)
