"""Properties of the PyTorch model."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from sfavivit.config import AdapterDimensions
from sfavivit.errors import InvalidInputError
from sfavivit.models.vivit import Adapter, interpolate_positions
from tests.models.checkpoint_support import small_model


def frames_of(batch: int, count: int, *, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (batch, count, 16, 16, 3), dtype=torch.uint8, generator=generator)


# --- the spatial and the temporal half -------------------------------------------------------------------


@torch.inference_mode()
def test_spatial_is_a_function_of_each_tubelet_alone() -> None:
    """The whole system rests on this: a tubelet's feature is the same wherever the tubelet stands."""
    spatial = small_model().spatial
    frames = frames_of(1, 8)
    whole = spatial(frames)
    parts = torch.cat([spatial(frames[:, i : i + 2]) for i in range(0, 8, 2)], dim=1)
    torch.testing.assert_close(whole, parts, atol=1e-5, rtol=1e-5)
    moved = spatial(frames[:, [4, 5, 0, 1]])
    torch.testing.assert_close(moved, whole[:, [2, 0]], atol=1e-5, rtol=1e-5)
    swapped = spatial(frames[:, [1, 0]])
    assert (swapped - whole[:, :1]).abs().max() > 1e-3  # order inside a tubelet does matter


@torch.inference_mode()
def test_a_batch_is_its_rows() -> None:
    model = small_model()
    frames = frames_of(3, 6)
    whole = model(frames)
    assert {name: tuple(value.shape) for name, value in whole.items()} == {"verb": (3, 5), "noun": (3, 3)}
    for i in range(3):
        for name, row in model(frames[i : i + 1]).items():
            torch.testing.assert_close(whole[name][i], row[0], atol=1e-5, rtol=1e-5)


@torch.inference_mode()
def test_a_prefix_uses_the_first_positions() -> None:
    model = small_model()
    features = torch.randn(2, 4, 32)
    for tubelets in (1, 2, 3):
        expected = model.temporal(features[:, :tubelets])
        shorter = small_model()
        shorter.temporal.encoder.pos = nn.Parameter(model.temporal.encoder.pos[:, : 1 + tubelets].clone())
        shorter.temporal.dims = model.dims.with_frames(2 * tubelets)
        for name, value in shorter.temporal(features[:, :tubelets]).items():
            assert torch.equal(value, expected[name])
    order = model.temporal(features.flip(1))["verb"] - model.temporal(features)["verb"]
    assert order.abs().max() > 1e-4  # positions are really added


def test_frozen_spatial_half_gets_no_gradients() -> None:
    model = small_model().freeze_spatial()
    sum(value.sum() for value in model(frames_of(1, 4)).values()).backward()
    assert all(parameter.grad is None for parameter in model.spatial.parameters())
    without = [name for name, parameter in model.temporal.named_parameters() if parameter.grad is None]
    assert without == []


@pytest.mark.parametrize("activation", ["gelu", "relu"])
def test_adapter_starts_as_the_identity_and_then_matters(activation: Any) -> None:
    adapter = Adapter(32, AdapterDimensions(width=24, activation=activation))
    features = torch.randn(2, 4, 32)
    with torch.inference_mode():
        assert torch.equal(adapter(features), features)
        nn.init.normal_(adapter.fc2.weight)
        hidden = features @ adapter.fc1.weight.T + adapter.fc1.bias
        hidden = nn.GELU("tanh")(hidden) if activation == "gelu" else hidden.clamp(min=0)
        expected = features + hidden @ adapter.fc2.weight.T
        torch.testing.assert_close(adapter(features), expected, atol=1e-5, rtol=1e-5)


def test_adapted_model_starts_as_the_model_without() -> None:
    """Stage II of the recipe starts from the function that stage I learned."""
    features = torch.randn(2, 4, 32)
    adapted, plain = small_model(), small_model(adapter=False)
    missing = plain.temporal.load_state_dict(adapted.temporal.state_dict(), strict=False)
    assert not missing.missing_keys
    assert torch.equal(adapted.temporal(features)["verb"], plain.temporal(features)["verb"])


def test_adapter_without_residual_starts_at_zero() -> None:
    adapter = Adapter(32, AdapterDimensions(width=8, residual=False))
    assert torch.equal(adapter(torch.randn(1, 2, 32)), torch.zeros(1, 2, 32))


@pytest.mark.parametrize("shape", [(1, 3, 16, 16, 3), (1, 2, 16, 8, 3), (1, 2, 16, 16, 1), (2, 16, 16, 3)])
def test_wrong_frames(shape: tuple[int, ...]) -> None:
    with pytest.raises(InvalidInputError, match=r"frames have shape .*; expected \[B, multiple of 2, 16, 16"):
        small_model().spatial(torch.zeros(shape, dtype=torch.uint8))


@pytest.mark.parametrize("shape", [(1, 5, 32), (1, 0, 32), (1, 4, 16), (4, 32)])
def test_wrong_features(shape: tuple[int, ...]) -> None:
    with pytest.raises(InvalidInputError, match=r"features have shape .*; expected \[B, 1\.\.4, 32\]"):
        small_model().temporal(torch.zeros(shape))


# --- other frame counts ----------------------------------------------------------------------------------


def resize_matrix(old: int, new: int) -> npt.NDArray[np.float64]:
    """[new, old]: linear interpolation with half-pixel centres, the triangle widened when shrinking.

    The definition of ``jax.image.resize(method="linear", antialias=True)``.
    """
    scale = old / new
    centres = (np.arange(new) + 0.5) * scale - 0.5
    distance = np.abs(centres[:, None] - np.arange(old)) / max(scale, 1.0)
    weights = np.maximum(1 - distance, 0)
    return np.asarray(weights / weights.sum(axis=1, keepdims=True))


@pytest.mark.parametrize("frames", [2, 4, 6, 16, 32, 64, 128, 256])
def test_resize_frames(frames: int) -> None:
    model = small_model(max_tubelets=16)
    before = model.temporal.encoder.pos.detach().double().numpy()[0]
    tubelets = frames // 2
    after = model.resize_frames(frames).temporal.encoder.pos.detach().numpy()[0]
    assert np.array_equal(after[0], before[0].astype(np.float32))  # the CLS row
    assert np.allclose(after[1:], resize_matrix(16, tubelets) @ before[1:], atol=1e-6)
    assert model.dims == model.spatial.dims == model.temporal.dims
    assert model.dims.max_frames == frames
    assert model(frames_of(1, frames))["verb"].shape == (1, 5)


@settings(max_examples=30)
@given(old=st.integers(1, 9), new=st.integers(1, 9))
def test_interpolated_grid_is_separable_linear(old: int, new: int) -> None:
    positions = torch.randn(1, 1 + old * old, 3, generator=torch.Generator().manual_seed(old))
    grid = positions[0, 1:].double().numpy().reshape(old, old, 3)
    matrix = resize_matrix(old, new)
    expected = np.einsum("yi,xj,ijd->yxd", matrix, matrix, grid).reshape(-1, 3)
    resized = interpolate_positions(positions, (old, old), (new, new))
    assert torch.equal(resized[:, 0], positions[:, 0])
    assert np.allclose(resized[0, 1:].numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("frames", [0, -2, 3])
def test_frame_counts_that_make_no_tubelets(frames: int) -> None:
    with pytest.raises(ValueError, match=r"multiple|greater than 0"):
        small_model().resize_frames(frames)
