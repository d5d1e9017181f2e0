"""RandAugment (arXiv 1909.13719) for clips, uint8 [F, H, W, 3], without operations that move pixels.

As in Scenic's ViViT, rotation, shear and translation are left out, cutout cuts the same hole out of every
frame, and histograms are those of the whole clip. Each operation is that of PIL; magnitudes become arguments
as in the authors' code, in which 10 is full strength and more goes beyond.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

FULL_MAGNITUDE = 10.0
CUTOUT_PIXELS = 40  # half the side of the hole at full magnitude
CUTOUT_VALUE = 128


def rand_augment(frames: Tensor, layers: int, magnitude: float, rng: np.random.Generator) -> Tensor:
    """Apply ``layers`` times one of the operations, or none, all equally likely."""
    for choice in rng.integers(len(OPERATIONS) + 1, size=layers):
        if choice < len(OPERATIONS):
            frames = OPERATIONS[choice](frames, magnitude / FULL_MAGNITUDE, rng)
    return frames


def autocontrast(frames: Tensor) -> Tensor:
    """Stretch each colour channel to 0..255."""
    flat = frames.reshape(-1, 3)
    low, high = flat.amin(0).float(), flat.amax(0).float()
    scale = torch.where(high > low, 255 / (high - low).clamp(min=1), 1)
    return _to_uint8((frames - low.where(high > low, torch.zeros(3))) * scale)


def equalize(frames: Tensor) -> Tensor:
    """Flatten the histogram of each colour channel (``PIL.ImageOps.equalize``)."""
    channels = []
    for channel in frames.unbind(-1):
        counts = torch.bincount(channel.flatten(), minlength=256)
        step = int(counts.sum() - counts[counts > 0][-1]) // 255
        if step:
            before = counts.cumsum(0) - counts
            table = ((before + step // 2) // step).clamp(max=255).to(torch.uint8)
            channel = table[channel.int()]  # noqa: PLW2901 - the same channel
        channels.append(channel)
    return torch.stack(channels, dim=-1)


def invert(frames: Tensor) -> Tensor:
    """Return the negative."""
    return 255 - frames


def posterize(frames: Tensor, bits: int) -> Tensor:
    """Keep the upper ``bits`` of each value."""
    return frames & (256 - (1 << (8 - bits)) if bits else 0)


def solarize(frames: Tensor, threshold: int) -> Tensor:
    """Invert values that are not below ``threshold``."""
    return torch.where(frames.int() < threshold, frames, 255 - frames)


def solarize_add(frames: Tensor, addition: int) -> Tensor:
    """Brighten values in the lower half."""
    return torch.where(frames < 128, (frames.int() + addition).clamp(0, 255).to(torch.uint8), frames)


def colour(frames: Tensor, factor: float) -> Tensor:
    """Scale saturation: 0 is grey, 1 the unchanged clip."""
    return _blend(_grey(frames)[..., None], frames, factor)


def contrast(frames: Tensor, factor: float) -> Tensor:
    """Scale contrast: 0 is even grey, the mean brightness of the clip."""
    return _blend((_grey(frames).mean() + 0.5).floor(), frames, factor)


def brightness(frames: Tensor, factor: float) -> Tensor:
    """Scale brightness: 0 is black."""
    return _blend(torch.zeros(()), frames, factor)


def sharpness(frames: Tensor, factor: float) -> Tensor:
    """Scale sharpness: 0 is smoothed by 3 x 3 pixels; the outermost pixels stay."""
    kernel = torch.ones(3, 1, 3, 3)
    kernel[:, :, 1, 1] = 5
    smooth = F.conv2d(frames.permute(0, 3, 1, 2).float(), kernel / 13, groups=3).permute(0, 2, 3, 1)
    blurred = frames.float()
    blurred[:, 1:-1, 1:-1] = (smooth + 0.5).floor()
    return _blend(blurred, frames, factor)


def cutout(frames: Tensor, reach: int, rng: np.random.Generator) -> Tensor:
    """Cut a grey square of 2 ``reach`` pixels around a random point, the same in every frame."""
    height, width = frames.shape[1:3]
    y, x = int(rng.integers(height)), int(rng.integers(width))
    holed = frames.clone()
    holed[:, max(0, y - reach) : y + reach, max(0, x - reach) : x + reach] = CUTOUT_VALUE
    return holed


def _grey(frames: Tensor) -> Tensor:
    """Return ITU-R BT.601 brightness as PIL computes it, in 16-bit fractions: float32 [F, H, W]."""
    r, g, b = frames.int().unbind(-1)
    return ((19595 * r + 38470 * g + 7471 * b + 0x8000) >> 16).float()


def _blend(other: Tensor, frames: Tensor, factor: float) -> Tensor:
    """Interpolate linearly: ``other`` at factor 0, the frames at 1, extrapolated beyond."""
    return _to_uint8(other + (frames.float() - other) * factor)


def _to_uint8(values: Tensor) -> Tensor:
    """Clamp and truncate to whole numbers of 0..255."""
    return values.clamp(0, 255).to(torch.uint8)


Operation = Callable[[Tensor, float, np.random.Generator], Tensor]

# Strength 1 is full magnitude. Enhancements go from 0.1 (nearly gone) to 1.9 and beyond.
OPERATIONS: tuple[Operation, ...] = (
    lambda frames, strength, rng: autocontrast(frames),
    lambda frames, strength, rng: equalize(frames),
    lambda frames, strength, rng: invert(frames),
    lambda frames, strength, rng: posterize(frames, min(8, int(strength * 4))),
    lambda frames, strength, rng: solarize(frames, int(strength * 256)),
    lambda frames, strength, rng: solarize_add(frames, int(strength * 110)),
    lambda frames, strength, rng: colour(frames, strength * 1.8 + 0.1),
    lambda frames, strength, rng: contrast(frames, strength * 1.8 + 0.1),
    lambda frames, strength, rng: brightness(frames, strength * 1.8 + 0.1),
    lambda frames, strength, rng: sharpness(frames, strength * 1.8 + 0.1),
    lambda frames, strength, rng: cutout(frames, int(strength * CUTOUT_PIXELS), rng),
)
