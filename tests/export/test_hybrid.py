"""Hybrids: their graphs, and the way from export to recognition and back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from export.graphs import numpy_state, spatial_graph
from export.source import read_source
from export.writer import write_engine
from sfavivit import Recognizer, Repository
from sfavivit.engines.onnxruntime import OnnxModel
from sfavivit.models.vivit import SfaVivit
from sfavivit.repository.manifest import Precision
from tests.export.support import cosines, export_plainly, run_reference, spatial_engines
from tests.models.reference_hybrid import SIDE, frames_of, hybrid_model, standardised
from tests.models.reference_vit import assert_same
from tests.video_files import encode


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> SfaVivit:
    return hybrid_model(tmp_path_factory.mktemp("image"))


@pytest.fixture(scope="module")
def engines(model: SfaVivit, tmp_path_factory: pytest.TempPathFactory) -> dict[Precision, OnnxModel]:
    return spatial_engines(model, tmp_path_factory.mktemp("engines"))


@pytest.mark.parametrize(("batch_size", "tubelets"), [(1, 1), (2, 3)])
def test_graph_equals_pytorch(
    model: SfaVivit, engines: dict[Precision, OnnxModel], batch_size: int, tubelets: int
) -> None:
    frames = frames_of(batch_size, 2 * tubelets)
    with torch.inference_mode():
        expected = model.spatial(frames).numpy()
    found = {name: engine.run({"FRAMES": frames.numpy()})["FEATURES"] for name, engine in engines.items()}
    np.testing.assert_allclose(found["fp32"], expected, atol=5e-5)
    # A width of 32 averages little out.
    assert cosines(found["fp16"], expected).min() > 0.9999
    assert cosines(found["int8"], expected).min() > 0.995


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_tubelet_does_not_see_the_others_in_its_batch(
    engines: dict[Precision, OnnxModel], precision: Precision
) -> None:
    tubelet, loud = frames_of(1, 2).numpy(), np.full((1, 6, SIDE, SIDE, 3), 255, np.uint8)
    alone = engines[precision].run({"FRAMES": tubelet})["FEATURES"][0, 0]
    together = engines[precision].run({"FRAMES": np.concatenate([loud, tubelet], 1)})["FEATURES"][0, -1]
    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_graph_is_standard_onnx(model: SfaVivit, tmp_path: Path) -> None:
    """The checker accepts it, and ONNX's own reference evaluator, an independent one, agrees."""
    weights = numpy_state(model.spatial)
    write_engine(tmp_path / "1", spatial_graph(model.dims, weights, "fp32"), "onnxruntime")
    file = tmp_path / "1" / "model.onnx"
    frames = frames_of(1, 2)
    found = run_reference(file, frames.numpy())
    with torch.inference_mode():
        np.testing.assert_allclose(found, model.spatial(frames).numpy(), atol=1e-4)


@pytest.mark.parametrize(("precision", "cast_first"), [("fp16", False), ("int8", False), ("fp32", True)])
def test_all_but_an_fp32_repository_hold_standardised_weights(
    model: SfaVivit, precision: Precision, cast_first: bool
) -> None:
    weights = numpy_state(model.spatial)
    built = spatial_graph(model.dims, weights, precision, cast_first=cast_first)
    for node in built.graph.node:
        assert node.op_type != "Conv" or node.input[1] in built.initializers
    name = "resnet.stages.1.blocks.0.conv2.weight"
    expected = standardised(torch.from_numpy(weights[name])).numpy()
    np.testing.assert_allclose(built.stored[name], expected, atol=1e-6 if precision != "fp16" else 4e-3)
    assert not any("resnet" in name and "int8" in name for name in built.stored)  # floats in int8 too
    kept = spatial_graph(model.dims, weights, "fp32").stored
    assert all(np.array_equal(kept[name], value) for name, value in weights.items())


def test_from_export_to_recognition_and_back(model: SfaVivit, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    steps = rng.normal(0, 12, (40, 8, 8, 3)).cumsum(0) + 128
    frames = np.clip(steps, 0, 255).astype(np.uint8).repeat(8, 1).repeat(8, 2)
    video = encode(tmp_path / "x.mp4", frames)
    target = tmp_path / "repository"
    summary = export_plainly(model, target, video, shortest_side=SIDE)
    assert summary.parity.temporal.max_abs_error < 1e-4
    assert Repository.load(target).manifest.dimensions == model.dims
    recognizer = Recognizer.load(target)
    clip = frames[:8, :SIDE, :SIDE]
    expected = model(torch.from_numpy(clip)[None])[""].detach().numpy()[0]
    features = recognizer.features(clip)
    found = recognizer.model.engine.temporal("default", features[None])[""][0]
    np.testing.assert_allclose(found, expected, atol=1e-4)
    reference = Recognizer.load(target, engine="torch").features(clip)
    np.testing.assert_allclose(features, reference, atol=1e-4)
    assert len(recognizer.classify(video).heads["default"][""].labels) == 5

    again = read_source(target, [], None).model
    assert_same(again, model)
    export_plainly(again, target, video, head="again", frames=4)
    assert set(Repository.load(target).manifest.heads) == {"default", "again"}
