"""Augmentation of a clip, uint8 [F, H, W, 3] RGB, with the same random choice for all of its frames.

    random size ─► random crop ─► flip ─► RandAugment, or else colour jitter

Order and distributions are those of the training of ViViT in Scenic
(``video_tfrecord_dataset.additional_augmentations`` and DMVR's ``processors``).
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from training.config import AugmentationConfig
from training.randaugment import rand_augment

# DMVR, processors.color_default_augm, for values in [0, 1].
BRIGHTNESS = 32 / 255  # added, at most
SATURATION = CONTRAST = (0.6, 1.4)  # factors
HUE = 0.2  # of a turn, at most
GREY = (0.299, 0.587, 0.114)  # weights of R, G, B (ITU-R BT.601)
CHUNK_FRAMES = 16  # whose colours are changed at once: floating point takes room


def augment(frames: Tensor, size: int, config: AugmentationConfig, rng: np.random.Generator) -> Tensor:
    """Return a random view of the clip: uint8 [F, ``size``, ``size``, 3]."""
    if rng.random() < config.scale_jitter:
        frames = resize(frames, *rng.uniform(*config.scale_range, 2))
    at = tuple(rng.random(2)) if rng.random() < config.random_crop else (0.5, 0.5)
    frames = crop(frames, size, *at)
    if rng.random() < config.flip:
        frames = frames.flip(2)
    if config.randaugment:
        return rand_augment(frames, config.randaugment.layers, config.randaugment.magnitude, rng)
    if rng.random() < config.colour_jitter:
        frames = random_colours(frames, rng)
    if rng.random() < config.colour_drop:
        frames = (frames.float() @ torch.tensor(GREY)).round().to(torch.uint8)[..., None].repeat(1, 1, 1, 3)
    return frames


def resize(frames: Tensor, down: float, across: float) -> Tensor:
    """Resize bilinearly by a factor per side: uint8 [F, int(down * H), int(across * W), 3]."""
    size = int(down * frames.shape[1]), int(across * frames.shape[2])
    resized = F.interpolate(frames.permute(0, 3, 1, 2), size=size, mode="bilinear", align_corners=False)
    return resized.permute(0, 2, 3, 1)


def crop(frames: Tensor, size: int, down: float, across: float) -> Tensor:
    """Crop a square at 0 (top, left) to 1 along each side: uint8 [F, ``size``, ``size``, 3]."""
    top, left = round(down * (frames.shape[1] - size)), round(across * (frames.shape[2] - size))
    return frames[:, top : top + size, left : left + size]


def random_colours(frames: Tensor, rng: np.random.Generator) -> Tensor:
    """Change brightness, saturation, contrast and hue at random, in this order."""
    brightness, hue = rng.uniform(-BRIGHTNESS, BRIGHTNESS), rng.uniform(-HUE, HUE)
    saturation, contrast = rng.uniform(*SATURATION), rng.uniform(*CONTRAST)
    changed = [
        change_colours(part, brightness, saturation, contrast, hue)
        for part in torch.split(frames, CHUNK_FRAMES)
    ]
    return torch.cat(changed)


def change_colours(
    frames: Tensor, brightness: float, saturation: float, contrast: float, hue: float
) -> Tensor:
    """Add ``brightness`` in [0, 1], scale saturation and contrast, and rotate the hue by a share of a turn.

    Contrast is about the mean of each colour of each frame, as in ``tf.image.adjust_contrast``.
    """
    pixels = frames.permute(3, 0, 1, 2).float() / 255 + brightness
    h, s, v = rgb_to_hsv(pixels)
    pixels = hsv_to_rgb(h, (s * saturation).clamp(0, 1), v)
    mean = pixels.mean((2, 3), keepdim=True)
    pixels = (pixels - mean) * contrast + mean
    h, s, v = rgb_to_hsv(pixels)
    pixels = hsv_to_rgb((h + hue) % 1, s, v).clamp(0, 1)
    return (pixels * 255).round().to(torch.uint8).permute(1, 2, 3, 0)


def rgb_to_hsv(rgb: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Convert [3, ...] to hue in turns, saturation and value; grey has hue 0, black saturation 0."""
    value, largest = rgb.max(0)
    spread = value - rgb.amin(0)
    divisor = torch.where(spread > 0, spread, 1)
    r, g, b = rgb
    sixths = torch.stack([(g - b) / divisor, (b - r) / divisor + 2, (r - g) / divisor + 4])
    hue = sixths.gather(0, largest[None])[0] / 6 % 1
    return hue, torch.where(value > 0, spread / torch.where(value > 0, value, 1), 0), value


def hsv_to_rgb(hue: Tensor, saturation: Tensor, value: Tensor) -> Tensor:
    """Convert hue in turns [0, 1), saturation and value, each [...], to [3, ...]."""
    chroma = value * saturation
    channels = []
    for offset in (5, 3, 1):
        sixth = (offset + hue * 6) % 6
        channels.append(value - chroma * torch.minimum(sixth, 4 - sixth).clamp(0, 1))
    return torch.stack(channels)
