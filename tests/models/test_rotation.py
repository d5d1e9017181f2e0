"""The rotated basis of int8: the same function, in which outlier channels do no harm."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from export.graphs import spatial_graph
from export.writer import write_engine
from sfavivit.config import named_dimensions
from sfavivit.engines.onnxruntime import OnnxModel
from sfavivit.models.rotation import ROTATION, rotated, rotation, unrotated
from sfavivit.models.vivit import SfaVivit
from tests.conftest import SIDE, build_model, random_frames


@given(st.integers(2, 200))
def test_a_rotation_keeps_lengths_and_the_mean_and_spreads_every_channel(size: int) -> None:
    turn = rotation(size)
    np.testing.assert_allclose(turn @ turn.T, np.eye(size), atol=1e-12)
    np.testing.assert_allclose(turn.sum(axis=1), 1, atol=1e-11)
    assert abs(turn).max() <= 2 / np.sqrt(size)


@pytest.fixture(scope="module")
def model() -> SfaVivit:
    """Norms of any scale and shift, biases of any size: what a trained model has."""
    model = build_model()
    torch.manual_seed(1)
    with torch.no_grad():
        for value in model.spatial.parameters():
            if value.ndim == 1:
                value.add_(0.2 * torch.randn_like(value))
    return model


def weights_of(model: SfaVivit) -> dict[str, Any]:
    return {name: value.detach().numpy() for name, value in model.spatial.state_dict().items()}


def run(model: SfaVivit, weights: dict[str, Any], precision: Any, folder: Path, frames: Any) -> Any:
    write_engine(folder, spatial_graph(model.dims, weights, precision), "onnxruntime")
    return OnnxModel(folder / "model.onnx").run({"FRAMES": frames})["FEATURES"][0]


def features(model: SfaVivit, frames: Any) -> Any:
    with torch.inference_mode():
        return model.spatial(torch.from_numpy(frames)).numpy()[0]


def test_the_function_is_the_same_turned_and_turned_back(model: SfaVivit, tmp_path: Path) -> None:
    frames, before = random_frames(6)[None], weights_of(model)
    expected, turned = features(model, frames), rotated(before)
    assert abs(turned["patch_embed.weight"] - before["patch_embed.weight"]).max() > 0.01
    np.testing.assert_allclose(run(model, turned, "fp32", tmp_path / "turned", frames), expected, atol=2e-5)
    back = SfaVivit(model.dims).eval()
    back.spatial.load_state_dict({name: torch.from_numpy(v) for name, v in unrotated(turned).items()})
    np.testing.assert_allclose(features(back, frames), expected, atol=2e-5)


def test_weights_that_were_not_turned_stay(model: SfaVivit) -> None:
    """Repositories of before are as good as they were."""
    weights = weights_of(model)
    assert ROTATION not in weights
    kept = unrotated(weights)
    assert all(kept[name] is weights[name] for name in weights)


@pytest.mark.parametrize("seed", range(3))
def test_outlier_channels_do_not_reach_the_features(seed: int, tmp_path: Path) -> None:
    """Outliers come from the norms' scales, as in trained models; the error is 2 to 5 times smaller."""
    torch.manual_seed(seed)
    model = SfaVivit(named_dimensions("tiny", {"": 3}, hidden_size=256, image_size=SIDE)).eval()
    with torch.no_grad():
        for name, value in model.spatial.named_parameters():
            if name.endswith(("norm1.weight", "norm2.weight")):
                value[[7, 70]] *= 30
    frames, weights = random_frames(40)[None], weights_of(model)
    expected = features(model, frames)
    plain = run(model, weights, "int8", tmp_path / "plain", frames)
    turned = run(model, rotated(weights), "int8", tmp_path / "turned", frames)
    assert error(turned, expected) < error(plain, expected) / 2


def error(found: Any, expected: Any) -> float:
    """One minus the cosine, mean over tubelets."""
    lengths = np.linalg.norm(found, axis=1) * np.linalg.norm(expected, axis=1)
    return float(1 - ((found * expected).sum(axis=1) / lengths).mean())
