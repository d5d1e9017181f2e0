"""What outlier channels cost int8 features, and what turning and calibration save.

Random weights have no such channels, so they are given some, like those of trained vision transformers
(FQ-ViT, Lin et al. 2022, arXiv 2111.13824, figure 1): a few entries of every norm's scale, or of what an
early block adds to the stream, far above the others. Each round draws them anew.
``sfavivit.models.rotation`` turns the residual stream; ``export.calibration`` then
fits the weights to a video's frames, and to noise. Features
are compared on that video's other frames, and on pictures that are nothing like them.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.figures import Case, Figure, Row
from benchmarks.models import random_model
from export.calibration import VIDEO_FRAMES, calibrated, calibration_clips
from export.exporter import DEFAULT_FPS, RESIZE_RATIO, SAMPLE_VIDEO
from export.graph_builder import GraphAndWeights
from export.graphs import spatial_graph
from export.writer import ENGINE_FILE, write_engine
from sfavivit.config import ModelDimensions, Sampling
from sfavivit.engines.onnxruntime import OnnxModel
from sfavivit.models.rotation import rotated
from sfavivit.repository.manifest import FEATURES, FRAMES
from sfavivit.types import Features, Frames
from sfavivit.video.reader import VideoReader

CHANNELS = 6
SCALE = 10  # of these entries of a norm over the others
SHIFT = 15  # of these channels of the stream; the others' values are near 1
SHIFTED_BLOCK = 1
MODELS = ("random weights", "outliers in norms", "outliers in norms and stream")

Weights = dict[str, NDArray[np.float32]]


class Way(NamedTuple):
    """Of the residual stream's basis, and of making weights int8."""

    basis: str
    weights: str


WAYS = tuple(
    Way(basis, weights) for weights in ("rounded", "calibrated") for basis in ("as trained", "turned")
)


def measure(size: str, tubelets: int, rounds: int) -> list[Row]:
    """``feature error``: one minus the cosine of int8 features with those of fp32, mean over tubelets."""
    model = random_model(size)
    trained = {name: value.numpy() for name, value in model.spatial.state_dict().items()}
    sampling = Sampling(DEFAULT_FPS, round(model.dims.image_size * RESIZE_RATIO), model.dims.image_size)
    clips = calibration_clips([SAMPLE_VIDEO], sampling, model.dims.tubelet_frames)
    tests = {"video": _video(sampling, model.dims, tubelets), "noise, gradient": _drawn(model.dims, tubelets)}
    rows = []
    for kind in MODELS:
        errors: dict[tuple[str, Way], list[float]] = {(test, way): [] for test in tests for way in WAYS}
        for seed in range(rounds):
            weights = _with_outliers(trained, kind, np.random.default_rng(seed))
            exact = _features(spatial_graph(model.dims, weights, "fp32"), tests)
            for way, graph in _graphs(model.dims, weights, clips).items():
                for test, found in _features(graph, tests).items():
                    errors[test, way].append(_error(exact[test], found))
        for (test, way), samples in errors.items():
            case: Case = {"size": size, "model": kind, "frames": test, **way._asdict(), "tubelets": tubelets}
            rows.append(Row(case, {"feature error": Figure("", "lower", tuple(samples))}))
    return rows


def _graphs(dims: ModelDimensions, weights: Weights, clips: list[Frames]) -> dict[Way, GraphAndWeights]:
    """The same weights in each of ``WAYS``."""
    bases = {"as trained": weights, "turned": rotated(weights)}
    return {
        way: spatial_graph(
            dims,
            bases[way.basis],
            "int8",
            quantized=calibrated(dims, bases[way.basis], clips) if way.weights == "calibrated" else {},
        )
        for way in WAYS
    }


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


def _video(sampling: Sampling, dims: ModelDimensions, tubelets: int) -> Frames:
    """Tubelets from all over the video of the calibration, where that did not look."""
    with VideoReader(SAMPLE_VIDEO, sampling, chunk_frames=VIDEO_FRAMES) as reader:
        frames = next(iter(reader))
    whole = frames[: len(frames) // dims.tubelet_frames * dims.tubelet_frames]
    every = whole.reshape(-1, dims.tubelet_frames, *frames.shape[1:])
    middles = (np.arange(tubelets) + 0.5) / tubelets * len(every)
    chosen: Frames = every[middles.astype(int)].reshape(1, -1, *frames.shape[1:])
    return chosen


def _drawn(dims: ModelDimensions, tubelets: int) -> Frames:
    """Half of them noise, half a gradient: the two ends of what a picture can be."""
    shape = (tubelets, dims.tubelet_frames, dims.image_size, dims.image_size, 3)
    frames = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    frames[tubelets // 2 :] = np.linspace(0, 255, dims.image_size).astype(np.uint8)[:, None, None]
    return frames.reshape(1, -1, *shape[2:])


def _features(graph: GraphAndWeights, tests: dict[str, Frames]) -> dict[str, Features]:
    with TemporaryDirectory() as folder:
        engine = Path(folder) / "engine"
        write_engine(engine, graph, "onnxruntime")
        model = OnnxModel(engine / ENGINE_FILE)
        return {test: model.run({FRAMES: frames})[FEATURES][0] for test, frames in tests.items()}


def _error(exact: Features, found: Features) -> float:
    a, b = exact.astype(np.float64), found.astype(np.float64)
    cosines = (a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    return float(1 - cosines.mean())
