"""int8 weights for what the layers of a spatial half see: the model runs on some clips, its layers look."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from export.quantization import Floats, QuantizedWeight, quantize_weight
from sfavivit.config import ModelDimensions, Sampling
from sfavivit.models.rotation import ROTATION
from sfavivit.models.vivit import SpatialTransformer
from sfavivit.types import Frames
from sfavivit.video.reader import VideoReader
from sfavivit.video.source import Source

VIDEO_TUBELETS, NOISE_TUBELETS = 16, 8
"""Noise keeps what no video shows from being given up for what they do."""
VIDEO_FRAMES = 1024  # of a video, among which they are chosen
SEED = 20230605  # not the parity clip's
DAMPING = 0.01
"""Of the mean square, added to every input's own, as in GPTQ, section 3.3."""


def calibration_clips(videos: Sequence[Source], sampling: Sampling, tubelet_frames: int) -> list[Frames]:
    """Noise, and tubelets from all over each video, mirrored, so that parity sees other frames.

    uint8 [F, H, W, 3] each, F a multiple of the tubelet length.

    Raises:
        VideoError: a video gives no frames.
    """
    side = sampling.crop_size
    noise = (NOISE_TUBELETS * tubelet_frames, side, side, 3)
    clips = [np.random.default_rng(SEED).integers(0, 256, noise, np.uint8)]
    for video in videos:
        with VideoReader(video, sampling, chunk_frames=VIDEO_FRAMES) as reader:
            frames = next(iter(reader))
        tubelets = max(1, min(len(frames) // tubelet_frames, VIDEO_TUBELETS // len(videos)))
        starts = np.linspace(0, len(frames) - tubelet_frames, tubelets).astype(int)
        chosen = (starts[:, None] + np.arange(tubelet_frames)).clip(0, len(frames) - 1)
        clips.append(frames[chosen.ravel(), :, ::-1])
    return clips


@torch.inference_mode()
def calibrated(
    dims: ModelDimensions,
    weights: Mapping[str, Floats],
    clips: Sequence[Frames],
    progress: Callable[[str], None] = lambda _: None,
) -> dict[str, QuantizedWeight]:
    """Layer name -> its int8 weight, from the float32 weights of a spatial half and clips as above.

    Weights that are ``rotated`` want another last norm, which no layer sees. ``progress`` hears each layer's
    name: a ViT-B takes 50 s on 2 cores.
    """
    model = SpatialTransformer(dims).eval()
    model.load_state_dict({name: torch.from_numpy(w) for name, w in weights.items() if name != ROTATION})
    found: dict[str, QuantizedWeight] = {}

    def look(name: str, _: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        progress(name)
        spread = spread_of(inputs[0].flatten(0, -2))
        found[name] = quantize_weight(weights[f"{name}.weight"], spread)

    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            module.register_forward_pre_hook(partial(look, name))
    model(torch.from_numpy(np.concatenate(clips)[None]))
    return found


def spread_of(rows: Tensor) -> Floats | None:
    """How the error at one input is best made up for by later ones, given rows [n, K] of inputs.

    Upper triangular U [K, K] with ``U.T @ U`` the inverse of the damped moments ``rows.T @ rows / n``: row k
    over its diagonal is what the later inputs owe for an error at input k (GPTQ, section 3.3, step 3). Of
    rows that are all zero or not finite nothing can be said: ``None``.
    """
    moments = (rows.T @ rows / len(rows)).double()
    if not moments.isfinite().all() or not moments.any():
        return None
    moments.diagonal().add_(DAMPING * moments.diagonal().mean())
    # Turned about, a lower factor is an upper one: M = R @ R.T, and U = inverse of R.
    lower = torch.linalg.cholesky(moments.flip(0, 1)).float()
    inverse = torch.linalg.solve_triangular(lower, torch.eye(len(lower)), upper=False)
    spread: Floats = inverse.flip(0, 1).contiguous().numpy()
    return spread
