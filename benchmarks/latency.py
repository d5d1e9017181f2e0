"""Latency and throughput, stage by stage, of a clip, of streams side by side, and of a fresh process.

What a value is, by ``work`` and ``stage``; percentiles are of these values:

    clip          decode, spatial, temporal, total    of a video file one window long, classified
                  spatial call                        one engine call of ``chunk`` tubelets
    4 streams     queue, spatial, temporal, total     of a chunk of frames, until its windows are answered
    fresh process imports, load, decode, rest, total  of the same clip, from the start of a new process

Stages of a clip overlap: decoding runs ahead, and its time is what the decoder was waited for by the thread
that reads ahead. A stream pushes its next chunk when the last is answered, so its latency is that of a full
machine; how long it is under a given load is another question. Its frames are in memory, and it has
been fed a whole window before, so that windows are as frequent as they are in the middle of a stream.

Alternatives take turns in rounds. In each round each gets ``seconds`` for its clips, and again for its
streams, but one clip and one chunk of each stream at least. One engine is loaded at a time.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from benchmarks.figures import Figure, Row
from benchmarks.first_answer import first_answer
from benchmarks.models import random_repository
from benchmarks.videos import write_video
from export.exporter import DEFAULT_FPS
from serving.models import Models, slots_in_process
from serving.scheduler import EngineGate, GatedEngine
from serving.triton import TritonServer
from sfavivit import Recognizer
from sfavivit.engines.base import Engine
from sfavivit.engines.model import LoadedModel
from sfavivit.errors import EngineError
from sfavivit.inference.streaming import Session
from sfavivit.repository.manifest import Precision
from sfavivit.types import Features, Frames, Logits

MILLISECONDS = 1000
# A percentile of fewer values than these would be their maximum by another name.
LEAST_VALUES = {50: 1, 90: 10, 99: 100}


@dataclass(frozen=True)
class Setting:
    """One alternative: ``frames`` of a window, ``chunk`` tubelets of a call to the spatial engine."""

    engine: str
    precision: Precision
    size: str
    frames: int
    chunk: int

    @property
    def name(self) -> str:
        """Of its repository's folder."""
        return f"{self.size}-{self.precision}-{self.frames}"

    def __str__(self) -> str:
        return (
            f"{self.engine} {self.precision} {self.size}, {self.frames} frames, {self.chunk} tubelets a call"
        )


Stages = dict[tuple[str, str], list[float]]
"""(work, stage) -> seconds of each value in one round."""


@dataclass
class _Rounds:
    """What all rounds of one setting gave. ``rates``: work -> tubelets a second in each round."""

    stages: list[Stages] = field(default_factory=list)
    rates: dict[str, list[float]] = field(default_factory=dict)

    def add(self, work: str, values: dict[str, list[float]], rate: float | None = None) -> None:
        """Values of each stage in the present round."""
        self.stages[-1].update({(work, stage): seconds for stage, seconds in values.items()})
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
    """A row for each stage. Repositories and clips are made in ``folder`` unless they are there.

    ``streams``: how many at once, one after the other. ``left_out`` is told of each setting that this machine
    cannot run, and why.

    Raises:
        UsageError: no such size, or a window of which no clip can be made.
        SfaVivitError: what is in ``folder`` is no usable repository.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for setting in settings:
        _clip(setting, folder)
        random_repository(folder / setting.name, setting.size, setting.precision, frames=setting.frames)
    results: dict[Setting, _Rounds] = {}
    for setting in settings:
        try:
            with _location(setting, folder) as location:
                _load(setting, location)
            results[setting] = _Rounds()
        except EngineError as error:
            left_out(f"left out: {setting}: {error}")
    for _ in range(rounds):
        for setting, result in results.items():
            result.stages.append({})
            with _location(setting, folder) as location:
                _round(setting, location, folder, streams, seconds, result)
    return [row for setting, result in results.items() for row in _rows(setting, result)]


def _clip(setting: Setting, folder: Path) -> Path:
    clip = folder / f"{setting.frames}-frames.mp4"
    return clip if clip.exists() else write_video(clip, setting.frames / DEFAULT_FPS)


@contextmanager
def _location(setting: Setting, folder: Path) -> Iterator[str]:
    """What ``Recognizer.load`` takes."""
    repository = (folder / setting.name).resolve()
    if setting.engine == "triton":
        with TritonServer(repository, exit_seconds=0) as server:
            yield server.url
    else:
        yield str(repository)


def _load(setting: Setting, location: str) -> Recognizer:
    return Recognizer.load(location, engine=setting.engine, chunk_tubelets=setting.chunk)


def _round(
    setting: Setting, location: str, folder: Path, streams: list[int], seconds: float, result: _Rounds
) -> None:
    """Everything once for one setting; the fresh process first, while no other engine is loaded."""
    clip = _clip(setting, folder)
    cold = first_answer(location, clip, setting.engine, setting.chunk)
    parts = {**asdict(cold), "total": cold.total}
    result.add("fresh process", {stage: [took] for stage, took in parts.items()})
    recognizer = _load(setting, location)
    _warm_up(recognizer)
    result.add("clip", *_clips(recognizer, clip, setting, seconds))
    for count in streams:
        work = f"{count} stream{'s' if count > 1 else ''}"
        result.add(work, *_streams(recognizer, count, setting, seconds))


def _warm_up(recognizer: Recognizer) -> None:
    """The first calls of an engine are slow: one to each half."""
    dims = recognizer.manifest.dimensions
    session = Session(recognizer.model)
    session.push(np.zeros((dims.tubelet_frames, dims.image_size, dims.image_size, 3), np.uint8))
    session.finish()


class _Calls:
    """An engine that keeps how long each call to its spatial half took."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.seconds: list[float] = []

    def spatial(self, frames: Frames) -> Features:
        start = time.perf_counter()
        features = self._engine.spatial(frames)
        self.seconds.append(time.perf_counter() - start)
        return features

    def temporal(self, head: str, features: Features) -> Logits:
        return self._engine.temporal(head, features)


