"""Latency and throughput by stage of a clip, of concurrent streams, and of a fresh process.

docs/benchmarks.md has the method.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Literal, cast, get_args

import numpy as np
import typer

from benchmarks import latency_cuda
from benchmarks.command_options import SIZE_NAMES, Ints, ModelsFolder, Names, Out, Rounds, check_known
from benchmarks.figures import RESULTS, Figure, Row, report
from benchmarks.first_answer import first_answer
from benchmarks.measuring import RecordingEngine
from benchmarks.models import random_repository
from benchmarks.videos import random_frames, write_video
from export.exporter import DEFAULT_FPS
from serving.models import slots_in_process
from serving.scheduler import EngineScheduler, ScheduledEngine
from serving.triton import TritonServer
from sfavivit import Recognizer
from sfavivit.engines import ENGINES
from sfavivit.engines.device import Device
from sfavivit.engines.model import LoadedModel
from sfavivit.errors import EngineError, UsageError
from sfavivit.features.extractor import FeatureChunk
from sfavivit.inference.streaming import FrameStream
from sfavivit.repository.manifest import Precision

PRECISIONS = get_args(Precision)
MILLISECONDS = 1000
MIN_VALUES = {50: 1, 90: 10, 99: 100}  # a percentile of fewer values would be their maximum by another name


def command(
    engine: Annotated[
        Names,
        typer.Option(help=f"{', '.join(ENGINES)}; repeatable (default: onnxruntime; on cuda all that can)."),
    ] = None,
    device: Annotated[
        Literal["cpu", "cuda"], typer.Option(help="Device; cuda measures calls of the spatial engine.")
    ] = "cpu",
    precision: Annotated[
        Names,
        typer.Option(help=f"{', '.join(PRECISIONS)}; repeatable (default: fp32, int8; on cuda fp16, bf16)."),
    ] = None,
    size: Annotated[
        Names, typer.Option(help=f"{SIZE_NAMES}; repeatable (default: tiny, B; on cuda B, L, H).")
    ] = None,
    frames: Annotated[
        Ints, typer.Option(min=2, help="Frames in a window; repeatable (default: 32, and 128 for tiny).")
    ] = None,
    chunk: Annotated[
        Ints, typer.Option(min=1, help="Tubelets per engine call; repeatable (default: 4; on cuda 8 to 128).")
    ] = None,
    streams: Annotated[Ints, typer.Option(min=1, help="Concurrent streams; repeatable (default: 4).")] = None,
    rounds: Rounds = 4,
    seconds: Annotated[
        float, typer.Option(min=0, help="Seconds of clips, and of streams, in a round.")
    ] = 2.0,
    models: ModelsFolder = None,
    name: Annotated[
        str | None, typer.Option(help="Name of the result file (default: latency, or latency_cuda).")
    ] = None,
    out: Out = RESULTS,
) -> None:
    """Measure percentiles of each stage of a clip, of streams and of a fresh process; or calls on a GPU."""
    on_cuda, left_out = device == "cuda", partial(typer.echo, err=True)
    check_known("engine", engine, latency_cuda.ENGINES if on_cuda else ENGINES)
    check_known("precision", precision, latency_cuda.DTYPES if on_cuda else PRECISIONS)
    if on_cuda and (frames or streams):
        raise UsageError("--frames and --streams do not apply to --device cuda")
    with TemporaryDirectory() as scratch:
        folder = models or Path(scratch)
        if on_cuda:
            variants = latency_cuda.choose(engine, precision)
            sizes, chunks = size or ["B", "L", "H"], chunk or [8, 16, 32, 64, 128]
            rows = latency_cuda.measure(variants, sizes, chunks, rounds, folder, left_out)
        else:
            settings = [
                Setting(runtime, cast(Precision, bits), model, window, call)
                for runtime, bits, model in product(
                    engine or ["onnxruntime"], precision or ["fp32", "int8"], size or ["tiny", "B"]
                )
                for window in frames or ([32, 128] if model == "tiny" else [32])
                for call in chunk or [4]
            ]
            settings = list(dict.fromkeys(settings))
            rows = measure(
                settings, folder, streams=streams or [4], rounds=rounds, seconds=seconds, left_out=left_out
            )
    if not rows:
        raise UsageError("nothing was measured: this machine can run none of the settings")
    report(name or ("latency_cuda" if on_cuda else "latency"), rows, out)


@dataclass(frozen=True)
class Setting:
    """One alternative; ``frames`` in a window, ``chunk`` tubelets per call of the spatial engine."""

    engine: str
    precision: Precision
    size: str
    frames: int
    chunk: int

    @property
    def name(self) -> str:
        """Name of its repository's folder."""
        return f"{self.size}-{self.precision}-{self.frames}"

    def __str__(self) -> str:
        return (
            f"{self.engine} {self.precision} {self.size}, {self.frames} frames, {self.chunk} tubelets a call"
        )


