"""SFA-ViViT in PyTorch, the reference for every engine.

    frames uint8 [B, F, H, W, 3]
        │  scaling to [-1, 1]; in a hybrid, the ResNet on each frame (``resnet.py``)
        │  one linear map per tubelet patch: t frames x p x p pixels, or one position of t feature maps
        │  + CLS, + positions shared over time
    SpatialTransformer ─────────────► features float32 [B, T, D]      (T = F / t)
        │  Adapter (two fully connected layers per tubelet)
        │  + CLS, + positions of the first T indices
    TemporalTransformer ────────────► {output: logits float32 [B, C]}

ViViT factorised encoder as in Scenic (``SpaceTimeViViT``; Arnab et al. 2021, model 2): pre-LN blocks, tanh
GELU, LayerNorm eps 1e-6, the CLS token after the final norm. The adapter and the frozen spatial half are
SFA-ViViT (arXiv 2306.04822). Block parameters are named as in timm.
"""

from __future__ import annotations

from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sfavivit.config import AdapterDimensions, ModelDimensions, TransformerDimensions
from sfavivit.errors import InvalidInputError
from sfavivit.models.resnet import ResNet

LAYER_NORM_EPS = 1e-6  # flax.linen.LayerNorm's default, which Scenic uses
POSITION_STD = 0.02


