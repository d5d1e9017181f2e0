"""``python -m benchmarks capacity``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Literal

import typer

from benchmarks import capacity as sheet
from benchmarks.capacity import Input
from benchmarks.commands.options import Name, Size
from benchmarks.figures import RESULTS, read_result, report
from sfavivit.config import ModelDimensions, named_dimensions

FPS = 12.5  # of the published models
STORED_BYTES = {"float32": 4, "float16": 2}
TIMESTAMP_BYTES = 8
OPTION, ASSUMED = "option", "assumed"


def capacity(
    hours_a_day: Annotated[float, typer.Option(help="Of video that arrives.")] = 24.0,
    peak: Annotated[float, typer.Option(help="The busiest time of the day over its mean.")] = 1.5,
    size: Size = "B",
    tubelets_per_second: Annotated[
        float | None, typer.Option(help="Of a machine (default: the best of latency.json).")
    ] = None,
    tera_operations: Annotated[
        float | None, typer.Option(help="A second, of the engine's matrix units: an assumption instead.")
    ] = None,
    share: Annotated[float, typer.Option(help="Of those that the model reaches: as assumed.")] = 0.5,
    engine_on: Annotated[
        Literal["cpu", "gpu"], typer.Option(help="The cores that decode, or a device beside them.")
    ] = "cpu",
    cores: Annotated[
        int | None, typer.Option(help="Of a machine (default: of the one that decode.json is of).")
    ] = None,
    picture: Annotated[str, typer.Option(help="Of the videos, as in decode.json.")] = "640x360",
    decode_cpu_seconds: Annotated[
        float | None, typer.Option(help="For a second of video (default: as in decode.json).")
    ] = None,
    video_mbit: Annotated[
        float | None, typer.Option(help="Of the videos, Mbit/s (default: as in decode.json).")
    ] = None,
    video_seconds: Annotated[float, typer.Option(help="Mean length of a video.")] = 60.0,
    length_cv: Annotated[
        float, typer.Option(help="Standard deviation of the lengths over their mean; lognormal.")
    ] = 1.0,
    stored: Annotated[Literal["float32", "float16"], typer.Option(help="Features in the store.")] = "float32",
    retention_days: Annotated[float, typer.Option(help="For which features are kept.")] = 365.0,
    servers: Annotated[int, typer.Option(help="Machines that share one line of requests.")] = 1,
    most_wait: Annotated[
        float, typer.Option(help="Of 99 in 100 requests, in mean service times: sets the utilisation.")
    ] = 20.0,
    requests: Annotated[int, typer.Option(help="To simulate at each utilisation.")] = 200_000,
    measure: Annotated[bool, typer.Option("--measure", help="Measure decoding first.")] = False,
    name: Name = "capacity",
    out: Annotated[Path, typer.Option(help="Folder of the results, to read and to write.")] = RESULTS,
) -> None:
    """Machines, storage and network for so many hours of video a day, each with its formula."""
    if measure:
        _measure_decoding(out)
    dims = named_dimensions(size, {"": 1})
    inputs = {
        "hours_a_day": Input(hours_a_day, "h", OPTION),
        "peak": Input(peak, "x", ASSUMED),
        "video_seconds": Input(video_seconds, "s", ASSUMED),
        "fps": Input(FPS, "frames/s", "of the published models"),
        "tubelet_frames": Input(dims.tubelet_frames, "frames", f"size {size}"),
        "frame_bytes": Input(3 * dims.image_size**2, "bytes", f"size {size}"),
        "tubelet_bytes": Input(
            STORED_BYTES[stored] * dims.hidden_size + TIMESTAMP_BYTES, "bytes", f"size {size}, {stored}"
        ),
        "retention_days": Input(retention_days, "days", OPTION),
        "tubelets_per_second": _engine_rate(dims, size, tubelets_per_second, tera_operations, share, out),
        **_decoding(picture, decode_cpu_seconds, video_mbit, cores, out),
    }
    measured, source = _service_times(out)
    machine = sheet.machine_lines(inputs, engine_on)
    waits = sheet.simulate(servers, requests, measured=measured, length_cv=length_cv)

    for key, given in inputs.items():
        typer.echo(f"{key} = {sheet.number(given.value)} {given.unit} ({given.source})")
    typer.echo()
    for line in machine:
        typer.echo(line)
    typer.echo(
        f"\nThe wait in a line of {servers} at Poisson arrivals, in mean service times of "
        f"{sheet.number(machine[-1].value)} s\n({source}, lognormal lengths of deviation {length_cv:g}):\n"
    )
    typer.echo("utilisation    mean     p50     p99")
    for wait in waits:
        typer.echo(f"{wait.utilisation:11.2f} {wait.mean:7.2f} {wait.p50:7.2f} {wait.p99:7.2f}")
    utilisation = sheet.headroom(waits, most_wait).utilisation
    inputs["utilisation"] = Input(
        utilisation, "of the time", f"the highest with a p99 of {most_wait:g} or less"
    )
    typer.echo(f"\nutilisation = {utilisation:g} ({inputs['utilisation'].source})\n")
    site = sheet.site_lines(inputs, machine)
    for line in site:
        typer.echo(line)
    typer.echo()
    rows = sheet.rows(inputs, [*machine, *site], waits, servers=servers, length_cv=length_cv)
    report(name, rows, out)


def _measure_decoding(out: Path) -> None:
    from benchmarks import decode_cost  # noqa: PLC0415 - looks for an ffmpeg

    with TemporaryDirectory() as folder:
        rows = decode_cost.measure(Path(folder), video_seconds=20.0, rounds=5)
    report("decode", rows, out)


def _engine_rate(
    dims: ModelDimensions, size: str, given: float | None, tera: float | None, share: float, results: Path
) -> Input:
    """Tubelets a second: as given, as assumed of the engine's matrix units, or as measured."""
    if given is not None:
        return Input(given, "tubelets/s", OPTION)
    if tera is None:
        return sheet.fastest(read_result(results / "latency.json"), size)
    from benchmarks.operations import spatial_operations  # noqa: PLC0415 - needs torch

    operations = spatial_operations(dims, last_block_for_cls=True)
    source = f"{ASSUMED}: {share:g} x {tera:g} Tera/s over {operations / 1e9:.4g} G operations"
    return Input(tera * 1e12 * share / operations, "tubelets/s", source)