@dataclass
class _Samples:
    """Seconds by (work, stage), a list a round; tubelets a second by work, one a round."""

    seconds: dict[tuple[str, str], list[list[float]]] = field(default_factory=dict)
    rates: dict[str, list[float]] = field(default_factory=dict)

    def add(self, work: str, values: dict[str, list[float]], rate: float | None = None) -> None:
        """Add the values of each stage in a round."""
        for stage, seconds in values.items():
            self.seconds.setdefault((work, stage), []).append(seconds)
        if rate is not None:
            self.rates.setdefault(work, []).append(rate)


def measure(
    settings: list[Setting],
    folder: Path,
    *,
    streams: list[int],
    rounds: int,
    seconds: float,
    left_out: Callable[[str], None] = print,
) -> list[Row]:
    """Return a row for each stage; repositories and clips are made in ``folder`` unless they are there.

    ``streams``: numbers of concurrent streams, measured one after the other. ``left_out`` is called with each
    setting that this machine cannot run, and the reason.

    Raises:
        UsageError: an unknown size, or a window of which no clip can be made.
        SfaVivitError: ``folder`` holds an unusable repository.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for setting in settings:
        _clip(setting, folder)
        random_repository(folder / setting.name, setting.size, setting.precision, frames=setting.frames)
    results: dict[Setting, _Samples] = {}
    for setting in settings:
        try:
            with _location(setting, folder) as location:
                _load(setting, location)
            results[setting] = _Samples()
        except EngineError as error:
            left_out(f"left out: {setting}: {error}")
    for _ in range(rounds):
        for setting, result in results.items():
            with _location(setting, folder) as location:
                _round(setting, location, folder, streams, seconds, result)
    return [row for setting, result in results.items() for row in _rows(setting, result)]


def _clip(setting: Setting, folder: Path) -> Path:
    clip = folder / f"{setting.frames}-frames.mp4"
    return clip if clip.exists() else write_video(clip, setting.frames / DEFAULT_FPS)


@contextmanager
def _location(setting: Setting, folder: Path) -> Iterator[str]:
    """Give the location for ``Recognizer.load``, of a running Triton server where that is the engine."""
    repository = (folder / setting.name).resolve()
    if setting.engine == "triton":
        with TritonServer(repository, exit_seconds=0) as server:
            yield server.url
    else:
        yield str(repository)


def _load(setting: Setting, location: str) -> Recognizer:
    return Recognizer.load(
        location, engine=setting.engine, chunk_tubelets=setting.chunk, device=_device(setting)
    )


def _device(setting: Setting) -> Device:
    return "auto" if setting.engine == "triton" else "cpu"  # Triton decides for itself


def _round(
    setting: Setting, location: str, folder: Path, streams: list[int], seconds: float, result: _Samples
) -> None:
    """Measure everything once for one setting; the fresh process first, while no other engine is loaded."""
    clip = _clip(setting, folder)
    parts = first_answer(location, clip, setting.engine, setting.chunk, _device(setting))
    parts["total"] = sum(parts.values())
    result.add("fresh process", {stage: [took] for stage, took in parts.items()})
    recognizer = _load(setting, location)
    _warm_up(recognizer)
    result.add("clip", *_clips(recognizer, clip, setting, seconds))
    for count in streams:
        work = f"{count} stream{'s' if count > 1 else ''}"
        result.add(work, *_streams(recognizer, count, setting, seconds))


def _warm_up(recognizer: Recognizer) -> None:
    """Call each half of the engine once, since its first calls are slow."""
    dims = recognizer.manifest.dimensions
    list(recognizer.stream([random_frames(dims.tubelet_frames, dims.image_size)]))


def _clips(
    recognizer: Recognizer, clip: Path, setting: Setting, seconds: float
) -> tuple[dict[str, list[float]], float]:
    """Return the seconds of each stage of each clip, and tubelets a second; the clip is one window."""
    engine = RecordingEngine(recognizer.model.engine)
    timed = Recognizer(LoadedModel(recognizer.model.catalog, engine, chunk_tubelets=setting.chunk))
    values: dict[str, list[float]] = {"decode": [], "spatial": [], "temporal": [], "total": []}
    begin = time.perf_counter()
    while not values["total"] or time.perf_counter() - begin < seconds:
        start = time.perf_counter()
        answer = timed.classify(clip)
        values["total"].append(time.perf_counter() - start)
        assert answer.frames_used == setting.frames, f"{clip} has {answer.frames_used} frames"
        for stage in ("decode", "spatial", "temporal"):
            values[stage].append(getattr(answer.timings, f"{stage}_seconds"))
    count = len(values["total"])
    tubelets = count * recognizer.manifest.head("first").dimensions.max_tubelets
    rate = tubelets / (time.perf_counter() - begin)
    return values | {"spatial call": engine.spatial_seconds}, rate


def _streams(
    recognizer: Recognizer, count: int, setting: Setting, seconds: float
) -> tuple[dict[str, list[float]], float]:
    """Return the seconds of each stage of each chunk of each stream, and tubelets a second of all."""
    in_process = setting.engine != "triton"
    slots = slots_in_process(recognizer.model) if in_process else count  # as the service has it
    scheduler = EngineScheduler(slots)
    barrier = threading.Barrier(count)

    stream = partial(_stream, recognizer, scheduler, barrier, setting, seconds)
    with ThreadPoolExecutor(count) as pool:
        done = list(pool.map(stream, range(count)))
    values = {stage: [took for one, *_ in done for took in one[stage]] for stage in done[0][0]}
    wall = max(end for *_, end in done) - min(begin for _, begin, _ in done)
    return values, len(values["total"]) * setting.chunk / wall


def _stream(
    recognizer: Recognizer,
    scheduler: EngineScheduler,
    barrier: threading.Barrier,
    setting: Setting,
    seconds: float,
    seed: int,
) -> tuple[dict[str, list[float]], float, float]:
    """Run one stream; return the seconds of the stages of its chunks, its start and its end."""
    engine = ScheduledEngine(recognizer.model.engine, scheduler, threading.Event())
    dims, rng = recognizer.manifest.head("first").dimensions, np.random.default_rng(seed)
    frames = random_frames(setting.chunk * dims.tubelet_frames, dims.image_size, seed)
    stream = FrameStream(recognizer.model.with_engine(engine))
    window = rng.normal(size=(dims.max_tubelets, dims.hidden_size)).astype(np.float32)
    stream.session.add_features(FeatureChunk(window, dims.max_frames))
    engine.release()
    values: dict[str, list[float]] = {"queue": [], "spatial": [], "temporal": [], "total": []}
    barrier.wait()
    begin = time.perf_counter()
    while not values["total"] or time.perf_counter() - begin < seconds:
        before, start = dict(engine.timer.seconds), time.perf_counter()
        stream.push(frames)
        engine.release()
        values["total"].append(time.perf_counter() - start)
        for stage in ("queue", "spatial", "temporal"):
            values[stage].append(engine.timer.seconds[stage] - before.get(stage, 0.0))
    return values, begin, time.perf_counter()


def _rows(setting: Setting, result: _Samples) -> list[Row]:
    rows = []
    for (work, stage), seconds in result.seconds.items():
        figures = percentiles(seconds)
        if stage == "total" and work in result.rates:
            figures["throughput"] = Figure("tubelets/s", "higher", tuple(result.rates[work]))
        rows.append(Row({**asdict(setting), "work": work, "stage": stage}, figures))
    return rows


def percentiles(rounds: list[list[float]]) -> dict[str, Figure]:
    """Return p50, p90 and p99 in milliseconds of seconds measured in rounds, and the number of values.

    Each round is a sample of a percentile if it has enough values for it (``MIN_VALUES``). Otherwise all
    rounds together are one sample; where even they have too few, the percentile is left out.
    """
    together = [value for values in rounds for value in values]
    figures = {}
    for percent, min_values in MIN_VALUES.items():
        groups = rounds if all(len(values) >= min_values for values in rounds) else [together]
        if len(together) >= min_values:
            samples = tuple(float(np.percentile(group, percent)) * MILLISECONDS for group in groups)
            figures[f"p{percent}"] = Figure("ms", "lower", samples)
    return figures | {"values": Figure("values", "neither", (float(len(together)),))}
