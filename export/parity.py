"""Parity of engine files with PyTorch fp32, measured at export and required."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sfavivit.config import Sampling
from sfavivit.engines.device import Device, Processor, start_on
from sfavivit.engines.onnxruntime import OnnxModel, has_cuda
from sfavivit.errors import ParityError
from sfavivit.models.vivit import SfaVivit, TemporalTransformer
from sfavivit.repository.manifest import FEATURES, FRAMES, Parity, PlanPrecision, Precision, logits_tensor
from sfavivit.types import Features, Frames
from sfavivit.video.reader import VideoReader
from sfavivit.video.source import Source

FP32_LOGIT_TOLERANCE = 1e-4
REDUCED_FEATURE_COSINE = 0.999
TIE_LOGITS = 0.1  # classes with probabilities within a tenth of each other: either may be first
NOISE_FRAMES = 16
VIDEO_FRAMES = 64
SEED = 20230604

Pair = tuple[NDArray[Any], NDArray[Any]]
SpatialRun = Callable[[Frames], Features]
TemporalRun = Callable[[Features], dict[str, NDArray[Any]]]
"""Features float32 [B, T, D] -> logits float32 [B, C] by tensor name."""


@dataclass(frozen=True)
class ParityReport:
    """Errors of the spatial engine (in features) and of both engines in a row (in logits).

    ``device``: the device that the engines ran on, where one ran.
    """

    spatial: Parity
    temporal: Parity
    device: str = ""


def parity_clips(source: Source, sampling: Sampling, tubelet_frames: int) -> list[Frames]:
    """Return a clip of noise and one of a video: uint8 [F, H, W, 3], F a multiple of the tubelet length.

    Raises:
        VideoError: the video gives no frames.
    """
    side = sampling.crop_size
    noise_frames = max(1, NOISE_FRAMES // tubelet_frames) * tubelet_frames
    noise = np.random.default_rng(SEED).integers(0, 256, (noise_frames, side, side, 3), np.uint8)
    with VideoReader(source, sampling, chunk_frames=VIDEO_FRAMES) as reader:
        real = next(iter(reader))
    repeats = np.minimum(np.arange(-(-len(real) // tubelet_frames) * tubelet_frames), len(real) - 1)
    return [noise, real[repeats]]


def measure(
    model: SfaVivit, spatial_file: Path, temporal_file: Path, clips: list[Frames], device: Device = "cpu"
) -> ParityReport:
    """Compare two ``model.onnx`` files, on ``device``, with PyTorch on the CPU.

    Raises:
        EngineError: a file does not load or run, or the device cannot be used.
    """

    def load(processor: Processor) -> tuple[OnnxModel, OnnxModel]:
        return OnnxModel(spatial_file, None, processor), OnnxModel(temporal_file, None, processor)

    spatial, temporal = start_on(device, load, gpu_package=has_cuda())
    report = measure_runs(
        model,
        [lambda frames: spatial.run({FRAMES: frames})[FEATURES]],
        lambda features: temporal.run({FEATURES: features}),
        clips,
    )
    return replace(report, device=spatial.device)


@torch.inference_mode()
def measure_runs(
    model: SfaVivit, spatials: Sequence[SpatialRun], temporal: TemporalRun, clips: list[Frames]
) -> ParityReport:
    """Compare ways to run both halves with PyTorch on the clips; logits at T = 1, the clip's own, and T_max.

    Raises:
        EngineError: a run fails.
    """
    features = [
        (model.spatial(torch.from_numpy(clip[None]))[0].numpy(), spatial(clip[None])[0])
        for clip in clips
        for spatial in spatials
    ]
    logits = [pair for both in features for pair in _logits(model.temporal, temporal, *both)]
    return ParityReport(_compare(features), _compare(logits))


@torch.inference_mode()
def measure_temporal(model: TemporalTransformer, temporal: TemporalRun, clips: Sequence[Features]) -> Parity:
    """Compare the temporal half alone with PyTorch, on features float32 [T, D] of clips.

    Raises:
        EngineError: a run fails.
    """
    return _compare([pair for clip in clips for pair in _logits(model, temporal, clip, clip)])


def _logits(
    model: TemporalTransformer, temporal: TemporalRun, expected: Features, found: Features
) -> Iterator[Pair]:
    """Yield PyTorch's logits of features ``expected`` and the engine's of ``found``, both [T, D].

    They are cut or repeated to sequences of 1 tubelet, T, and as many as the model takes.
    """
    longest = model.dims.max_tubelets
    for length in sorted({1, min(len(found), longest), longest}):
        indices = np.arange(length) % len(found)
        answer = temporal(found[None, indices])
        for name, logits in model(torch.from_numpy(expected[None, indices])).items():
            yield logits.numpy(), answer[logits_tensor(name)]


def _compare(pairs: Sequence[Pair]) -> Parity:
    """Compare pairs of rows [n, K], PyTorch's and the engine's; NaN anywhere makes the errors NaN."""
    cosines, same = [], []
    for expected, found in pairs:
        a, b = expected.astype(np.float64), found.astype(np.float64)
        lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
        cosines.append((a * b).sum(1) / np.maximum(lengths, np.finfo(np.float64).tiny))
        chosen = np.take_along_axis(a, b.argmax(1)[:, None], axis=1)[:, 0]
        same.append(chosen >= a.max(1) - TIE_LOGITS)
    return Parity(
        max_abs_error=float(np.max([np.abs(a - b).max() for a, b in pairs])),
        min_cosine=float(np.min(np.concatenate(cosines))),
        top1_agreement=float(np.mean(np.concatenate(same))),
    )


def require(report: ParityReport, precision: Precision | PlanPrecision) -> None:
    """Raise for engines that do not reproduce the model.

    Raises:
        ParityError: fp32 logits off by more than 1e-4; for reduced precisions, a tubelet's feature with a
            cosine below 0.999, or another top-1 on a parity clip (but for ties).
    """
    # Written so that NaN fails.
    if precision == "fp32":
        error = report.temporal.max_abs_error
        if not error <= FP32_LOGIT_TOLERANCE:
            raise ParityError(
                f"fp32 logits differ from PyTorch's by {error:.3g} (allowed: {FP32_LOGIT_TOLERANCE:g}); "
                "nothing was written"
            )
        return
    cosine, agreement = report.spatial.min_cosine, report.temporal.top1_agreement
    if not (cosine >= REDUCED_FEATURE_COSINE and agreement == 1):
        raise ParityError(
            f"{precision} features have cosine {cosine:.5f} with PyTorch's "
            f"(required: {REDUCED_FEATURE_COSINE}) and top-1 agrees on {agreement:.0%} of the parity clips "
            "(required: all); nothing was written: use a higher precision"
        )
