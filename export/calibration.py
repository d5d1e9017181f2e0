"""Calibrate int8 weights (GPTQ) on activations of sample clips."""

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

VIDEO_TUBELETS = 16  # of all videos together
NOISE_TUBELETS = 8  # so that directions that no video shows keep their precision
VIDEO_FRAMES = 1024  # read from the start of a video; the tubelets are chosen among them
SEED = 20230605  # not the parity clip's
DAMPING = 0.01  # share of the mean square that is added to every input's own (GPTQ, section 3.3)


def calibration_clips(videos: Sequence[Source], sampling: Sampling, tubelet_frames: int) -> list[Frames]:
    """Return a clip of noise, and one of each video: tubelets spread over it, uint8 [F, H, W, 3].

    F is a multiple of the tubelet length. The tubelets are mirrored, so that parity is measured on other
    frames even where its video is the same.

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
    """Run the spatial half on ``clips`` and return the int8 weight of each linear layer by its name.

    ``weights`` are float32 and may be ``rotated`` (the last norm, which differs then, is no layer's input).
    ``progress`` receives each layer's name: a ViT-B takes 50 s on 2 cores.
    """
    model = SpatialTransformer(dims).eval()
    model.load_state_dict({name: torch.from_numpy(w) for name, w in weights.items() if name != ROTATION})
    layers: dict[str, QuantizedWeight] = {}

    def quantize(name: str, _: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        progress(name)
        factor = inverse_hessian_factor(inputs[0].flatten(0, -2))
        layers[name] = quantize_weight(weights[f"{name}.weight"], factor)

    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            module.register_forward_pre_hook(partial(quantize, name))
    model(torch.from_numpy(np.concatenate(clips)[None]))
    return layers


def inverse_hessian_factor(rows: Tensor) -> Floats | None:
    """Return GPTQ's factor of the inverse Hessian (section 3.3, step 3) for a layer's inputs [n, K].

    It is the upper triangular U [K, K] with ``U.T @ U`` the inverse of the damped moments
    ``rows.T @ rows / n``. ``None`` for rows that are all zero or not finite.
    """
    moments = (rows.T @ rows / len(rows)).double()
    if not moments.isfinite().all() or not moments.any():
        return None
    moments.diagonal().add_(DAMPING * moments.diagonal().mean())
    # Flipped, a lower factor is an upper one: M = R @ R.T, and U = inverse of R.
    lower = torch.linalg.cholesky(moments.flip(0, 1)).float()
    inverse = torch.linalg.solve_triangular(lower, torch.eye(len(lower)), upper=False)
    factor: Floats = inverse.flip(0, 1).contiguous().numpy()
    return factor
