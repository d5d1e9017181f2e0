"""A recorded screen: what stands still between two slides, computed once or at every call.

Slides are pictures of a test pattern, each held for a while, in H.264 like any video. The encoder refreshes
its picture now and then, so a slide is not the same to the last bit all the time. Both ways start from the
same frames in memory and must come to the same bits.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.figures import Figure, Row
from benchmarks.videos import RATE, write_video
from sfavivit import Recognizer
from sfavivit.types import Features, Frames
from sfavivit.video.reader import VideoReader

PICTURE = "640x360"


def measure(
    repository: Path, folder: Path, video_seconds: float, slide_seconds: float, rounds: int
) -> list[Row]:
    """Both ways in turn, ``rounds`` times.

    Raises:
        AssertionError: they give other features.
    """
    recognizer = Recognizer.load(repository)
    held = f"fps=1/{slide_seconds:g},fps={RATE}"
    with VideoReader(
        write_video(folder / "slides.mp4", video_seconds, PICTURE, look=held),
        recognizer.manifest.sampling,
        chunk_frames=recognizer.model.chunk_frames,
    ) as reader:
        frames = np.concatenate(list(reader))
    every = _every_call(recognizer, frames)
    ways: dict[str, Callable[[Frames], Features]] = {
        "every call computed": partial(_every_call, recognizer),
        "what moves computed": recognizer.features,
    }
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(rounds):
        for way, compute in ways.items():
            start = time.perf_counter()
            features = compute(frames)
            seconds[way].append(time.perf_counter() - start)
            np.testing.assert_array_equal(features, every)
    every_call, what_moves = ways
    ratios = np.divide(seconds[every_call], seconds[what_moves])
    more = {
        every_call: {"still": Figure("share of tubelets", "neither", (_still_share(recognizer, frames),))},
        what_moves: {"times faster": Figure("x", "higher", tuple(ratios))},
    }
    case = {"video seconds": video_seconds, "slide seconds": slide_seconds}
    return [
        Row({**case, "what": way}, {"time": Figure("s", "lower", tuple(samples)), **more[way]})
        for way, samples in seconds.items()
    ]


def _every_call(recognizer: Recognizer, frames: Frames) -> Features:
    """As ``Recognizer.features``, each chunk through the engine."""
    size, tubelet = recognizer.model.chunk_frames, recognizer.manifest.dimensions.tubelet_frames
    padded = np.concatenate([frames, np.repeat(frames[-1:], -len(frames) % size, axis=0)])
    calls = [
        recognizer.model.engine.spatial(padded[None, at : at + size])[0] for at in range(0, len(padded), size)
    ]
    features: Features = np.concatenate(calls)[: -(-len(frames) // tubelet)]
    return features


def _still_share(recognizer: Recognizer, frames: Frames) -> float:
    """Of the tubelets, those that are the one before to the last bit."""
    tubelet = recognizer.manifest.dimensions.tubelet_frames
    tubelets = frames[: len(frames) // tubelet * tubelet].reshape(-1, tubelet * frames[0].size)
    return float(np.mean([np.array_equal(a, b) for a, b in zip(tubelets[1:], tubelets[:-1], strict=True)]))
