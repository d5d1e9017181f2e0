"""Parity: every engine file against PyTorch fp32, measured at export and required."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sfavivit.config import Sampling
from sfavivit.engines.onnxruntime import OnnxModel
from sfavivit.errors import ParityError
from sfavivit.models.vivit import SfaVivit, TemporalTransformer
from sfavivit.repository.manifest import FEATURES, FRAMES, Parity, PlanPrecision, Precision, logits_tensor
from sfavivit.types import Features, Frames, Logits
from sfavivit.video.reader import VideoReader
from sfavivit.video.source import Source

FP32_LOGIT_TOLERANCE = 1e-4
REDUCED_FEATURE_COSINE = 0.999
TIE_LOGITS = 0.1
"""Classes whose probabilities differ by less than a tenth: either may be first when bits are fewer."""
NOISE_FRAMES = 16
VIDEO_FRAMES = 64
SEED = 20230604

SpatialRun = Callable[[Frames], Features]
TemporalRun = Callable[[Features], dict[str, NDArray[Any]]]
"""Logits by tensor name."""


@dataclass(frozen=True)
class ParityReport:
    """Errors of the spatial file (in features) and of the two files in a row (in logits)."""

    spatial: Parity
    temporal: Parity


def parity_clips(source: Source, sampling: Sampling, tubelet_frames: int) -> list[Frames]:
    """One clip of noise and one from a real video: uint8 [F, H, W, 3], F a multiple of the tubelet length.

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


def measure(model: SfaVivit, spatial_file: Path, temporal_file: Path, clips: list[Frames]) -> ParityReport:
    """``measure_runs`` of two ``model.onnx`` files on the CPU.

    Raises:
        EngineError: a file does not load or run.
    """
    spatial, temporal = OnnxModel(spatial_file), OnnxModel(temporal_file)
    return measure_runs(
        model,
        lambda frames: np.asarray(spatial.run({FRAMES: frames})[FEATURES]),
        lambda features: temporal.run({FEATURES: features}),
        clips,
    )


@torch.inference_mode()
def measure_runs(
    model: SfaVivit, spatial: SpatialRun, temporal: TemporalRun, clips: list[Frames]
) -> ParityReport:
    """Run both halves and PyTorch on the clips; logits are compared at T = 1, the clip's own and T_max.

    Raises:
        EngineError: a run fails.
    """
    features: list[tuple[Features, Features]] = []
    logits: list[tuple[Logits, Logits]] = []
    for clip in clips:
        expected = model.spatial(torch.from_numpy(clip[None]))
        found = spatial(clip[None])
        features.append((expected[0].numpy(), found[0]))
        for indices in _prefixes(len(found[0]), model.dims.max_tubelets):
            reference = {k: v.numpy() for k, v in model.temporal(expected[:, indices]).items()}
            answer = temporal(found[:, indices])
            logits.append((reference, {name: answer[logits_tensor(name)] for name in reference}))
    return ParityReport(
        _compare(features),
        _compare([(expected[name], found[name]) for expected, found in logits for name in expected]),
    )


@torch.inference_mode()
def measure_temporal(model: TemporalTransformer, temporal: TemporalRun, clips: Sequence[Features]) -> Parity:
    """As ``measure_runs``, of the temporal half alone, on features float32 [T, D] of clips.

    Raises:
        EngineError: a run fails.
    """
    pairs = []
    for clip in clips:
        for indices in _prefixes(len(clip), model.dims.max_tubelets):
            features = clip[indices][None]
            answer = temporal(features)
            for name, expected in model(torch.from_numpy(features)).items():
                pairs.append((expected.numpy(), answer[logits_tensor(name)]))
    return _compare(pairs)


def _prefixes(tubelets: int, longest: int) -> Iterator[NDArray[np.int64]]:
    """Indices into a clip's tubelets that make sequences of length 1, its own, and the longest possible."""
    for length in sorted({1, min(tubelets, longest), longest}):
        yield np.arange(length) % tubelets


def _compare(pairs: list[tuple[NDArray[Any], NDArray[Any]]]) -> Parity:
    """Pairs of rows [n, K], PyTorch's and the engine's; NaN anywhere makes the errors NaN."""
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
    """Refuse engines that do not reproduce the model.

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
