"""Classifying a video against the larger of its decoding alone and its inference alone.

``ratio`` is classify / max(decode, inference). Decoding and inference share the machine's cores, so
classifying cannot end before these have done the work of both; ``bound`` is the ratio that this allows:

    max(decode, inference, (decode CPU + inference CPU) / cores) / max(decode, inference)
"""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.figures import Case, Figure, Row
from benchmarks.videos import write_video
from sfavivit import Recognizer
from sfavivit.inference.streaming import Session
from sfavivit.video.reader import VideoReader


@dataclass
class _Clock:
    """Wall and CPU seconds of rounds of one work; CPU with that of the processes it started and ended."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    def round(self, work: Callable[[], int]) -> int:
        """Measure ``work``; returns what it returns."""
        cpu, wall = _cpu_seconds(), time.perf_counter()
        done = work()
        self.wall.append(time.perf_counter() - wall)
        self.cpu.append(_cpu_seconds() - cpu)
        return done


def _cpu_seconds() -> float:
    usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def measure(
    model: str, repository: Path, folder: Path, *, video_seconds: float, picture: str, rounds: int
) -> Row:
    """Classify, decode alone, infer alone, in turn; of one video of that length and WIDTHxHEIGHT.

    ``model``: what to call the repository. Inference alone starts from frames in memory.
    """
    recognizer = Recognizer.load(repository)
    video = write_video(folder / "video.mp4", video_seconds, picture)
    with VideoReader(
        video, recognizer.manifest.sampling, chunk_frames=recognizer.model.chunk_frames
    ) as reader:
        chunks = list(reader)
    frames = sum(map(len, chunks))

    def classify() -> int:
        return recognizer.classify(video).frames_used

    def decode() -> int:
        with VideoReader(
            video, recognizer.manifest.sampling, chunk_frames=recognizer.model.chunk_frames
        ) as reader:
            return sum(map(len, reader))

    def infer() -> int:
        session = Session(recognizer.model)
        for chunk in chunks:
            session.push(chunk)
        session.finish()
        return session.frames_used

    infer()  # the first calls of an engine are slow
    clocks = {work: _Clock() for work in (classify, decode, infer)}
    for _ in range(rounds):
        for work, clock in clocks.items():
            done = clock.round(work)
            assert done == frames, f"{work.__name__} gave {done} of {frames} frames"
    case: Case = {"model": model, "picture": picture, "video seconds": video_seconds}
    return Row(case, _figures(clocks[classify], clocks[decode], clocks[infer]))


def _figures(classify: _Clock, decode: _Clock, infer: _Clock) -> dict[str, Figure]:
    cores = len(os.sched_getaffinity(0))
    larger = [max(pair) for pair in zip(decode.wall, infer.wall, strict=True)]
    work = [(one + other) / cores for one, other in zip(decode.cpu, infer.cpu, strict=True)]
    ratios = tuple(wall / base for wall, base in zip(classify.wall, larger, strict=True))
    bounds = tuple(max(base, shared) / base for base, shared in zip(larger, work, strict=True))
    return {
        "classify": Figure("s", "lower", tuple(classify.wall)),
        "decode": Figure("s", "lower", tuple(decode.wall)),
        "inference": Figure("s", "lower", tuple(infer.wall)),
        "ratio": Figure("x", "lower", ratios),
        "bound": Figure("x", "neither", bounds),
        "decode CPU": Figure("s", "lower", tuple(decode.cpu)),
        "inference CPU": Figure("s", "lower", tuple(infer.cpu)),
    }
