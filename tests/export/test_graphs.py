"""The graphs of both halves: equal to PyTorch, standard ONNX, and blind to the rest of the batch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from export.graphs import numpy_state, temporal_graph
from export.writer import write_engine
from sfavivit.config import AdapterDimensions
from sfavivit.engines.onnxruntime import OnnxModel
from sfavivit.models.vivit import Adapter, SfaVivit
from sfavivit.repository.manifest import Precision, logits_tensor
from tests.conftest import SIDE, build_model, random_frames
from tests.export.support import cosines, run_reference, spatial_engines


@pytest.fixture(scope="module")
def model() -> SfaVivit:
    return build_model({"verb": 5, "noun": 3})


@pytest.fixture(scope="module")
def engines(model: SfaVivit, tmp_path_factory: pytest.TempPathFactory) -> dict[Precision, OnnxModel]:
    return spatial_engines(model, tmp_path_factory.mktemp("engines"))


@settings(max_examples=15)
@given(batch=st.integers(1, 4), tubelets=st.integers(1, 9), seed=st.integers(0, 9))
def test_spatial_graph_equals_pytorch_for_any_batch(
    model: SfaVivit, engines: dict[Precision, OnnxModel], batch: int, tubelets: int, seed: int
) -> None:
    frames = np.stack([random_frames(2 * tubelets, seed=seed + i) for i in range(batch)])
    with torch.inference_mode():
        expected = model.spatial(torch.from_numpy(frames)).numpy()
    found = engines["fp32"].run({"FRAMES": frames})["FEATURES"]
    np.testing.assert_allclose(found, expected, atol=2e-5)
    # A width of 32 averages little out: real models are ten times closer (see the manifests' parity).
    bounds: dict[Precision, float] = {"fp16": 0.9999, "int8": 0.997}
    for precision, bound in bounds.items():
        reduced = engines[precision].run({"FRAMES": frames})["FEATURES"]
        assert cosines(reduced, expected).min() > bound, precision


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_tubelet_does_not_see_the_others_in_its_batch(
    engines: dict[Precision, OnnxModel], precision: Precision
) -> None:
    """The whole system stands on this; one quantisation scale for a tensor would break it."""
    tubelet = random_frames(2, seed=7)
    loud = np.full((30, SIDE, SIDE, 3), 255, np.uint8)
    alone = engines[precision].run({"FRAMES": tubelet[None]})["FEATURES"][0, 0]
    together = engines[precision].run({"FRAMES": np.concatenate([loud, tubelet])[None]})["FEATURES"][0, -1]
    np.testing.assert_allclose(together, alone, atol=1e-6)


@pytest.mark.parametrize("adapter", [None, AdapterDimensions(48), AdapterDimensions(24, "relu", False)])
@pytest.mark.parametrize("tubelets", [1, 3, 8])
def test_temporal_graph_equals_pytorch(
    tmp_path: Path, adapter: AdapterDimensions | None, tubelets: int
) -> None:
    torch.manual_seed(0)
    model = SfaVivit(replace(build_model({"verb": 5, "noun": 3}).dims, adapter=adapter)).eval()
    if isinstance(model.temporal.adapter, Adapter):
        torch.nn.init.normal_(model.temporal.adapter.fc2.weight)
    built = temporal_graph(model.dims, numpy_state(model.temporal))
    write_engine(tmp_path / "1", built, "onnxruntime")
    features = torch.randn(3, tubelets, 32)
    with torch.inference_mode():
        expected = model.temporal(features)
    found = OnnxModel(tmp_path / "1" / "model.onnx").run({"FEATURES": features.numpy()})
    for name, value in expected.items():
        np.testing.assert_allclose(found[logits_tensor(name)], value.numpy(), atol=2e-5)


def test_graphs_are_standard_onnx(repository: Path) -> None:
    """The checker accepts them, and ONNX's own reference evaluator, an independent one, agrees."""
    file = repository / "sfavivit_spatial" / "1" / "model.onnx"
    frames = random_frames(4)[None]
    found = OnnxModel(file).run({"FRAMES": frames})["FEATURES"]
    np.testing.assert_allclose(found, run_reference(file, frames), atol=1e-4)
