"""Image ViTs in JAX's own files: features against a NumPy forward pass on the files' own names."""

from __future__ import annotations

import copy
import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sfavivit.errors import CheckpointError
from sfavivit.models.checkpoints import initialise_spatial
from tests.make_golden import flax_bytes
from tests.models.checkpoint_support import peak_bytes, refusal, small_model
from tests.models.reference_vit import DEPTH, HEADS, MLP, PATCH, WIDTH, assert_same

Array = np.ndarray[Any, Any]
Names = dict[str, Array]
BLOCK = "Transformer/encoderblock_{}"


def vision_transformer(side: int = 2) -> Names:
    """A random ViT under the names of vision_transformer's files."""
    rng = np.random.default_rng(11)

    def values(*shape: int, scale: float = 0.2) -> Array:
        return (scale * rng.standard_normal(shape)).astype(np.float32)

    names = {
        "cls": values(1, 1, WIDTH),
        "embedding/kernel": values(PATCH, PATCH, 3, WIDTH),
        "embedding/bias": values(WIDTH),
        "Transformer/posembed_input/pos_embedding": values(1, 1 + side * side, WIDTH),
        "Transformer/encoder_norm/scale": 1 + values(WIDTH),
        "Transformer/encoder_norm/bias": values(WIDTH),
        "pre_logits/kernel": values(WIDTH, WIDTH),
        "pre_logits/bias": values(WIDTH),
        "head/kernel": values(WIDTH, 10),
        "head/bias": values(10),
    }
    split = (HEADS, WIDTH // HEADS)
    for i in range(DEPTH):
        block = BLOCK.format(i)
        for norm in ("LayerNorm_0", "LayerNorm_2"):
            names[f"{block}/{norm}/scale"] = 1 + values(WIDTH)
            names[f"{block}/{norm}/bias"] = values(WIDTH)
        for part in ("query", "key", "value"):
            names[f"{block}/MultiHeadDotProductAttention_1/{part}/kernel"] = values(WIDTH, *split)
            names[f"{block}/MultiHeadDotProductAttention_1/{part}/bias"] = values(*split)
        names[f"{block}/MultiHeadDotProductAttention_1/out/kernel"] = values(*split, WIDTH)
        names[f"{block}/MultiHeadDotProductAttention_1/out/bias"] = values(WIDTH)
        names[f"{block}/MlpBlock_3/Dense_0/kernel"] = values(WIDTH, MLP)
        names[f"{block}/MlpBlock_3/Dense_0/bias"] = values(MLP)
        names[f"{block}/MlpBlock_3/Dense_1/kernel"] = values(MLP, WIDTH)
        names[f"{block}/MlpBlock_3/Dense_1/bias"] = values(WIDTH)
    return names


def big_vision(names: Names) -> Names:
    """The same weights under the names of Flax Linen, positions at the top without a row for the class."""
    out = {}
    for name, array in names.items():
        norms = name.replace("LayerNorm_2", "LayerNorm_1")
        out[norms.replace("MlpBlock_3", "MlpBlock_0").replace("Attention_1", "Attention_0")] = array
    positions = out.pop("Transformer/posembed_input/pos_embedding")
    out["cls"] = out["cls"] + positions[:, :1]
    out["pos_embedding"] = positions[:, 1:]
    return out


def scanned(names: Names) -> Names:
    """Blocks as one module with a leading axis of layers."""
    first = f"{BLOCK.format(0)}/"
    stacked = {
        f"Transformer/encoderblock/{name.removeprefix(first)}": np.stack(
            [names[name.replace(first, f"{BLOCK.format(i)}/")] for i in range(DEPTH)]
        )
        for name in names
        if name.startswith(first)
    }
    return {n: a for n, a in names.items() if "encoderblock_" not in n} | stacked


def forward(w: Names, image: Array) -> Array:
    """float64 [N, H, W, 3] in [-1, 1] -> class token [N, D], from vision_transformer's own names."""

    def norm(x: Array, name: str) -> Array:
        x = x - x.mean(-1, keepdims=True)
        out: Array = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * w[f"{name}/scale"]
        return out + w[f"{name}/bias"]

    rows = []
    for i in range(0, image.shape[1], PATCH):
        for j in range(0, image.shape[2], PATCH):
            patch = image[:, i : i + PATCH, j : j + PATCH]
            rows.append(np.einsum("nhwc,hwcd->nd", patch, w["embedding/kernel"]) + w["embedding/bias"])
    x = np.concatenate([np.repeat(w["cls"], len(image), 0), np.stack(rows, 1)], axis=1)
    x = x + w["Transformer/posembed_input/pos_embedding"]
    for i in range(DEPTH):
        block = BLOCK.format(i)
        attention, mlp = f"{block}/MultiHeadDotProductAttention_1", f"{block}/MlpBlock_3"
        y = norm(x, f"{block}/LayerNorm_0")
        q, k, v = (
            np.einsum("nsd,dhe->nhse", y, w[f"{attention}/{part}/kernel"])
            + w[f"{attention}/{part}/bias"][:, None]
            for part in ("query", "key", "value")
        )
        scores = np.exp(np.einsum("nhse,nhte->nhst", q, k) / np.sqrt(q.shape[-1]))
        mixed = np.einsum("nhst,nhte->nshe", scores / scores.sum(-1, keepdims=True), v)
        x = x + np.einsum("nshe,hed->nsd", mixed, w[f"{attention}/out/kernel"]) + w[f"{attention}/out/bias"]
        y = norm(x, f"{block}/LayerNorm_2") @ w[f"{mlp}/Dense_0/kernel"] + w[f"{mlp}/Dense_0/bias"]
        y = 0.5 * y * (1 + np.tanh(np.sqrt(2 / np.pi) * (y + 0.044715 * y**3)))
        x = x + y @ w[f"{mlp}/Dense_1/kernel"] + w[f"{mlp}/Dense_1/bias"]
    return norm(x, "Transformer/encoder_norm")[:, 0]


def npz(path: Path, names: Names) -> Path:
    with path.open("wb") as file:
        np.savez(file, **names)  # type: ignore[arg-type]
    return path


def scenic(path: Path, names: Names) -> Path:
    tree: dict[str, Any] = {}
    for name, array in names.items():
        node = tree
        *parents, last = name.replace("head/", "output_projection/").split("/")
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = array
    path.write_bytes(flax_bytes({"optimizer": {"target": tree}, "global_step": 3}))
    return path


def posembed_input(names: Names) -> Names:
    """Linen's names, but positions with a row for the class token in the encoder, as in Scenic."""
    return {
        **{k: v for k, v in big_vision(names).items() if k not in ("cls", "pos_embedding")},
        **{k: names[k] for k in ("cls", "Transformer/posembed_input/pos_embedding")},
    }


def in_encoder(names: Names) -> Names:
    """Positions of big_vision before 2022."""
    return {k.replace("posembed_input/", ""): v for k, v in posembed_input(names).items()}


def train_state(names: Names) -> Names:
    """Weights beside the optimizer's moments, which have the same names."""
    return {f"params/{k}": v for k, v in names.items()} | {f"opt/0/mu/{k}": v * 0 for k, v in names.items()}


@pytest.mark.parametrize("tubelet_frames", [1, 2])
@pytest.mark.parametrize(
    ("layout", "write"),
    [
        (lambda n: n, npz),
        (big_vision, npz),
        (in_encoder, npz),
        (lambda n: scanned(big_vision(n)), npz),
        (lambda n: train_state(big_vision(n)), npz),
        (lambda n: {f"opt/target/{k}": v for k, v in n.items()}, npz),
        (lambda n: {f"params/img/{k}": v for k, v in n.items()} | {"params/t": np.zeros(1)}, npz),
        (lambda n: {k: np.asfortranarray(v.astype(">f8")) for k, v in n.items()}, npz),
        (posembed_input, scenic),
    ],
    ids=["vit", "big_vision", "in-encoder", "scanned", "params", "target", "two-tower", "dtype", "scenic"],
)
def test_feature_is_the_jax_vit_of_the_central_frame(
    layout: Callable[[Names], Names],
    write: Callable[[Path, Names], Path],
    tubelet_frames: int,
    tmp_path: Path,
) -> None:
    names = vision_transformer()
    model = small_model(tubelet_frames=tubelet_frames)
    initialise_spatial(model, write(tmp_path / "x", layout(names)))
    frames = torch.randint(0, 256, (1, 2 * tubelet_frames, 16, 16, 3), dtype=torch.uint8)
    central = frames[0, tubelet_frames // 2 :: tubelet_frames].numpy().astype(np.float64)
    with torch.inference_mode():
        features = model.spatial(frames)[0].numpy()
    np.testing.assert_allclose(features, forward(names, central / 127.5 - 1), atol=2e-4, rtol=1e-4)


def test_an_image_model_is_no_video_model(tmp_path: Path) -> None:
    refusal(scenic(tmp_path / "x", posembed_input(vision_transformer())), "this model is an image model")
    refusal(npz(tmp_path / "x", vision_transformer()), r"\(.npz\), which may hold an image model")


def test_bfloat16_values(tmp_path: Path) -> None:
    names = vision_transformer()
    upper = {k: (v.view(np.uint32) >> 16).astype(np.uint16) for k, v in names.items()}
    exact = {k: (v.astype(np.uint32) << 16).view(np.float32) for k, v in upper.items()}
    model, reference = small_model(), small_model()
    initialise_spatial(model, npz(tmp_path / "x", {k: v.view("V2") for k, v in upper.items()}))
    initialise_spatial(reference, npz(tmp_path / "y", exact))
    assert_same(model, reference)


@pytest.mark.parametrize("layout", [lambda n: n, big_vision], ids=["with class row", "without"])
def test_other_image_size_interpolates_the_grid_alone(
    layout: Callable[[Names], Names], tmp_path: Path
) -> None:
    names = vision_transformer(side=4)
    model = small_model()
    initialise_spatial(model, npz(tmp_path / "x", layout(names)))
    encoder = model.spatial.encoder
    rows = names["Transformer/posembed_input/pos_embedding"]
    np.testing.assert_allclose(
        (encoder.cls + encoder.pos[:, :1]).detach(), names["cls"] + rows[:, :1], atol=1e-6
    )
    # Halving with antialiasing is a fixed linear map: a constant grid stays itself.
    names["Transformer/posembed_input/pos_embedding"] = rows * 0 + rows[:, 1:2]
    initialise_spatial(model, npz(tmp_path / "y", names))
    np.testing.assert_allclose(encoder.pos[0, 1:].detach(), np.repeat(rows[0, 1:2], 4, 0), atol=1e-6)


POSITIONS = "Transformer/posembed_input/pos_embedding"
QUERY = f"{BLOCK.format(0)}/MultiHeadDotProductAttention_1/query/kernel"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cls": None}, r"pools its tokens and has no class token"),
        ({"cls": None, "MAPHead_0/probe": np.zeros((1, 1, WIDTH))}, "by attention and has no class token"),
        ({"conv_root/kernel": np.zeros((7, 7, 3, 64))}, "hybrid"),
        ({"SpatialTransformer/x": np.zeros(1)}, "is a ViViT"),
        ({"embedding/kernel": None}, "expected one image ViT"),
        ({"other/embedding/kernel": np.zeros(1)}, "found , other/"),
        ({"pos_embedding": np.zeros((1, 4, WIDTH))}, "holds the weight .* twice"),
        ({POSITIONS: None}, "found \\[0\\]"),
        ({POSITIONS: np.zeros((1, 7, WIDTH))}, r"found \[1, 7, 32\]"),
        ({QUERY: np.zeros((WIDTH, 8, WIDTH // 8))}, r"expected shape \[32, 4, 8\], found \[32, 8, 4\]"),
        ({"embedding/bias": np.full(WIDTH, np.nan)}, "NaN"),
        ({"embedding/bias": np.zeros(WIDTH, np.int32)}, "floating-point values, found int32"),
        ({"embedding/bias": np.array([{}] * WIDTH)}, "pickled objects"),
        ({f"{BLOCK.format(9)}/x": np.zeros(1)}, "unexpected Transformer/encoderblock_9/x"),
        ({"Transformer/encoderblock/x": np.zeros(())}, "leading axis of layers"),
    ],
)
def test_misfit_changes_nothing(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    names = {k: v for k, v in (vision_transformer() | change).items() if v is not None}
    model = small_model()
    before = copy.deepcopy(model)
    with pytest.raises(CheckpointError, match=message) as caught:
        initialise_spatial(model, npz(tmp_path / "x", names))
    assert str(caught.value).isprintable()
    assert_same(model, before)


def with_entry(path: Path, entry: str, content: bytes) -> Path:
    """An archive of a ViT with other bytes, compressed, for one entry."""
    names = vision_transformer()
    del names[entry]
    npz(path, names)
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"{entry}.npy", content)
    return path


def header(shape: tuple[int, ...]) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
    return file.getvalue()


@pytest.mark.parametrize(
    ("entry", "content", "message"),
    [
        ("embedding/bias", header((1 << 39,)), "expected shape"),
        ("embedding/bias", header((WIDTH,)), "expected 128 bytes"),
        ("embedding/bias", header((WIDTH,)) + bytes(200_000_000), "expected 128 bytes"),
        ("embedding/bias", header((-1,)), "bad array shape"),
        ("embedding/bias", b"text", "is no NumPy array"),
        ("embedding/bias", b"\x93NUMPY\x01\x00\x04\x00{{{{", "is no NumPy array"),
        (POSITIONS, header((1, 1 + (1 << 30), WIDTH)), "expected shape"),
    ],
    ids=["huge", "short", "bomb", "negative", "text", "header", "positions"],
)
def test_hostile_archives(entry: str, content: bytes, message: str, tmp_path: Path) -> None:
    path = with_entry(tmp_path / "x", entry, content)
    before = peak_bytes()
    with pytest.raises(CheckpointError, match=message):
        initialise_spatial(small_model(), path)
    assert peak_bytes() - before < 64 << 20


def test_damaged_archives(tmp_path: Path) -> None:
    """Any bytes overwritten, or the end cut off: weights or one clear line."""
    whole = npz(tmp_path / "x", vision_transformer()).read_bytes()
    rng = np.random.default_rng(5)
    for _ in range(60):
        content = bytearray(whole[: rng.integers(1, len(whole))] if rng.random() < 0.2 else whole)
        for position in rng.integers(0, len(content), 40):
            content[position] = rng.integers(0, 256)
        # The directory at the end is small: half of the damage goes there.
        for position in rng.integers(max(0, len(content) - 5000), len(content), 3):
            content[position] = rng.integers(0, 256)
        (tmp_path / "x").write_bytes(content)
        try:
            initialise_spatial(small_model(), tmp_path / "x")
        except CheckpointError as error:
            assert str(error).isprintable()
