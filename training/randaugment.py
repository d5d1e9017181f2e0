"""RandAugment (arXiv 1909.13719) for clips, uint8 [F, H, W, 3], without operations that move pixels.

As in Scenic's ViViT, rotation, shear and translation are left out, cutout cuts the same hole out of every
frame, and histograms are those of the whole clip. The other operations are PIL's; magnitudes become arguments
as in the authors' code, in which 10 is full strength and more goes beyond.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from PIL import Image, ImageEnhance, ImageOps
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


def _by_pil(operation: Callable[[Image.Image], Image.Image], frames: Tensor) -> Tensor:
    """Apply an operation of PIL to the clip as one tall picture."""
    tall = Image.fromarray(frames.reshape(-1, *frames.shape[2:]).numpy())
    return torch.from_numpy(np.array(operation(tall))).view(frames.shape)


def _enhance(kind: Callable[[Image.Image], ImageEnhance._Enhance], frames: Tensor, factor: float) -> Tensor:
    return _by_pil(lambda picture: kind(picture).enhance(factor), frames)


# Of a clip:
autocontrast = partial(_by_pil, ImageOps.autocontrast)
equalize = partial(_by_pil, ImageOps.equalize)
invert = partial(_by_pil, ImageOps.invert)
# Of a clip and a factor, 1 for the unchanged clip:
colour = partial(_enhance, ImageEnhance.Color)
contrast = partial(_enhance, ImageEnhance.Contrast)
brightness = partial(_enhance, ImageEnhance.Brightness)


def sharpness(frames: Tensor, factor: float) -> Tensor:
    """Scale the sharpness of each frame; a tall picture would be smoothed across frames."""
    return torch.cat([_enhance(ImageEnhance.Sharpness, frame[None], factor) for frame in frames])


def posterize(frames: Tensor, bits: int) -> Tensor:
    """Keep the upper ``bits`` of each value."""
    return frames & (256 - (1 << (8 - bits)) if bits else 0)  # PIL takes no 0


def solarize(frames: Tensor, threshold: int) -> Tensor:
    """Invert values that are not below ``threshold``."""
    return _by_pil(lambda picture: ImageOps.solarize(picture, threshold), frames)


def solarize_add(frames: Tensor, addition: int) -> Tensor:
    """Brighten values in the lower half."""
    return torch.where(frames < 128, (frames.int() + addition).clamp(0, 255).to(torch.uint8), frames)


def cutout(frames: Tensor, reach: int, rng: np.random.Generator) -> Tensor:
    """Cut a grey square of 2 ``reach`` pixels around a random point, the same in every frame."""
    height, width = frames.shape[1:3]
    y, x = int(rng.integers(height)), int(rng.integers(width))
    holed = frames.clone()
    holed[:, max(0, y - reach) : y + reach, max(0, x - reach) : x + reach] = CUTOUT_VALUE
    return holed


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
