"""Scenic checkpoints: the same logits as Scenic, and hostile msgpack."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sfavivit.models.checkpoints import load_checkpoint
from sfavivit.models.checkpoints.flax import MAX_DEPTH
from sfavivit.models.vivit import SfaVivit
from tests.make_golden import DATA, flax_bytes, msgpack, random_params, random_video, scenic_logits
from tests.models.checkpoint_support import SAME_FOLDER, refusal, scenic_file

GOLDEN = DATA / "scenic_golden.msgpack"


def logits(model: SfaVivit, video: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    with torch.inference_mode():
        out: torch.Tensor = model(torch.from_numpy(video))[""]
    return out.numpy()


@pytest.mark.parametrize("chunk_values", [2**28, 500], ids=["whole", "chunked"])
@pytest.mark.parametrize(
    "wrap",
    [
        lambda p: {"params": p, "global_step": 7, "rng": np.zeros(2, np.uint32), "model_state": None},
        lambda p: {"optimizer": {"target": p, "state": {"param_states": p}}},
        lambda p: {"optimizer": {"target": {"params": p}, "state": {"step": np.int32(7)}}, "loss": 0.5},
    ],
    ids=["params", "optimizer-target", "optimizer-target-params"],
)
def test_golden(wrap: Callable[[Any], Any], chunk_values: int, tmp_path: Path) -> None:
    params = random_params(2306)
    path = tmp_path / "checkpoint_1"
    path.write_bytes(flax_bytes(wrap(params), chunk_values))
    golden = np.load(DATA / "scenic_golden.npz")
    model = load_checkpoint(path)
    assert not model.training
    assert np.abs(logits(model, golden["video"]) - golden["logits"]).max() < 1e-5
    assert all(
        torch.equal(a, b)
        for a, b in zip(
            model.state_dict().values(), load_checkpoint(GOLDEN).state_dict().values(), strict=True
        )
    )


def test_golden_dimensions() -> None:
    dims = load_checkpoint(GOLDEN).dims
    assert (dims.hidden_size, dims.image_size, dims.patch_size, dims.tubelet_frames) == (32, 12, 4, 2)
    assert (dims.spatial.layers, dims.spatial.heads, dims.spatial.mlp_dim) == (2, 4, 48)
    assert (dims.temporal.layers, dims.temporal.heads, dims.temporal.mlp_dim) == (1, 2, 40)
    assert (dims.max_tubelets, dims.outputs, dims.adapter) == (4, (("", 7),), None)


@pytest.mark.skipif("SFAVIVIT_GOLDEN" not in os.environ, reason="SFAVIVIT_GOLDEN names no folder")
def test_shared_golden() -> None:
    """Scenic's own logits, against the model and against the NumPy forward pass of the committed golden."""
    folder = Path(os.environ["SFAVIVIT_GOLDEN"])
    expected = np.load(folder / "scenic_fe_a.npz")
    checkpoint = folder / "scenic_fe_a.msgpack"

    def array(code: int, data: bytes) -> np.ndarray[Any, Any]:
        shape, dtype, values = msgpack.unpackb(data)
        return np.frombuffer(values, dtype).reshape(shape)

    params = msgpack.unpackb(checkpoint.read_bytes(), ext_hook=array)["params"]
    assert np.abs(scenic_logits(params, expected["video"]) - expected["logits"]).max() < 1e-5
    assert np.abs(logits(load_checkpoint(checkpoint), expected["video"]) - expected["logits"]).max() < 1e-4


transformers = st.tuples(st.integers(1, 2), st.sampled_from([1, 2, 4]), st.integers(1, 9))


@settings(SAME_FOLDER, max_examples=20)
@given(
    shape=st.fixed_dictionaries(
        {
            "hidden": st.sampled_from([4, 8, 12]),
            "spatial": transformers,
            "temporal": transformers,
            "patch": st.integers(1, 3),
            "tubelet": st.integers(1, 3),
            "grid": st.integers(1, 3),
            "tubelets": st.integers(1, 3),
            "classes": st.integers(1, 4),
        }
    ),
    seed=st.integers(0, 1000),
)
def test_any_scenic_shape_gives_scenic_logits(shape: dict[str, Any], seed: int, tmp_path: Path) -> None:
    params = random_params(seed, **shape)
    model = load_checkpoint(scenic_file(tmp_path / "x", params))
    video = random_video(params, batch=1, seed=seed)
    assert np.allclose(logits(model, video), scenic_logits(params, video), atol=1e-4)


@pytest.mark.parametrize("dtype", ["float16", "float64", "bfloat16"])
def test_scenic_in_other_precisions(dtype: str, tmp_path: Path) -> None:
    params = random_params(1)
    kernel = (np.round(params["output_projection"]["kernel"] * 64) / 64).astype(np.float32)  # exact in each
    stored = (kernel.view(np.uint32) >> 16).astype(np.uint16) if dtype == "bfloat16" else kernel.astype(dtype)
    params["output_projection"]["kernel"] = stored
    model = load_checkpoint(scenic_file(tmp_path / "x", params))
    weight = model.state_dict()["temporal.classifiers.logits.weight"]
    assert weight.dtype == torch.float32
    assert np.array_equal(weight.numpy().T, kernel)


def edit(path: str, value: Any = None) -> Callable[[dict[str, Any]], None]:
    """Replace a parameter, or remove it when there is no value."""
    *parents, last = path.split("/")

    def apply(params: dict[str, Any]) -> None:
        for key in parents:
            params = params.setdefault(key, {})
        params.pop(last, None)
        if value is not None:
            params[last] = value

    return apply


