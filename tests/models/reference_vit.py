"""An image ViT in timm naming, written from its definition, and random weights for it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from sfavivit.models.vivit import SfaVivit

DEPTH, WIDTH, HEADS, MLP, PATCH = 4, 32, 4, 512, 8  # as small_model


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


def vit(w: dict[str, Tensor], image: Tensor) -> Tensor:
    """float [N, 3, H, W] in [-1, 1] -> class token [N, D]: an image ViT (arXiv 2010.11929, equations 1-4)."""
    return encode(w, F.conv2d(image, w["patch_embed.proj.weight"], w["patch_embed.proj.bias"], stride=PATCH))


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