class Attention(nn.Module):
    """Multi-head self-attention over [N, S, D]."""

    def __init__(self, hidden_size: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(hidden_size, 3 * hidden_size)
        self.proj = nn.Linear(hidden_size, hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        n, s, d = x.shape
        q, k, v = self.qkv(x).view(n, s, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(q, k, v)
        out: Tensor = self.proj(attended.transpose(1, 2).reshape(n, s, d))
        return out


class Mlp(nn.Module):
    """Two linear layers D -> width -> D with tanh GELU between them."""

    def __init__(self, hidden_size: int, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(hidden_size, width)
        self.fc2 = nn.Linear(width, hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc2(F.gelu(self.fc1(x), approximate="tanh"))
        return out


class Block(nn.Module):
    """Pre-LN transformer block. ``drop_rate``: probability of dropping a branch in training."""

    drop_rate = 0.0

    def __init__(self, hidden_size: int, heads: int, mlp_dim: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(hidden_size, eps=LAYER_NORM_EPS)
        self.attn = Attention(hidden_size, heads)
        self.norm2 = nn.LayerNorm(hidden_size, eps=LAYER_NORM_EPS)
        self.mlp = Mlp(hidden_size, mlp_dim)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self._drop_branch(self.attn(self.norm1(x)))
        return x + self._drop_branch(self.mlp(self.norm2(x)))

    def _drop_branch(self, branch: Tensor) -> Tensor:
        """Apply stochastic depth: zero random rows of [N, S, D] and scale the others to keep the mean."""
        if not self.training or self.drop_rate == 0:
            return branch
        kept = torch.rand(len(branch), 1, 1, device=branch.device) >= self.drop_rate
        return branch * (kept / (1 - self.drop_rate)).to(branch.dtype)


class Encoder(nn.Module):
    """Transformer encoder: tokens [N, S, D] -> CLS [N, D], S at most ``positions``."""

    def __init__(self, hidden_size: int, positions: int, dims: TransformerDimensions) -> None:
        super().__init__()
        self.cls = nn.Parameter(torch.zeros(1, 1, hidden_size))
        self.pos = nn.Parameter(torch.randn(1, 1 + positions, hidden_size) * POSITION_STD)
        self.blocks = nn.ModuleList(Block(hidden_size, dims.heads, dims.mlp_dim) for _ in range(dims.layers))
        self.norm = nn.LayerNorm(hidden_size, eps=LAYER_NORM_EPS)

    def forward(self, tokens: Tensor) -> Tensor:
        x = torch.cat([self.cls.expand(len(tokens), -1, -1), tokens], dim=1)
        x = x + self.pos[:, : x.shape[1]]
        for block in self.blocks:
            x = block(x)
        out: Tensor = self.norm(x[:, 0])
        return out


class SpatialTransformer(nn.Module):
    """The half that SFA-ViViT freezes: patch embedding and transformer over the patches of a tubelet."""

    def __init__(self, dims: ModelDimensions) -> None:
        super().__init__()
        self.dims = dims
        self.resnet = ResNet(dims.resnet) if dims.resnet else None
        self.patch_embed = nn.Linear(dims.patch_values, dims.hidden_size)
        self.encoder = Encoder(dims.hidden_size, dims.patches, dims.spatial)

    def forward(self, frames: Tensor) -> Tensor:
        """Compute features: uint8 [B, F, H, W, 3] RGB -> float32 [B, F / t, D].

        Raises:
            InvalidInputError: frames of another size, or F is not a multiple of the tubelet length.
        """
        d, t = self.dims, self.dims.tubelet_frames
        size = (d.image_size, d.image_size, 3)
        if frames.ndim != 5 or frames.shape[2:] != size or frames.shape[1] % t:
            raise InvalidInputError(
                f"frames have shape {tuple(frames.shape)}; expected "
                f"[B, multiple of {t}, {d.image_size}, {d.image_size}, 3]"
            )
        b, f = frames.shape[:2]
        tokens = self.patch_embed(self._patches(frames.flatten(0, 1)))
        features: Tensor = self.encoder(tokens)
        return features.view(b, f // t, d.hidden_size)

    def _patches(self, frames: Tensor) -> Tensor:
        """Cut frames into inputs of the embedding: uint8 [N * t, H, W, 3] -> [N, patches, patch values]."""
        d, t, p = self.dims, self.dims.tubelet_frames, self.dims.patch_size
        side, dtype = d.image_size // p, self.patch_embed.weight.dtype
        if self.resnet is None:
            patches = frames.reshape(-1, t, side, p, side, p, 3).permute(0, 2, 4, 1, 3, 5, 6)
            return patches.reshape(-1, d.patches, d.patch_values).to(dtype) * (2 / 255) - 1
        maps: Tensor = self.resnet(frames.permute(0, 3, 1, 2).to(dtype) * (2 / 255) - 1)
        positions = maps.permute(0, 2, 3, 1).reshape(-1, t, d.patches, maps.shape[1])
        return positions.transpose(1, 2).reshape(-1, d.patches, d.patch_values)


class Adapter(nn.Module):
    """Two fully connected layers on each tubelet's feature; the second starts at zero."""

    def __init__(self, hidden_size: int, dims: AdapterDimensions) -> None:
        super().__init__()
        self.dims = dims
        self.fc1 = nn.Linear(hidden_size, dims.width)
        self.fc2 = nn.Linear(dims.width, hidden_size)
        nn.init.zeros_(self.fc2.weight)
        nn.init.zeros_(self.fc2.bias)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.fc1(x)
        hidden = F.gelu(hidden, approximate="tanh") if self.dims.activation == "gelu" else F.relu(hidden)
        out: Tensor = self.fc2(hidden)
        return x + out if self.dims.residual else out


class TemporalTransformer(nn.Module):
    """Adapter, transformer over tubelets, and one linear classifier per output."""

    def __init__(self, dims: ModelDimensions) -> None:
        super().__init__()
        self.dims = dims
        self.adapter = Adapter(dims.hidden_size, dims.adapter) if dims.adapter else nn.Identity()
        self.encoder = Encoder(dims.hidden_size, dims.max_tubelets, dims.temporal)
        self.classifiers = nn.ModuleDict(
            {classifier_key(name): nn.Linear(dims.hidden_size, classes) for name, classes in dims.outputs}
        )

    def forward(self, features: Tensor) -> dict[str, Tensor]:
        """Compute logits: float32 [B, T, D], 1 <= T <= T_max -> {output: float32 [B, C]}.

        Raises:
            InvalidInputError: no tubelets, more than there are positions, or another width.
        """
        t_max, width = self.dims.max_tubelets, self.dims.hidden_size
        if features.ndim != 3 or not 1 <= features.shape[1] <= t_max or features.shape[2] != width:
            raise InvalidInputError(
                f"features have shape {tuple(features.shape)}; expected [B, 1..{t_max}, {width}]"
            )
        cls = self.encoder(self.adapter(features))
        return {name: self.classifiers[classifier_key(name)](cls) for name, _ in self.dims.outputs}


def classifier_key(output: str) -> str:
    """Return the module name of an output's classifier: ``logits``, ``logits_verb`` ..."""
    return f"logits_{output}" if output else "logits"


class SfaVivit(nn.Module):
    """The whole model, whose ``spatial`` and ``temporal`` halves are exported as separate engines."""

    def __init__(self, dims: ModelDimensions) -> None:
        super().__init__()
        self.dims = dims
        self.spatial = SpatialTransformer(dims)
        self.temporal = TemporalTransformer(dims)

    def forward(self, frames: Tensor) -> dict[str, Tensor]:
        """Compute logits: uint8 [B, F, H, W, 3] -> {output: float32 [B, C]}."""
        out: dict[str, Tensor] = self.temporal(self.spatial(frames))
        return out

    def set_stochastic_depth(self, rate: float) -> Self:
        """Drop branches in training, at rates that rise from 0 (first block) to ``rate`` (last) in each half.

        Stochastic depth of Huang et al. 2016 (arXiv 1603.09382), with the linear rates of Scenic's ViViT. As
        in timm, and unlike Scenic, the branches that stay are scaled up in training instead of scaled down in
        use.
        """
        for encoder in (self.spatial.encoder, self.temporal.encoder):
            last = max(1, len(encoder.blocks) - 1)
            for layer, block in enumerate(encoder.blocks):
                assert isinstance(block, Block)
                block.drop_rate = rate * layer / last
        return self

    def freeze_spatial(self) -> Self:
        """Stop gradients to the spatial half, as in stage II of SFA-ViViT."""
        self.spatial.requires_grad_(False)
        return self

    @torch.no_grad()
    def resize_frames(self, frames: int) -> Self:
        """Interpolate the temporal positions to ``frames`` frames.

        Raises:
            ValueError: ``frames`` is not a multiple of the tubelet length.
        """
        dims = self.dims.with_frames(frames)
        encoder = self.temporal.encoder
        encoder.pos = nn.Parameter(
            interpolate_positions(encoder.pos, (self.dims.max_tubelets, 1), (dims.max_tubelets, 1))
        )
        self.dims = self.spatial.dims = self.temporal.dims = dims
        return self


def interpolate_positions(positions: Tensor, old_grid: tuple[int, int], new_grid: tuple[int, int]) -> Tensor:
    """Interpolate positions [1, 1 + h * w, D] from one grid (h, w) to another; the CLS row stays.

    Linear with half-pixel centres, antialiased when shrinking, like ``jax.image.resize`` in Scenic. Time is a
    grid of width 1.
    """
    cls, rest = positions[:, :1], positions[:, 1:]
    image = rest.reshape(1, *old_grid, -1).permute(0, 3, 1, 2).float()
    resized = F.interpolate(image, size=new_grid, mode="bilinear", align_corners=False, antialias=True)
    return torch.cat([cls, resized.flatten(2).transpose(1, 2).to(cls.dtype)], dim=1)
