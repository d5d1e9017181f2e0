"""Shared by the tests of checkpoints: small models and image weights, files, and the form of a refusal."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, settings
from torch import Tensor

from sfavivit.config import AdapterDimensions, named_dimensions
from sfavivit.errors import CheckpointError
from sfavivit.models.checkpoints import load_checkpoint
from sfavivit.models.vivit import SfaVivit
from tests.make_golden import flax_bytes

# Examples overwrite one file in one temporary folder, and the first one pays for torch's start.
SAME_FOLDER = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])

DEPTH, WIDTH, HEADS, MLP, PATCH = 4, 32, 4, 512, 8  # as small_model


def small_model(*, adapter: bool | AdapterDimensions = True, **overrides: Any) -> SfaVivit:
    """Two outputs, an adapter, four spatial layers and one temporal; random weights, always the same."""
    torch.manual_seed(0)
    shape: dict[str, Any] = {"hidden_size": 32, "image_size": 16, "temporal_layers": 1} | overrides
    dims = named_dimensions("tiny", {"verb": 5, "noun": 3}, frames=8, adapter=bool(adapter), **shape)
    if isinstance(adapter, AdapterDimensions):
        dims = replace(dims, adapter=adapter)
    return SfaVivit(dims).eval()


def scenic_file(path: Path, params: dict[str, Any]) -> Path:
    path.write_bytes(flax_bytes({"params": params}))
    return path


def refusal(path: Path, pattern: str = "") -> str:
    """What the one printable line with which a file is refused says after its name."""
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path)
    name, _, message = str(caught.value).partition(f"{path}: ")
    assert name == "checkpoint " and message and message.isprintable()
    assert re.search(pattern, message), message
    return message


def image_weights(side: int = 2) -> dict[str, Tensor]:
    """A random ViT in timm naming, for images of ``side`` x ``side`` patches."""
    generator = torch.Generator().manual_seed(7)

    def values(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator) * 0.2

    weights = {
        "cls_token": values(1, 1, WIDTH),
        "pos_embed": values(1, 1 + side * side, WIDTH),
        "patch_embed.proj.weight": values(WIDTH, 3, PATCH, PATCH),
        "patch_embed.proj.bias": values(WIDTH),
        "norm.weight": values(WIDTH),
        "norm.bias": values(WIDTH),
        "head.weight": values(10, WIDTH),
        "head.bias": values(10),
    }
    layers: dict[str, tuple[int, ...]] = {"attn.qkv": (3 * WIDTH, WIDTH), "attn.proj": (WIDTH, WIDTH)}
    layers |= {"mlp.fc1": (MLP, WIDTH), "mlp.fc2": (WIDTH, MLP), "norm1": (WIDTH,), "norm2": (WIDTH,)}
    for i in range(DEPTH):
        for layer, shape in layers.items():
            weights[f"blocks.{i}.{layer}.weight"] = values(*shape)
            weights[f"blocks.{i}.{layer}.bias"] = values(shape[0])
    return weights


def encode(w: dict[str, Tensor], x: Tensor) -> Tensor:
    """Embedded patches [N, D, h, w] -> class token [N, D]: all that comes after the embedding."""

    def linear(x: Tensor, name: str) -> Tensor:
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    def norm(x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, (WIDTH,), w[f"{name}.weight"], w[f"{name}.bias"], 1e-6)

    x = torch.cat([w["cls_token"].expand(len(x), -1, -1), x.flatten(2).mT], dim=1) + w["pos_embed"]
    for i in range(DEPTH):
        qkv = linear(norm(x, f"blocks.{i}.norm1"), f"blocks.{i}.attn.qkv").chunk(3, dim=-1)
        q, k, v = (part.reshape(*part.shape[:2], HEADS, -1).transpose(1, 2) for part in qkv)
        mixed = (q @ k.mT / (WIDTH // HEADS) ** 0.5).softmax(-1) @ v
        x = x + linear(mixed.transpose(1, 2).flatten(2), f"blocks.{i}.attn.proj")
        hidden = linear(norm(x, f"blocks.{i}.norm2"), f"blocks.{i}.mlp.fc1")
        x = x + linear(F.gelu(hidden, approximate="tanh"), f"blocks.{i}.mlp.fc2")
    return norm(x, "norm")[:, 0]


def assert_same(one: SfaVivit, other: SfaVivit) -> None:
    expected = other.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in one.state_dict().items())