def _clips(
    recognizer: Recognizer, clip: Path, setting: Setting, seconds: float
) -> tuple[dict[str, list[float]], float]:
    """Seconds of each stage of each clip, and tubelets a second; the clip is one window."""
    calls = _Calls(recognizer.model.engine)
    timed = Recognizer(LoadedModel(recognizer.model.catalog, calls, chunk_tubelets=setting.chunk))
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
    return values | {"spatial call": calls.seconds}, rate


def _streams(
    recognizer: Recognizer, count: int, setting: Setting, seconds: float
) -> tuple[dict[str, list[float]], float]:
    """Seconds of each stage of each chunk of each stream, and tubelets a second of all."""
    in_process = setting.engine != "triton"
    models = Models(recognizer.model.catalog, recognizer.model.engine, setting.chunk)
    gate = EngineGate(slots_in_process(models) if in_process else count)  # as the service has it
    barrier = threading.Barrier(count)

    def stream(seed: int) -> tuple[dict[str, list[float]], float, float]:
        return _stream(recognizer, gate, barrier, seed, setting, seconds)

    with ThreadPoolExecutor(count) as pool:
        done = list(pool.map(stream, range(count)))
    values = {stage: [took for one, *_ in done for took in one[stage]] for stage in done[0][0]}
    wall = max(end for *_, end in done) - min(begin for _, begin, _ in done)
    return values, len(values["total"]) * setting.chunk / wall


def _stream(
    recognizer: Recognizer,
    gate: EngineGate,
    barrier: threading.Barrier,
    seed: int,
    setting: Setting,
    seconds: float,
) -> tuple[dict[str, list[float]], float, float]:
    """One stream: the stages of each of its chunks, its begin and its end."""
    engine = GatedEngine(recognizer.model.engine, gate, threading.Event())
    own = Recognizer(LoadedModel(recognizer.model.catalog, engine, chunk_tubelets=setting.chunk))
    dims, rng = recognizer.manifest.head("first").dimensions, np.random.default_rng(seed)
    side = dims.image_size
    frames = rng.integers(0, 256, (setting.chunk * dims.tubelet_frames, side, side, 3), np.uint8)
    session = Session(own.model)
    session.push_features(rng.normal(size=(dims.max_tubelets, dims.hidden_size)).astype(np.float32))
    values: dict[str, list[float]] = {"queue": [], "spatial": [], "temporal": [], "total": []}
    barrier.wait()
    begin = time.perf_counter()
    while not values["total"] or time.perf_counter() - begin < seconds:
        before = (engine.queue_seconds, engine.spatial_seconds, engine.temporal_seconds, time.perf_counter())
        with engine.one_turn():
            session.push(frames)
        after = (engine.queue_seconds, engine.spatial_seconds, engine.temporal_seconds, time.perf_counter())
        for stage, earlier, later in zip(values, before, after, strict=True):
            values[stage].append(later - earlier)
    return values, begin, time.perf_counter()


def _rows(setting: Setting, result: _Rounds) -> list[Row]:
    rows = []
    for work, stage in result.stages[0]:
        figures = percentiles([stages[work, stage] for stages in result.stages])
        if stage == "total" and work in result.rates:
            figures["throughput"] = Figure("tubelets/s", "higher", tuple(result.rates[work]))
        rows.append(Row({**asdict(setting), "work": work, "stage": stage}, figures))
    return rows


def percentiles(rounds: list[list[float]]) -> dict[str, Figure]:
    """p50, p90 and p99 in milliseconds of seconds measured in rounds, and how many values there were.

    Each round is a sample of a percentile if it has enough values for it (``LEAST_VALUES``). Otherwise all
    rounds together are one sample; where even they have too few, the percentile is left out.
    """
    together = [value for values in rounds for value in values]
    figures = {}
    for percent, least in LEAST_VALUES.items():
        groups = rounds if all(len(values) >= least for values in rounds) else [together]
        if len(together) >= least:
            samples = tuple(float(np.percentile(group, percent)) * MILLISECONDS for group in groups)
            figures[f"p{percent}"] = Figure("ms", "lower", samples)
    return figures | {"values": Figure("values", "neither", (float(len(together)),))}
