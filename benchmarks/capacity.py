"""From measured rates to machines, storage and network: a sheet of formulas, shown with their numbers.

    machines = ceil(peak_video * machine_seconds / utilisation)
               = ceil(1.5 * 1.19 / 0.6) = 3 machines

How much of a machine may be used is what the queue says (:mod:`benchmarks.queueing`): the highest utilisation
at which 99 of 100 requests wait no longer than they may.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil, inf
from typing import Literal

import numpy as np

from benchmarks.figures import Figure, Result, Row
from benchmarks.queueing import Wait, service_shape, wait_at
from sfavivit.errors import UsageError

UTILISATIONS = (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)
EngineOn = Literal["cpu", "gpu"]

LEAST_REQUESTS = 1000
MOST_CV = 10

Formula = tuple[str, str, str, str]

# Name, unit, formula, meaning. A formula knows the inputs and the lines above it.
_RATES: tuple[Formula, ...] = (
    ("tubelets_per_video_second", "tubelets/video s", "fps / tubelet_frames", ""),
    ("engine_seconds", "machine s/video s", "tubelets_per_video_second / tubelets_per_second", ""),
    ("decode_seconds", "machine s/video s", "decode_cpu_seconds / cores", ""),
    ("cores_to_feed_engine", "cores", "decode_cpu_seconds / engine_seconds", "that decode while it computes"),
)
_MACHINE_SECONDS: dict[EngineOn, Formula] = {
    "cpu": ("machine_seconds", "machine s/video s", "engine_seconds + decode_seconds", "on the same cores"),
    "gpu": ("machine_seconds", "machine s/video s", "max(engine_seconds, decode_seconds)", "side by side"),
}
_REQUEST: Formula = ("service_seconds", "s/request", "video_seconds * machine_seconds", "")
_SITE: tuple[Formula, ...] = (
    ("mean_video", "video s/s", "hours_a_day / 24", "that arrives"),
    ("peak_video", "video s/s", "mean_video * peak", "that arrives at the busiest time"),
    ("machines", "machines", "ceil(peak_video * machine_seconds / utilisation)", ""),
    ("decode_cores", "cores", "peak_video * decode_cpu_seconds / utilisation", "of those, for ffmpeg"),
    ("video_in", "Gbit/s", "peak_video * video_mbit / 1e3", ""),
    ("frames_to_engine", "Gbit/s", "peak_video * fps * frame_bytes * 8 / 1e9", "if it is another machine's"),
    ("features_out", "Gbit/s", "peak_video * tubelets_per_video_second * tubelet_bytes * 8 / 1e9", ""),
    ("entries_a_day", "entries", "hours_a_day * 3600 / video_seconds", "new in the store"),
    ("features_a_day", "GB", "hours_a_day * 3600 * tubelets_per_video_second * tubelet_bytes / 1e9", ""),
    ("features_a_year", "TB", "features_a_day * 365 / 1e3", ""),
    ("features_kept", "TB", "features_a_day * retention_days / 1e3", ""),
    ("video_a_day", "GB", "hours_a_day * 3600 * video_mbit / 8 / 1e3", "not stored here"),
)


@dataclass(frozen=True)
class Input:
    """A number put in, and where it is from: an option, an assumption, a measurement."""

    value: float
    unit: str
    source: str


@dataclass(frozen=True)
class Line:
    """One line of the sheet. ``inserted``: the formula with its numbers in it, four digits of each."""

    name: str
    unit: str
    formula: str
    inserted: str
    value: float
    meaning: str = ""

    def __str__(self) -> str:
        result = f"{self.inserted} = {number(self.value)} {self.unit} {self.meaning}"
        return f"{self.name} = {self.formula}\n{' ' * len(self.name)} = {result.strip()}"


def number(value: float) -> str:
    """Four digits, or all of them before the point."""
    return f"{value:.0f}" if value >= 1000 else f"{value:.4g}"


def machine_lines(inputs: Mapping[str, Input], engine_on: EngineOn) -> list[Line]:
    """What a second of video, and a whole request, costs one machine.

    Raises:
        UsageError: an input that is no number above 0.
    """
    for name, given in inputs.items():
        if not 0 < given.value < inf:
            raise UsageError(f"{name} must be more than 0, got {given.value:g}")
    formulas = (*_RATES, _MACHINE_SECONDS[engine_on], _REQUEST)
    return _lines(formulas, {name: given.value for name, given in inputs.items()})


def site_lines(inputs: Mapping[str, Input], machine: Sequence[Line]) -> list[Line]:
    """Machines, network and storage of a site; ``inputs`` now with the ``utilisation`` of its machines."""
    known = {name: given.value for name, given in inputs.items()}
    return _lines(_SITE, known | {line.name: line.value for line in machine})


def _lines(formulas: Sequence[Formula], known: Mapping[str, float]) -> list[Line]:
    values, lines = dict(known), []

    def shown(word: re.Match[str]) -> str:
        return number(values[word[0]]) if word[0] in values else word[0]

    for name, unit, formula, meaning in formulas:
        # What is shown is what is computed; the formulas are constants of this file.
        value = float(eval(formula, {"ceil": ceil, "max": max}, values))  # noqa: S307
        lines.append(Line(name, unit, formula, re.sub("[a-z_]+", shown, formula), value, meaning))
        values[name] = value
    return lines


def simulate(
    servers: int, requests: int, *, measured: Sequence[float] | None = None, length_cv: float = 0.0
) -> list[Wait]:
    """The wait at each of ``UTILISATIONS``, of so many requests: see :mod:`benchmarks.queueing`.

    Raises:
        UsageError: too few requests for a percentile, no server, a deviation that is none.
    """
    if servers < 1 or requests < LEAST_REQUESTS or not 0 <= length_cv <= MOST_CV:
        raise UsageError(
            f"a line needs at least 1 server, {LEAST_REQUESTS} requests and a deviation of lengths from 0 to "
            f"{MOST_CV}; got {servers}, {requests} and {length_cv:g}"
        )
    rng = np.random.default_rng(0)
    times = None if measured is None else np.array(measured)
    shape = service_shape(requests, rng, measured=times, length_cv=length_cv)
    return [wait_at(utilisation, shape, servers, rng) for utilisation in UTILISATIONS]


def headroom(waits: Sequence[Wait], most_wait: float) -> Wait:
    """The highest utilisation at which 99 of 100 requests wait at most ``most_wait`` service times.

    Raises:
        UsageError: there is none.
    """
    if fit := [wait for wait in waits if wait.p99 <= most_wait]:
        return max(fit, key=lambda wait: wait.utilisation)
    least = min(waits, key=lambda wait: wait.utilisation)
    raise UsageError(
        f"at {least.utilisation:g} of the machine 1 request in 100 waits for {number(least.p99)} service "
        f"times, more than {most_wait:g}; raise --most-wait, or have more --servers share a line"
    )


def fastest(result: Result, size: str) -> Input:
    """The best throughput in tubelets a second of a model of ``size`` in a result.

    Raises:
        UsageError: it has none.
    """
    found = [
        (figure, row)
        for row in result.rows
        for figure in row.figures.values()
        if row.case.get("size") == size and figure.unit == "tubelets/s"
    ]
    if not found:
        raise UsageError(
            f"result {result.benchmark!r} has no tubelets/s of size {size}; give --tubelets-per-second"
        )
    figure, row = max(found, key=lambda pair: pair[0].median)
    settings = " ".join(str(row.case[key]) for key in ("engine", "precision") if key in row.case)
    return Input(figure.median, figure.unit, f"measured: {result.benchmark}, {settings}")


def measured_figure(result: Result, name: str, **case: str | float) -> Figure:
    """The figure ``name`` of the first row whose case says all of ``case``.

    Raises:
        UsageError: there is none.
    """
    for row in result.rows:
        if case.items() <= row.case.items() and name in row.figures:
            return row.figures[name]
    settings = ", ".join(f"{key} {value}" for key, value in case.items())
    raise UsageError(
        f"result {result.benchmark!r} has no {name!r} of {settings}; give the value as an option"
    )


def rows(
    inputs: Mapping[str, Input], lines: Sequence[Line], waits: Sequence[Wait], **line: float
) -> list[Row]:
    """A row for each input, each line of the sheet, and the wait at each utilisation of ``line``."""
    quantities = [(name, given.unit, given.value) for name, given in inputs.items()]
    quantities += [(done.name, done.unit, done.value) for done in lines]
    found = [
        Row({"quantity": name}, {"value": Figure(unit, "neither", (value,))})
        for name, unit, value in quantities
    ]
    for wait in waits:
        figures = {
            name: Figure("service times", "neither", (value,))
            for name, value in (("mean", wait.mean), ("p50", wait.p50), ("p99", wait.p99))
        }
        found.append(Row({"quantity": "wait", **line, "utilisation": wait.utilisation}, figures))
    return found
