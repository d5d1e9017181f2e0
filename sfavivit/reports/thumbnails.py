"""Thumbnails of a video as the model sees it: the square centre of the picture."""

from __future__ import annotations

import base64
import io
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from sfavivit.config import Sampling
from sfavivit.errors import SfaVivitError
from sfavivit.video.limits import Limits
from sfavivit.video.reader import VideoReader
from sfavivit.video.source import VideoSegment

COUNT = 24
SIDE = 96  # pixels; some 2 KB as JPEG
JPEG_QUALITY = 72
_MIN_FPS = 1e-3  # lowest of Sampling; videos of more than 6 hours get more than COUNT


def thumbnails(video: VideoSegment, duration_seconds: float, limits: Limits) -> list[str]:
    """Return JPEGs as ``data:`` URLs, evenly spread: picture k shows the middle of the k-th equal stretch.

    ``duration_seconds``: from the start of the segment. Decodes the video once more, in the same sandbox. The
    list is empty when that fails, since a report is complete without thumbnails.
    """
    count = min(COUNT, max(1, round(2 * duration_seconds)))
    fps = max(count / duration_seconds, _MIN_FPS)
    sampling = Sampling(fps=fps, shortest_side=SIDE, crop_size=SIDE)
    segment = replace(video, start_seconds=video.start_seconds + 0.5 / fps)
    try:
        with VideoReader(segment, sampling, chunk_frames=2 * COUNT, limits=limits) as reader:
            return [_jpeg(frame) for frame in next(reader, [])]
    except SfaVivitError:
        return []


def _jpeg(frame: NDArray[np.uint8]) -> str:
    from PIL import Image  # noqa: PLC0415 - an extra

    file = io.BytesIO()
    Image.fromarray(frame).save(file, "JPEG", quality=JPEG_QUALITY, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()
