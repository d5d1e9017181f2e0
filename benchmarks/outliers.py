"""Error of int8 features of models with outlier channels, with and without rotation and calibration."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, NamedTuple

import numpy as np
import typer
from numpy.typing import NDArray

from benchmarks.command_options import Out, Rounds, Size
from benchmarks.figures import RESULTS, Case, Figure, Row, report
from benchmarks.measuring import cosines
from benchmarks.models import random_model
from benchmarks.videos import read_chunks
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

CHANNELS = 6
SCALE = 10  # factor of these entries of a norm
SHIFT = 15  # added to these channels of the stream, where values are near 1
SHIFTED_BLOCK = 1
MODELS = ("random weights", "outliers in norms", "outliers in norms and stream")

Weights = dict[str, NDArray[np.float32]]


class Way(NamedTuple):
    """Basis of the residual stream, and method of making weights int8."""

    basis: str
    weights: str


WAYS = tuple(
    Way(basis, weights) for weights in ("rounded", "calibrated") for basis in ("as trained", "rotated")
)


def command(
    size: Size = "B",
    tubelets: Annotated[int, typer.Option(min=1, help="Tubelets whose features are compared.")] = 8,
    rounds: Rounds = 2,
    out: Out = RESULTS,
) -> None:
    """Measure the int8 error that outlier channels cause: as trained, rotated, calibrated.

    Random weights get outliers like those of trained transformers. The error is 1 - cosine to fp32 features.
    """
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
                    errors[test, way].append(float(1 - cosines(exact[test], found).mean()))
        for (test, way), samples in errors.items():
            case: Case = {"size": size, "model": kind, "frames": test, **way._asdict(), "tubelets": tubelets}
            rows.append(Row(case, {"feature error": Figure("", "lower", tuple(samples))}))
    report("outliers", rows, out)


def _graphs(dims: ModelDimensions, weights: Weights, clips: list[Frames]) -> dict[Way, GraphAndWeights]:
    """Return the graph of the same weights in each of ``WAYS``."""
    bases = {"as trained": weights, "rotated": rotated(weights)}
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
    """Return tubelets from all over the calibration's video, outside the frames that it used."""
    frames = next(read_chunks(SAMPLE_VIDEO, sampling, VIDEO_FRAMES))
    whole = frames[: len(frames) // dims.tubelet_frames * dims.tubelet_frames]
    every = whole.reshape(-1, dims.tubelet_frames, *frames.shape[1:])
    middles = (np.arange(tubelets) + 0.5) / tubelets * len(every)
    chosen: Frames = every[middles.astype(int)].reshape(1, -1, *frames.shape[1:])
    return chosen


def _drawn(dims: ModelDimensions, tubelets: int) -> Frames:
    """Return half noise and half a gradient: the two ends of what a picture can be."""
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
