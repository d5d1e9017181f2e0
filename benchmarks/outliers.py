"""What outlier channels cost int8 features, and what turning the residual stream saves.

Random weights have no such channels, so they are given some, like those of trained vision transformers
(FQ-ViT, Lin et al. 2022, arXiv 2111.13824, figure 1): a few entries of every norm's scale, or of what an
early block adds to the stream, far above the others. Each round draws them anew. ``sfavivit.rotation`` turns.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from benchmarks.figures import Case, Figure, Row
from benchmarks.models import random_model
from export.graphs import spatial_graph
from export.writer import ENGINE_FILE, write_engine
from sfavivit.dimensions import ModelDimensions
from sfavivit.engines.base import Features, Frames
from sfavivit.engines.onnxruntime import OnnxModel
from sfavivit.repository import FEATURES, FRAMES, Precision
from sfavivit.rotation import rotated

CHANNELS = 6
SCALE = 10  # of these entries of a norm over the others
SHIFT = 15  # of these channels of the stream; the others' values are near 1
SHIFTED_BLOCK = 1
MODELS = ("random weights", "outliers in norms", "outliers in norms and stream")

Weights = dict[str, NDArray[np.float32]]


def measure(size: str, tubelets: int, rounds: int) -> list[Row]:
    """``feature error``: one minus the cosine of int8 features with those of fp32, mean over tubelets."""
    model = random_model(size)
    trained = {name: value.numpy() for name, value in model.spatial.state_dict().items()}
    frames = _frames(model.dims, tubelets)
    rows = []
    for kind in MODELS:
        errors: dict[str, list[float]] = {"as trained": [], "turned": []}
        for seed in range(rounds):
            weights = _with_outliers(trained, kind, np.random.default_rng(seed))
            exact = _features(model.dims, weights, "fp32", frames)
            for basis, samples in errors.items():
                in_basis = rotated(weights) if basis == "turned" else weights
                samples.append(_error(exact, _features(model.dims, in_basis, "int8", frames)))
        for basis, samples in errors.items():
            case: Case = {"size": size, "model": kind, "basis": basis, "tubelets": tubelets}
            rows.append(Row(case, {"feature error": Figure("", "lower", tuple(samples))}))
    return rows


def _with_outliers(trained: Weights, kind: str, rng: np.random.Generator) -> Weights:
    weights = {name: value.copy() for name, value in trained.items()}
    channels = rng.choice(len(weights["encoder.norm.weight"]), CHANNELS, replace=False)
    for name, value in weights.items():
        if "norms" in kind and name.endswith(("norm1.weight", "norm2.weight")):
            value[channels] *= SCALE
    if "stream" in kind:
        weights[f"encoder.blocks.{SHIFTED_BLOCK}.mlp.fc2.bias"][channels] += SHIFT * rng.choice(
            [-1, 1], CHANNELS
        )
    return weights


def _frames(dims: ModelDimensions, tubelets: int) -> Frames:
    """Half of them noise, half a gradient: the two ends of what a picture can be."""
    shape = (tubelets, dims.tubelet_frames, dims.image_size, dims.image_size, 3)
    frames = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    frames[tubelets // 2 :] = np.linspace(0, 255, dims.image_size).astype(np.uint8)[:, None, None]
    return frames.reshape(1, -1, *shape[2:])


def _features(dims: ModelDimensions, weights: Weights, precision: Precision, frames: Frames) -> Features:
    with TemporaryDirectory() as folder:
        engine = Path(folder) / "engine"
        write_engine(engine, spatial_graph(dims, weights, precision), "onnxruntime")
        features: Features = OnnxModel(engine / ENGINE_FILE).run({FRAMES: frames})[FEATURES][0]
        return features


def _error(exact: Features, found: Features) -> float:
    a, b = exact.astype(np.float64), found.astype(np.float64)
    cosines = (a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    return float(1 - cosines.mean())
