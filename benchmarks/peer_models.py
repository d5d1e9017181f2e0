"""Peers: the model in plain PyTorch, Hugging Face's video models, and our ONNX files over OpenVINO.

The plain model uses nothing of this library: float frames in, all tokens through all blocks.
"""

from __future__ import annotations

import os
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.models import CLASSES
from sfavivit.config import ModelDimensions, named_dimensions
from sfavivit.engines.onnxruntime import MODEL_FILE
from sfavivit.errors import EngineError
from sfavivit.models.vivit import LAYER_NORM_EPS, SfaVivit
from sfavivit.repository.manifest import Repository, logits_tensor
from sfavivit.types import Features, Frames, Logits

CALIBRATION_CALLS = 4
CALIBRATION_SEED = 1
"""Seed of the calibration's pixels: noise like the benchmark's, but not the same."""


class Block(nn.Module):
    """Pre-LN transformer block over [N, S, D]."""

    def __init__(self, hidden_size: int, heads: int, mlp_dim: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(hidden_size, eps=LAYER_NORM_EPS)
        self.qkv = nn.Linear(hidden_size, 3 * hidden_size)
        self.proj = nn.Linear(hidden_size, hidden_size)
        self.norm2 = nn.LayerNorm(hidden_size, eps=LAYER_NORM_EPS)
        self.fc1 = nn.Linear(hidden_size, mlp_dim)
        self.fc2 = nn.Linear(mlp_dim, hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        n, s, d = x.shape
        qkv = self.qkv(self.norm1(x)).view(n, s, 3, self.heads, d // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, s, d)
        x = x + self.proj(attended)
        out: Tensor = x + self.fc2(F.gelu(self.fc1(self.norm2(x)), approximate="tanh"))
        return out


class Encoder(nn.Module):
    """Tokens [N, S, D] -> CLS [N, D]."""

    def __init__(self, hidden_size: int, tokens: int, layers: int, heads: int, mlp_dim: int) -> None:
        super().__init__()
        self.cls = nn.Parameter(torch.zeros(1, 1, hidden_size))
        self.pos = nn.Parameter(torch.zeros(1, 1 + tokens, hidden_size))
        self.blocks = nn.ModuleList(Block(hidden_size, heads, mlp_dim) for _ in range(layers))
        self.norm = nn.LayerNorm(hidden_size, eps=LAYER_NORM_EPS)

    def forward(self, tokens: Tensor) -> Tensor:
        x = torch.cat([self.cls.expand(len(tokens), -1, -1), tokens], dim=1) + self.pos
        for block in self.blocks:
            x = block(x)
        out: Tensor = self.norm(x)[:, 0]
        return out


class FactorisedEncoder(nn.Module):
    """ViViT model 2 with SFA-ViViT's adapter: floats [B, 3, F, H, W] in [-1, 1] -> logits [B, C]."""

    def __init__(self, dims: ModelDimensions) -> None:
        super().__init__()
        d, spatial, temporal = dims.hidden_size, dims.spatial, dims.temporal
        assert dims.adapter
        patch = (dims.tubelet_frames, dims.patch_size, dims.patch_size)
        self.patch_embed = nn.Conv3d(3, d, kernel_size=patch, stride=patch)
        self.spatial = Encoder(d, dims.patches, spatial.layers, spatial.heads, spatial.mlp_dim)
        self.adapter = nn.Sequential(
            nn.Linear(d, dims.adapter.width), nn.GELU(approximate="tanh"), nn.Linear(dims.adapter.width, d)
        )
        self.temporal = Encoder(d, dims.max_tubelets, temporal.layers, temporal.heads, temporal.mlp_dim)
        self.head = nn.Linear(d, dims.outputs[0][1])

    def forward(self, frames: Tensor) -> Tensor:
        patches = self.patch_embed(frames)  # [B, D, T, h, w]
        b, d, t, h, w = patches.shape
        tokens = patches.permute(0, 2, 3, 4, 1).reshape(b * t, h * w, d)
        features = self.spatial(tokens).view(b, t, d)
        logits: Tensor = self.head(self.temporal(features + self.adapter(features)))
        return logits


def factorised_encoder(model: SfaVivit) -> FactorisedEncoder:
    """Return the same function as ``model``, which has one output and the default adapter."""
    dims = model.dims
    peer = FactorisedEncoder(dims).eval()
    names = {
        "spatial.patch_embed.": "patch_embed.",
        "spatial.encoder.": "spatial.",
        "temporal.encoder.": "temporal.",
        "temporal.adapter.fc1.": "adapter.0.",
        "temporal.adapter.fc2.": "adapter.2.",
        "temporal.classifiers.logits.": "head.",
        ".attn.": ".",
        ".mlp.": ".",
    }
    state = {}
    for name, value in model.state_dict().items():
        renamed = name
        for old, new in names.items():
            renamed = renamed.replace(old, new)
        state[renamed] = value
    t, p = dims.tubelet_frames, dims.patch_size
    by_pixel = state["patch_embed.weight"].view(dims.hidden_size, t, p, p, 3)
    state["patch_embed.weight"] = by_pixel.permute(0, 4, 1, 2, 3)
    peer.load_state_dict(state)
    return peer


HUGGING_FACE_FRAMES = {"vivit": 32, "videomae": 16, "timesformer": 8}
"""Frames of a clip of each model, as published."""


def has_transformers() -> bool:
    """Return whether Hugging Face's package is installed."""
    return find_spec("transformers") is not None


def hugging_face(name: str, size: str) -> nn.Module:
    """Return a classifier of ``transformers`` in our ``size``: pixel_values [B, F, 3, H, W] -> ``.logits``.

    Raises:
        EngineError: the package is not installed.
        UsageError: an unknown size.
    """
    if not has_transformers():
        raise EngineError(f"peer {name!r} needs a package that is missing: pip install 'sfavivit[bench]'")
    import transformers as hf  # noqa: PLC0415 - optional

    dims = named_dimensions(size, {"": CLASSES})
    patch = dims.patch_size
    common: dict[str, Any] = {
        "image_size": dims.image_size,
        "num_frames": HUGGING_FACE_FRAMES[name],
        "hidden_size": dims.hidden_size,
        "num_hidden_layers": dims.spatial.layers,
        "num_attention_heads": dims.spatial.heads,
        "intermediate_size": dims.spatial.mlp_dim,
        "num_labels": CLASSES,
    }
    model: Any
    if name == "vivit":
        model = hf.VivitForVideoClassification(hf.VivitConfig(tubelet_size=[2, patch, patch], **common))
    elif name == "videomae":
        config = hf.VideoMAEConfig(tubelet_size=2, patch_size=patch, **common)
        model = hf.VideoMAEForVideoClassification(config)
    else:
        model = hf.TimesformerForVideoClassification(hf.TimesformerConfig(patch_size=patch, **common))
    classifier: nn.Module = model.eval()
    return classifier


def has_openvino() -> bool:
    """Return whether OpenVINO and its quantiser are installed."""
    return find_spec("openvino") is not None and find_spec("nncf") is not None


class OpenVinoEngine:
    """Engine (``sfavivit.engines.base.Engine``) whose spatial calls must all have ``chunk_tubelets``.

    OpenVINO's documentation recommends static shapes and the latency hint for speed; int8 is its quantiser's
    default for transformers: static scales with SmoothQuant. The temporal half stays fp32, as ours does.

    Raises:
        EngineError: the packages are not installed.
    """

    device = "cpu"

    def __init__(self, repository: Repository, precision: str, threads: int, chunk_tubelets: int) -> None:
        if not has_openvino():
            raise EngineError("peer 'openvino' lacks its packages: pip install 'sfavivit[bench]'")
        import openvino  # noqa: PLC0415 - optional

        manifest, core = repository.manifest, openvino.Core()
        hints = {
            "INFERENCE_NUM_THREADS": threads,
            "INFERENCE_PRECISION_HINT": _precision_hint(core, precision),
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
        }
        dims = manifest.dimensions
        shape = [1, chunk_tubelets * dims.tubelet_frames, dims.image_size, dims.image_size, 3]
        spatial = core.read_model(repository.spatial_file(MODEL_FILE))
        spatial.reshape(shape)
        if precision == "int8":
            spatial = _quantized(spatial, shape)
        self._spatial: Any = core.compile_model(spatial, "CPU", hints)
        self._temporal: dict[str, Any] = {
            head: core.compile_model(repository.temporal_file(head, MODEL_FILE), "CPU", hints)
            for head in manifest.heads
        }
        self._outputs = {head: list(entry.outputs) for head, entry in manifest.heads.items()}

    def spatial(self, frames: Frames) -> Features:
        features: Features = self._spatial(frames)[0]
        return features

    def temporal(self, head: str, features: Features) -> Logits:
        logits = self._temporal[head](features)
        return {output: logits[logits_tensor(output)] for output in self._outputs[head]}


def _precision_hint(core: Any, precision: str) -> str:
    """Return the type of layers that are not int8; by default OpenVINO uses bf16 on CPUs that have it."""
    has_bf16 = "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return "bf16" if precision == "int8" and has_bf16 else "f32"


def _quantized(model: Any, shape: list[int]) -> Any:
    os.environ.setdefault("NNCF_CI", "1")  # else NNCF reports every use to its maker
    import nncf  # noqa: PLC0415 - optional

    noise = np.random.default_rng(CALIBRATION_SEED)
    calls = [noise.integers(0, 256, shape, np.uint8) for _ in range(CALIBRATION_CALLS)]
    return nncf.quantize(
        model, nncf.Dataset(calls), model_type=nncf.ModelType.TRANSFORMER, subset_size=CALIBRATION_CALLS
    )