SPATIAL = "SpatialTransformer"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (edit("cls_SpatialTransformer"), "pools its tokens"),
        (edit("cls_TemporalTransformer"), "pools its tubelets"),
        (edit("TemporalTransformer"), "averages over time"),
        (edit("Transformer/encoder_norm/bias", np.zeros(32, np.float32)), "unfactorised"),
        (edit(SPATIAL), "no SpatialTransformer"),
        (edit("pre_logits/bias", np.zeros(32, np.float32)), "pre_logits"),
        (edit("embedding/kernel", np.zeros((4, 4, 3, 32), np.float32)), "single frames"),
        (
            edit("embedding/kernel", np.zeros((2, 4, 5, 3, 32), np.float32)),
            r"\[2, 4, 4, 3, 32\], found \[2, 4, 5",
        ),
        (edit("embedding/kernel"), "misses the weight embedding/kernel"),
        (
            edit(f"{SPATIAL}/posembed_input/pos_embedding", np.zeros((1, 9, 32), np.float32)),
            "square.*found 8",
        ),
        (
            edit(f"{SPATIAL}/posembed_input/pos_embedding", np.zeros((10, 32), np.float32)),
            r"found \[10, 32\]",
        ),
        (edit(f"{SPATIAL}/encoderblock_1/LayerNorm_0/bias"), "misses .*encoderblock_1/LayerNorm_0/bias"),
        (edit(f"{SPATIAL}/encoderblock_0"), "misses the weight .*encoderblock_0/.*query/kernel"),
        (edit(f"{SPATIAL}/encoderblock_7/x", np.zeros(1, np.float32)), "and 13 more and has unexpected"),
        (edit(f"{SPATIAL}/extra", np.zeros(1, np.float32)), "unexpected SpatialTransformer/extra"),
        (edit("output_projection/bias", np.zeros(6, np.float32)), r"expected shape \[7\], found \[6\]"),
        (edit("output_projection/bias", np.full(7, np.nan, np.float32)), "output_projection/bias has NaN"),
        (edit("output_projection/bias", np.full(7, 1e300)), "output_projection/bias has NaN or infinite"),
        (edit("output_projection/bias", np.zeros(7, np.int32)), "floating-point values, found int32"),
        (edit("output_projection/bias", "zeros"), "expected an array, found str"),
        (edit("output_projection/kernel", np.zeros((32, 0), np.float32)), "outputs"),
        (edit("a\nb\x1b[31m", np.zeros(1, np.float32)), r"a\?b\?\[31m"),
    ],
)
def test_scenic_refused(change: Callable[[Any], None], message: str, tmp_path: Path) -> None:
    params = random_params(1)
    change(params)
    refusal(scenic_file(tmp_path / "x", params), message)


def array_record(shape: Any, dtype: Any, values: Any) -> Any:
    return msgpack.ExtType(1, msgpack.packb([shape, dtype, values]))


def nested(levels: int) -> Any:
    return {"a": nested(levels - 1)} if levels else 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (msgpack.packb({"a": 1}), "expected weights at one of params, .*; found a"),
        (msgpack.packb({"params": {"a": 1}}) + b"\0", "1 bytes follow the end"),
        (msgpack.packb(nested(MAX_DEPTH)), f"{MAX_DEPTH} levels"),
        (b"\x81\xa1a" + b"\xc9\0\0\x10\0\x01" * 5000, "levels|announced"),  # arrays inside arrays
        (b"\x81\xa1a\xdd\xff\xff\xff\xff" + b"\xc0" * 2_000_000, "1,000,000 objects"),
        (b"\xdf\xff\xff\xff\xff\xa1a\xc0", "1 bytes announced, 0 present"),
        (b"\x81\xa1a\xc6\xff\xff\xff\xff", "4,294,967,295 bytes announced, 0 present"),
        (b"\x81\xa1a\xc1", "tag 0xc1"),
        (b"\x81\xa1\xff\xc0", "UTF-8"),
        (b"\x82\xa1a\xc0\xa1a\xc0", "new text key, found 'a'"),
        (msgpack.packb({1: 2}), "text key, found 1"),
        (msgpack.packb({"a": msgpack.ExtType(2, msgpack.packb([1.0, 2.0]))}), "extension type 2"),
        (msgpack.packb({"a": array_record([2**40], "float32", b"")}), "has 0 bytes"),
        (msgpack.packb({"a": array_record([-1, -1], "float32", b"\0" * 4)}), "bad array shape"),
        (msgpack.packb({"a": array_record([True], "float32", b"\0" * 4)}), "bad array shape"),
        (msgpack.packb({"a": array_record([2**60] * 100_000, "float32", b"")}), "bad array shape"),
        (msgpack.packb({"a": array_record([1], "float32", "text")}), r"expected \[shape, dtype, bytes\]"),
        (msgpack.packb({"a": msgpack.ExtType(1, msgpack.packb([[1], "int8", b"a"]) + b"\0")}), "bytes. in"),
        (msgpack.packb({"a": {"__msgpack_chunked_array__": True}}), "numbered 'shape'"),
        (msgpack.packb({"a": {"__msgpack_chunked_array__": True, "shape": {}, "chunks": {}}}), "one dtype"),
    ],
    ids=lambda value: "" if isinstance(value, bytes) else None,
)  # fmt: skip
def test_hostile_msgpack(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "x.msgpack"
    path.write_bytes(content)
    refusal(path, message)
