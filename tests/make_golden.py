"""Scenic's factorised-encoder ViViT in NumPy, and the golden data made with it.

    python -m tests.make_golden      writes tests/data/scenic_golden.{msgpack,npz}

The forward pass is written from the definition of Scenic's ``SpaceTimeViViT`` on its own parameter names, in
float64, and shares nothing with ``sfavivit``. ``test_shared_golden`` compares it with Scenic's own logits.
"""

from __future__ import annotations

import math
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Tree = dict[str, Any]

msgpack: Any = import_module("msgpack")  # it has no types

DATA = Path(__file__).parent / "data"


# --- the forward pass ------------------------------------------------------------------------------------


def scenic_logits(params: Tree, video: Array) -> Array:
    """uint8 [B, F, H, W, 3] -> float64 [B, classes]: the factorised encoder, classifier "token"."""
    tokens = _embed(params["embedding"], video.astype(np.float64) / 255 * 2 - 1)  # [B, T, patches, D]
    features = np.stack([_encode(params, "SpatialTransformer", x) for x in tokens])  # [B, T, D]
    return _dense(params["output_projection"], _encode(params, "TemporalTransformer", features))


def _embed(params: Tree, video: Array) -> Array:
    kernel = params["kernel"].astype(np.float64)
    t, p, q = kernel.shape[:3]
    batch, frames, height, width, _ = video.shape
    out = np.empty((batch, frames // t, height // p, width // q, kernel.shape[-1]))
    for i, j, k in np.ndindex(out.shape[1:4]):
        patch = video[:, i * t : (i + 1) * t, j * p : (j + 1) * p, k * q : (k + 1) * q]
        out[:, i, j, k] = np.tensordot(patch, kernel, axes=4) + params["bias"]
    return out.reshape(*out.shape[:2], -1, out.shape[-1])


def _encode(params: Tree, name: str, x: Array) -> Array:
    """[N, S, D] -> [N, D]: class token first, positions, blocks, final norm, class token out."""
    encoder = params[name]
    cls = np.repeat(params[f"cls_{name}"], len(x), axis=0)
    x = np.concatenate([cls, x], axis=1) + encoder["posembed_input"]["pos_embedding"]
    for index in range(sum(key.startswith("encoderblock_") for key in encoder)):
        block = encoder[f"encoderblock_{index}"]
        x = x + _attend(block["MultiHeadDotProductAttention_0"], _norm(block["LayerNorm_0"], x))
        mlp = block["MlpBlock_0"]
        hidden = _gelu(_dense(mlp["Dense_0"], _norm(block["LayerNorm_1"], x)))
        x = x + _dense(mlp["Dense_1"], hidden)
    out: Array = _norm(encoder["encoder_norm"], x)[:, 0]
    return out


def _attend(params: Tree, x: Array) -> Array:
    def project(part: str) -> Array:
        out: Array = np.einsum("nsd,dhe->nhse", x, params[part]["kernel"]) + params[part]["bias"][:, None]
        return out

    query, key, value = project("query"), project("key"), project("value")
    scores = np.einsum("nhse,nhte->nhst", query, key) / math.sqrt(query.shape[-1])
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    mixed = np.einsum("nhst,nhte->nshe", weights, value)
    out: Array = np.einsum("nshe,hed->nsd", mixed, params["out"]["kernel"]) + params["out"]["bias"]
    return out


def _dense(params: Tree, x: Array) -> Array:
    out: Array = x @ params["kernel"].astype(np.float64) + params["bias"]
    return out


def _norm(params: Tree, x: Array) -> Array:
    centred = x - x.mean(-1, keepdims=True)
    scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6)
    out: Array = scaled * params["scale"] + params["bias"]
    return out


def _gelu(x: Array) -> Array:
    """Flax's ``nn.gelu``: the tanh approximation."""
    out: Array = 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    return out


# --- random weights --------------------------------------------------------------------------------------


def random_params(
    seed: int = 0,
    *,
    hidden: int = 32,
    spatial: tuple[int, int, int] = (2, 4, 48),
    temporal: tuple[int, int, int] = (1, 2, 40),
    patch: int = 4,
    tubelet: int = 2,
    grid: int = 3,
    tubelets: int = 4,
    classes: int = 7,
) -> Tree:
    """Weights in Scenic's naming, none of them at a value (0, 1) that would hide a mistake.

    ``spatial`` and ``temporal`` are (layers, heads, mlp width).
    """
    rng = np.random.default_rng(seed)

    def values(*shape: int, around: float = 0.0, scale: float = 0.3) -> Array:
        return (around + scale * rng.standard_normal(shape)).astype(np.float32)

    def dense(kernel: tuple[int, ...], bias: tuple[int, ...], fan_in: int) -> Tree:
        return {"kernel": values(*kernel, scale=1.5 / math.sqrt(fan_in)), "bias": values(*bias)}

    def norm() -> Tree:
        return {"scale": values(hidden, around=1.0), "bias": values(hidden)}

    def encoder(layers: int, heads: int, mlp: int, positions: int) -> Tree:
        split = (heads, hidden // heads)
        blocks = {
            f"encoderblock_{i}": {
                "LayerNorm_0": norm(),
                "LayerNorm_1": norm(),
                "MlpBlock_0": {
                    "Dense_0": dense((hidden, mlp), (mlp,), hidden),
                    "Dense_1": dense((mlp, hidden), (hidden,), mlp),
                },
                "MultiHeadDotProductAttention_0": {
                    **{k: dense((hidden, *split), split, hidden) for k in ("query", "key", "value")},
                    "out": dense((*split, hidden), (hidden,), hidden),
                },
            }
            for i in range(layers)
        }
        positional = {"pos_embedding": values(1, 1 + positions, hidden)}
        return {**blocks, "encoder_norm": norm(), "posembed_input": positional}

    return {
        "SpatialTransformer": encoder(*spatial, grid * grid),
        "TemporalTransformer": encoder(*temporal, tubelets),
        "cls_SpatialTransformer": values(1, 1, hidden),
        "cls_TemporalTransformer": values(1, 1, hidden),
        "embedding": dense((tubelet, patch, patch, 3, hidden), (hidden,), tubelet * patch * patch * 3),
        "output_projection": dense((hidden, classes), (classes,), hidden),
    }


def random_video(params: Tree, batch: int = 2, seed: int = 0) -> Array:
    """uint8 frames of the size and number that the positions of ``params`` are for."""
    tubelet, patch = params["embedding"]["kernel"].shape[:2]
    positions = {
        name: params[name]["posembed_input"]["pos_embedding"].shape[1] - 1
        for name in ("SpatialTransformer", "TemporalTransformer")
    }
    side = math.isqrt(positions["SpatialTransformer"]) * patch
    shape = (batch, positions["TemporalTransformer"] * tubelet, side, side, 3)
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


# --- Flax's msgpack --------------------------------------------------------------------------------------


def flax_bytes(tree: Tree, chunk_values: int = 2**28) -> bytes:
    """A tree as ``flax.serialization`` writes it; arrays of more than ``chunk_values`` values are chunked."""

    def pack_array(array: Array) -> Any:
        if not isinstance(array, np.ndarray | np.generic):
            raise TypeError(type(array))
        name = "bfloat16" if array.dtype == np.uint16 else array.dtype.name  # NumPy has no bfloat16
        code = 1 if isinstance(array, np.ndarray) else 3
        return msgpack.ExtType(code, msgpack.packb((array.shape, name, array.tobytes())))

    def numbered(items: Any) -> Tree:
        return {str(i): item for i, item in enumerate(items)}

    def chunked(node: Any) -> Any:
        if isinstance(node, dict):
            return {key: chunked(value) for key, value in node.items()}
        if isinstance(node, np.ndarray) and node.size > chunk_values:
            flat = node.reshape(-1)
            pieces = [flat[i : i + chunk_values] for i in range(0, flat.size, chunk_values)]
            return {
                "__msgpack_chunked_array__": True,
                "shape": numbered(node.shape),
                "chunks": numbered(pieces),
            }
        return node

    packed: bytes = msgpack.packb(chunked(tree), default=pack_array, strict_types=True)
    return packed


def main() -> None:
    """Write the golden data."""
    params = random_params(2306)
    video = random_video(params, seed=4822)
    state = {"global_step": 1, "metadata": None, "params": params, "rng": np.array([0, 1], np.uint32)}
    DATA.mkdir(exist_ok=True)
    (DATA / "scenic_golden.msgpack").write_bytes(flax_bytes(state))
    np.savez_compressed(
        DATA / "scenic_golden.npz", video=video, logits=scenic_logits(params, video).astype(np.float32)
    )


if __name__ == "__main__":
    main()