def _decoding(
    picture: str, cpu_seconds: float | None, megabits: float | None, cores: int | None, results: Path
) -> Mapping[str, Input]:
    """What decoding takes: as given, the rest as measured."""
    found = {
        "decode_cpu_seconds": Input(cpu_seconds or 0, "CPU s/video s", OPTION),
        "video_mbit": Input(megabits or 0, "Mbit/s", OPTION),
        "cores": Input(cores or 0, "cores", OPTION),
    }
    if None not in (cpu_seconds, megabits, cores):
        return found
    result = read_result(results / "decode.json")
    source = f"measured: decode, {picture}"
    if cpu_seconds is None:
        figure = sheet.measured_figure(result, "decode CPU", picture=picture)
        found["decode_cpu_seconds"] = Input(figure.median, figure.unit, source)
    if megabits is None:
        figure = sheet.measured_figure(result, "bit rate", picture=picture)
        found["video_mbit"] = Input(figure.median, figure.unit, source)
    if cores is None:
        found["cores"] = Input(
            result.machine["cores"], "cores", "of the machine that decoding is measured on"
        )
    return found


def _service_times(results: Path) -> tuple[tuple[float, ...] | None, str]:
    """Measured ones where there are any, and what to call them."""
    path = results / "load.json"
    if not path.exists():
        return None, "service times all alike"
    times = sheet.measured_figure(read_result(path), "service time", loop="closed", clients=1).samples
    return times, f"{len(times)} measured service times"
