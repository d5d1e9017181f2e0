"""A ResNet + ViT hybrid in timm naming, written from its definition, and random weights for it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from sfavivit.config import ResNetDimensions, named_dimensions
from sfavivit.models.checkpoints import initialise_spatial
from sfavivit.models.vivit import SfaVivit
from tests.models.reference_vit import encode, image_weights

WIDTH, RESNET_WIDTH, SIDE = 32, 32, 32


def backbone_shapes(blocks: tuple[int, ...], width: int) -> dict[str, tuple[int, ...]]:
    """timm's names of the ResNet's weights.

    As listed in Hugging Face's conversion of ViT hybrids (``convert_vit_hybrid_timm_to_pytorch.py``).
    """
    shapes: dict[str, tuple[int, ...]] = {"stem.conv.weight": (width, 3, 7, 7)}
    norms = {"stem.norm": width}
    inputs = width
    for stage, count in enumerate(blocks):
        inner = width << stage
        outer = 4 * inner
        for block in range(count):
            name = f"stages.{stage}.blocks.{block}"
            shapes[f"{name}.conv1.weight"] = (inner, inputs, 1, 1)
            shapes[f"{name}.conv2.weight"] = (inner, inner, 3, 3)
            shapes[f"{name}.conv3.weight"] = (outer, inner, 1, 1)
            norms |= {f"{name}.norm1": inner, f"{name}.norm2": inner, f"{name}.norm3": outer}
            if block == 0:
                shapes[f"{name}.downsample.conv.weight"] = (outer, inputs, 1, 1)
                norms[f"{name}.downsample.norm"] = outer
            inputs = outer
    for name, channels in norms.items():
        shapes |= {f"{name}.weight": (channels,), f"{name}.bias": (channels,)}
    return {f"patch_embed.backbone.{name}": shape for name, shape in shapes.items()}


def hybrid_weights(blocks: tuple[int, ...], tokens_side: int) -> dict[str, Tensor]:
    """A random hybrid in timm naming: a ViT of ``reference_vit`` on a ResNet's feature maps."""
    generator = torch.Generator().manual_seed(5)
    weights = image_weights(tokens_side)
    channels = RESNET_WIDTH * 4 << (len(blocks) - 1)
    weights["patch_embed.proj.weight"] = torch.randn(WIDTH, channels, 1, 1, generator=generator) * 0.1
    for name, shape in backbone_shapes(blocks, RESNET_WIDTH).items():
        mean = 1.0 if name.endswith("weight") and len(shape) == 1 else 0.1
        weights[name] = mean + 0.3 * torch.randn(shape, generator=generator)
        if len(shape) == 4:  # filters of all sizes: standardisation makes them alike, but for its epsilon
            weights[name] *= 10 ** -(3 * torch.rand(shape[0], 1, 1, 1, generator=generator))
    return weights


def padded(x: Tensor, kernel: int, stride: int, value: float) -> Tensor:
    """TensorFlow's SAME: outputs ceil(n / stride), what the input lacks for them split, the odd one last."""
    n = x.shape[-1]
    lacking = max((math.ceil(n / stride) - 1) * stride + kernel - n, 0)
    sides = (lacking // 2, lacking - lacking // 2)
    return F.pad(x, sides * 2, value=value)


def standardised(kernel: Tensor) -> Tensor:
    """Each filter of [O, I, k, k] with mean 0 and variance 1, in float64."""
    centred = kernel.double() - kernel.double().mean(dim=(1, 2, 3), keepdim=True)
    return centred / ((centred**2).mean(dim=(1, 2, 3), keepdim=True) + 1e-8).sqrt()


def resnet(w: Mapping[str, Tensor], x: Tensor, blocks: tuple[int, ...]) -> Tensor:
    """BiT's ResNet (arXiv 1912.11370): standardised weights (1903.10520), group norm (1803.08494, eq. 1)."""

    def conv_norm(x: Tensor, conv: str, norm: str, stride: int = 1) -> Tensor:
        kernel = standardised(w[f"patch_embed.backbone.{conv}.weight"])
        y = F.conv2d(padded(x, kernel.shape[-1], stride, 0.0), kernel, stride=stride)
        groups = y.reshape(len(y), 32, -1)
        centred = groups - groups.mean(dim=2, keepdim=True)
        y = (centred / ((centred**2).mean(dim=2, keepdim=True) + 1e-5).sqrt()).reshape(y.shape)
        scale, bias = (w[f"patch_embed.backbone.{norm}.{part}"].view(-1, 1, 1) for part in ("weight", "bias"))
        return y * scale + bias

    x = conv_norm(x.double(), "stem.conv", "stem.norm", 2).relu()
    x = F.max_pool2d(padded(x, 3, 2, -math.inf), 3, 2)
    for stage, count in enumerate(blocks):
        for block in range(count):
            name = f"stages.{stage}.blocks.{block}"
            stride = 2 if stage and not block else 1
            down = f"{name}.downsample"
            shortcut = x if block else conv_norm(x, f"{down}.conv", f"{down}.norm", stride)
            x = conv_norm(x, f"{name}.conv1", f"{name}.norm1").relu()
            x = conv_norm(x, f"{name}.conv2", f"{name}.norm2", stride).relu()
            x = (conv_norm(x, f"{name}.conv3", f"{name}.norm3") + shortcut).relu()
    return x.float()


def hybrid(w: Mapping[str, Tensor], images: Tensor, blocks: tuple[int, ...]) -> Tensor:
    """float [N, 3, H, W] in [-1, 1] -> class token [N, D]."""
    maps = resnet(w, images, blocks)
    return encode(dict(w), F.conv2d(maps, w["patch_embed.proj.weight"], w["patch_embed.proj.bias"]))


def small_hybrid(blocks: tuple[int, ...] = (1, 1), side: int = SIDE, **overrides: Any) -> SfaVivit:
    """``R-tiny`` with a narrow transformer and ``blocks``; random weights, always the same."""
    torch.manual_seed(0)
    part = ResNetDimensions(blocks, width=RESNET_WIDTH)
    shape: dict[str, Any] = {"resnet": part, "patch_size": part.stride, "hidden_size": WIDTH} | overrides
    dims = named_dimensions("R-tiny", {"": 5}, frames=8, temporal_layers=1, image_size=side, **shape)
    return SfaVivit(dims).eval()


def hybrid_model(folder: Path) -> SfaVivit:
    """``small_hybrid`` with weights under which every layer matters; ``folder`` is for the checkpoint."""
    save_file(hybrid_weights((1, 1), 4), folder / "hybrid.safetensors")
    model = small_hybrid()
    initialise_spatial(model, folder / "hybrid.safetensors")
    with torch.no_grad():
        model.spatial.patch_embed.weight.normal_(0, 0.1)  # both frames of a tubelet count
        for parameter in model.temporal.parameters():
            parameter.normal_(0, 0.15)
    return model


def frames_of(batch_size: int, count: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (batch_size, count, SIDE, SIDE, 3), dtype=torch.uint8, generator=generator)
