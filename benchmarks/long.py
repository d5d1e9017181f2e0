"""A long video in windows that overlap: each tubelet once, against every window from its own frames.

Both start from the same frames in memory, and must come to the same logits. Decoding, which overlap does not
change, is left out: with it, the first would cost even less in proportion.

At an overlap of 7/8 recomputing puts each tubelet through the spatial engine eight times (at the ends of the
video fewer). Computing it once leaves eight times the windows for the temporal half: how much that is depends
on the model, since a window costs about as much as one tubelet of size tiny, but a tenth of one of size B.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.figures import Figure, Row
from benchmarks.videos import write_video
from sfavivit import Recognizer
from sfavivit.errors import UsageError
from sfavivit.inference.options import ClassifyOptions
from sfavivit.inference.streaming import Session
from sfavivit.inference.windows import PADDING, all_windows
from sfavivit.types import Frames
from sfavivit.video.reader import VideoReader

HEAD = "first"
TOLERANCE = 1e-4
ONCE, RECOMPUTED = "each tubelet once", "each window recomputed"


def measure(
    repository: Path, folder: Path, overlaps: Sequence[float], video_seconds: float, rounds: int
) -> list[Row]:
    """Both ways at each overlap, in turn; ``overlaps`` are shares of a window in [0, 1), the first is the
    one that the others are compared with.

    Raises:
        UsageError: an overlap that whole tubelets cannot have.
    """
    recognizer = Recognizer.load(repository)
    length = recognizer.manifest.head(HEAD).dimensions.max_tubelets
    strides = {overlap: _stride(overlap, length) for overlap in overlaps}
    with VideoReader(
        write_video(folder / "long.mp4", video_seconds),
        recognizer.manifest.sampling,
        chunk_frames=recognizer.model.chunk_frames,
    ) as reader:
        frames = np.concatenate(list(reader))
    for compute in (_once, _recomputed):  # the first calls of an engine are slow
        compute(recognizer, frames[: length * recognizer.manifest.dimensions.tubelet_frames], length)
    seconds: dict[tuple[str, float], list[float]] = {}
    differences: dict[float, float] = {}
    windows: dict[float, int] = {}
    for _ in range(rounds):
        for overlap, stride in strides.items():
            logits = []
            for way, compute in ((ONCE, _once), (RECOMPUTED, _recomputed)):
                start = time.perf_counter()
                logits.append(compute(recognizer, frames, stride))
                seconds.setdefault((way, overlap), []).append(time.perf_counter() - start)
            windows[overlap] = len(logits[0])
            differences[overlap] = float(np.abs(logits[0] - logits[1]).max())
            assert differences[overlap] <= TOLERANCE, f"logits differ by {differences[overlap]} at {overlap}"
    return [
        _row(way, overlap, took, seconds[way, overlaps[0]], windows[overlap], differences[overlap])
        for (way, overlap), took in seconds.items()
    ]


def _stride(overlap: float, length: int) -> int:
    stride = round((1 - overlap) * length)
    if not 0 <= overlap < 1 or stride != (1 - overlap) * length:
        raise UsageError(
            f"an overlap of {overlap:g} cannot be: windows of {length} tubelets overlap by "
            f"0, 1/{length} ... {length - 1}/{length}"
        )
    return stride


def _once(recognizer: Recognizer, frames: Frames, stride: int) -> NDArray[np.float32]:
    """float32 [windows, C]."""
    sampling, dims = recognizer.manifest.sampling, recognizer.manifest.dimensions
    session = Session(
        recognizer.model, ClassifyOptions(stride_seconds=stride * dims.tubelet_frames / sampling.fps)
    )
    return np.stack([window.logits[""] for window in (*session.push(frames), *session.finish())])


def _recomputed(recognizer: Recognizer, frames: Frames, stride: int) -> NDArray[np.float32]:
    """As ``_once``."""
    entry, tubelet_frames = recognizer.manifest.head(HEAD), recognizer.manifest.dimensions.tubelet_frames
    length = entry.dimensions.max_tubelets
    logits = []
    for window in all_windows(-(-len(frames) // tubelet_frames), length, stride):
        features = recognizer.features(frames[window.start * tubelet_frames : window.stop * tubelet_frames])
        if len(features) < length:
            features = PADDING[entry.padding](features, length)
        logits.append(recognizer.logits(features, HEAD)[""])
    return np.stack(logits)


def _row(
    way: str, overlap: float, took: list[float], base: list[float], windows: int, difference: float
) -> Row:
    ratios = tuple(one / other for one, other in zip(took, base, strict=True))
    return Row(
        {"way": way, "overlap": overlap},
        {
            "time": Figure("s", "lower", tuple(took)),
            "times the first": Figure("x", "lower", ratios),
            "windows": Figure("windows", "neither", (windows,)),
            "largest difference": Figure("logit", "neither", (difference,)),
        },
    )
