"""The shapes that a TensorRT plan is built for: a profile for small chunks and one for large.

    profile  spatial FRAMES [B, F]                   temporal FEATURES [B, T]
    0        1 stream, up to a small chunk           1 window
    1        up to a batch of large chunks           up to a batch of windows

Profile 0 is one stream's latency. Profile 1 is throughput: chunks of many streams in Triton's batches, or the
long chunks of one file; it is tuned for one large chunk, or as many tubelets in several small ones, which is
the same work.
"""

from __future__ import annotations

from typing import NamedTuple

from export.triton import MAX_BATCH
from sfavivit.config import ModelDimensions
from sfavivit.errors import ExportError

Shape = tuple[int, ...]


class Profile(NamedTuple):
    """Input shapes that TensorRT must take, and the one it tunes for."""

    smallest: Shape
    best: Shape
    largest: Shape


def spatial_profiles(dims: ModelDimensions, small: int, large: int) -> tuple[Profile, Profile]:
    """For chunks of ``small`` and ``large`` tubelets.

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
    """For one window and for a batch of them; a clip that is still arriving is a shorter window."""

    def shape(batch: int, tubelets: int) -> Shape:
        return (batch, tubelets, dims.hidden_size)

    window = dims.max_tubelets
    return (
        Profile(shape(1, 1), shape(1, window), shape(1, window)),
        Profile(shape(1, 1), shape(MAX_BATCH, window), shape(MAX_BATCH, window)),
    )
