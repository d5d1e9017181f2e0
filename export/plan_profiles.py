"""Input shapes that a TensorRT plan is built for: a profile for small chunks and one for large.

    profile  spatial FRAMES [B, F]                   temporal FEATURES [B, T]
    0        1 stream, up to a small chunk           1 window
    1        up to a batch of large chunks           up to a batch of windows

Profile 0 is for the latency of one stream, profile 1 for throughput: chunks of many streams in Triton's
batches, or the long chunks of one file. It is tuned for one large chunk, which is as much work as several
small ones.
"""

from __future__ import annotations

from typing import NamedTuple

from export.triton_configs import MAX_BATCH
from sfavivit.config import ModelDimensions
from sfavivit.errors import ExportError

Shape = tuple[int, ...]


class Profile(NamedTuple):
    """Smallest and largest input shape that TensorRT must take, and the one it tunes for."""

    min: Shape
    opt: Shape
    max: Shape


def spatial_profiles(dims: ModelDimensions, small: int, large: int) -> tuple[Profile, Profile]:
    """Return the profiles for chunks of ``small`` and ``large`` tubelets.

    Raises:
        ExportError: not 1 <= small <= large.
    """
    if not 1 <= small <= large:
        raise ExportError(f"--small-chunk {small} and --large-chunk {large} must be 1 <= small <= large")

    def shape(batch: int, tubelets: int) -> Shape:
        return (batch, tubelets * dims.tubelet_frames, dims.image_size, dims.image_size, 3)

    return (
        Profile(shape(1, 1), shape(1, small), shape(1, small)),
        Profile(shape(1, 1), shape(1, large), shape(MAX_BATCH, large)),
    )


def temporal_profiles(dims: ModelDimensions) -> tuple[Profile, Profile]:
    """Return the profiles for one window and for a batch; a clip still arriving is a shorter window."""
    first, window = (1, 1, dims.hidden_size), (1, dims.max_tubelets, dims.hidden_size)
    batch = (MAX_BATCH, *window[1:])
    return Profile(first, window, window), Profile(first, batch, batch)
