"""Peers and the machine's limit: the same model is the same model, counts are exact, rows say what ran."""

from __future__ import annotations

import json
import math
import multiprocessing
from collections import defaultdict
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
import torch
from torch import Tensor, nn

from benchmarks import limit
from benchmarks.figures import Row
from benchmarks.limit import kernels
from benchmarks.models import (
    counted_operations,
    layer_shapes,
    random_model,
    random_repository,
    spatial_operations,
)
from benchmarks.peer_models import HUGGING_FACE_FRAMES, factorised_encoder, hugging_face
from benchmarks.peer_process import Facts, Peer, PeerProcess, Settings, _serve, open_peer
from benchmarks.peers import REFERENCE, check_same_model, measure, rows
from sfavivit.config import named_dimensions
from sfavivit.errors import EngineError, RepositoryError, UsageError
from sfavivit.models.vivit import SpatialTransformer
from sfavivit.repository.manifest import Repository
from tests.benchmarks.support import rows_of
from tests.conftest import random_frames

FRAMES = 16
ROUNDED = 1e-4  # results have six digits
EAGER, BF16 = Peer("pytorch", "eager", "fp32"), Peer("pytorch", "eager", "bf16")


def settings(folder: Path, **changes: float) -> Settings:
    return Settings("tiny", FRAMES, threads=1, patience_seconds=changes.get("patience", 1e9), folder=folder)


def test_plain_pytorch_is_the_same_function() -> None:
    model = random_model("tiny", frames=FRAMES)
    with torch.no_grad():
        for parameter in model.parameters():  # zeros and ones would hide a wrong name
            parameter.normal_(0, 0.1)
        frames = torch.randint(0, 256, (2, FRAMES, 64, 64, 3), dtype=torch.uint8)
        floats = frames.permute(0, 4, 1, 2, 3).float() * (2 / 255) - 1
        torch.testing.assert_close(factorised_encoder(model)(floats), model(frames)[""], atol=1e-4, rtol=1e-4)


def test_a_run_has_a_row_for_each_peer(tmp_path: Path) -> None:
    """Real processes: ours, which is always measured, and plain PyTorch."""
    ours, theirs = measure([EAGER], settings(tmp_path), rounds=2)
    assert (ours.case["model"], theirs.case["model"]) == ("sfavivit", "pytorch")
    assert theirs.figures["logits off by"].median < 1e-4
    for row in (ours, theirs):
        assert row.case["predicted"] is False
        assert row.case["frames"] == FRAMES
        for clip, rate, tubelets in zip(
            *(row.figures[name].samples for name in ("clip", "throughput", "tubelets")), strict=True
        ):
            assert rate == pytest.approx(FRAMES / clip)
            assert tubelets == pytest.approx(rate / 2)
    ratios = np.divide(theirs.figures["clip"].samples, ours.figures["clip"].samples)
    assert ours.figures["over PyTorch fp32"].samples == pytest.approx(ratios)


def test_openvino_is_the_same_model(tmp_path: Path) -> None:
    """OpenVINO at fp32 is within the tolerance of ``measure``; NNCF's int8 is near, and not the same."""
    pytest.importorskip("nncf")
    random_repository(tmp_path / "fp32", "tiny", "fp32", frames=FRAMES)
    peers = [REFERENCE, *(Peer("openvino", "onnx", precision) for precision in ("fp32", "int8"))]
    ours, fp32, int8 = (open_peer(peer, settings(tmp_path))[1]() for peer in peers)
    assert np.abs(ours - fp32).max() < 1e-4 < np.abs(ours - int8).max() < 1


def test_what_a_peer_raises_arrives(tmp_path: Path) -> None:
    here, there = multiprocessing.Pipe()
    _serve(there, REFERENCE, settings(tmp_path))  # there is no repository
    error = here.recv()
    assert isinstance(error, RepositoryError)
    assert str(tmp_path) in str(error)


def test_a_peer_that_dies_is_one_line(tmp_path: Path) -> None:
    with closing(PeerProcess(BF16, settings(tmp_path, patience=0.0))) as peer:
        peer._process.kill()
        with pytest.raises(EngineError, match=r"pytorch/eager/bf16 died with exit code -9"):
            peer.seconds()


def test_too_slow_is_predicted_and_not_run(tmp_path: Path) -> None:
    facts, _ = open_peer(BF16, settings(tmp_path, patience=0.0))
    assert facts.predicted_seconds
    assert facts.logits is None


@pytest.mark.parametrize("name", HUGGING_FACE_FRAMES)
def test_hugging_face_models_are_counted_and_run(name: str, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    facts, run = open_peer(Peer(name, "eager", "fp32"), settings(tmp_path))
    assert facts == Facts(HUGGING_FACE_FRAMES[name], None, None)
    assert run().shape == (400,)


def test_published_sizes_have_their_published_weights() -> None:
    """ViT-B has 86 M parameters (Dosovitskiy et al. 2021); tubelets and attention over time add some."""
    pytest.importorskip("transformers")
    millions = {}
    with torch.device("meta"):
        for name in HUGGING_FACE_FRAMES:
            millions[name] = sum(p.numel() for p in hugging_face(name, "B").parameters()) / 1e6
    assert millions["vivit"] == pytest.approx(89, abs=1)
    assert millions["videomae"] == pytest.approx(86.5, abs=1)
    assert millions["timesformer"] == pytest.approx(121.5, abs=1)


FACTS = {
    REFERENCE: Facts(16, None, np.zeros(3, np.float32)),
    Peer("sfavivit", "onnxruntime", "int8"): Facts(16, None, np.full(3, 0.25, np.float32)),
    EAGER: Facts(16, None, np.full(3, 1e-5, np.float32)),
    BF16: Facts(16, 99.0, None),
    Peer("vivit", "eager", "fp32"): Facts(32, None, None),
}


def made_rows(tmp_path: Path) -> list[Row]:
    seconds = dict(zip(FACTS, [[1.0, 2.0], [0.5, 1.0], [2.0, 6.0], [], [16.0, 16.0]], strict=True))
    return rows(FACTS, seconds, settings(tmp_path), tubelet_frames=2)


def test_rows_and_ratios(tmp_path: Path) -> None:
    fp32, int8, eager, bf16, vivit = made_rows(tmp_path)
    assert fp32.figures["over PyTorch fp32"].samples == (2, 3)
    assert int8.figures["over PyTorch"].samples == (4, 6)
    assert int8.figures["over Hugging Face"].samples == (16, 8)
    assert int8.figures["logits off by"].samples == (0.25,)
    assert (eager.case["predicted"], bf16.case["predicted"]) == (False, True)
    assert bf16.figures["clip"].samples == (99,)
    assert bf16.figures["128 frames"].samples == (8 * 99,)
    assert "tubelets" not in vivit.figures
    assert vivit.figures["128 frames"].samples == (64, 64)


def test_another_model_is_refused() -> None:
    check_same_model(FACTS)
    for wrong in (2e-4, np.nan):
        off = Facts(16, None, np.full(3, wrong, np.float32))
        with pytest.raises(EngineError, match="not the same model"):
            check_same_model({**FACTS, EAGER: off})


@pytest.mark.parametrize(
    "name", ["", "pytorch", "pytorch/eager", "pytorch/fast/fp32", "vivit/eager/fp32/x", "//"]
)
def test_no_such_peer(name: str) -> None:
    with pytest.raises(UsageError, match="is one of"):
        Peer.parse(name)


@pytest.mark.parametrize("size", ["tiny", "B", "H", "R-tiny", "R50-L"])
def test_operations_are_those_that_pytorch_counts(size: str) -> None:
    dims = named_dimensions(size, {"": 1})

    def spatial() -> tuple[nn.Module, dict[str, Tensor]]:
        frames = torch.zeros(1, dims.tubelet_frames, dims.image_size, dims.image_size, 3, dtype=torch.uint8)
        return SpatialTransformer(dims), {"frames": frames}

    assert spatial_operations(dims, last_block_for_cls=False) == counted_operations(spatial)


def test_shapes_of_the_linear_layers() -> None:
    dims = named_dimensions("tiny", {"": 1})
    block = SpatialTransformer(dims).encoder.blocks[0].state_dict()
    for name, (inputs, outputs) in layer_shapes(dims).items():
        (key,) = (key for key in block if key.endswith(f"{name}.weight"))
        assert block[key].shape == (outputs, inputs)


def test_operations_of_our_graph_are_those_it_runs(repository: Path, tmp_path: Path) -> None:
    """Counted from the shapes that ONNX Runtime's profiler saw in the exported graph."""
    loaded = Repository.load(repository)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.enable_profiling = True
    options.profile_file_prefix = str(tmp_path / "profile")
    session: Any = ort.InferenceSession(loaded.spatial_file("model.onnx"), options)
    session.run(None, {"FRAMES": random_frames(6)[None]})
    counted = 0
    for event in json.loads(Path(session.end_profiling()).read_text()):
        if event.get("args", {}).get("op_name") in ("Gemm", "MatMul") and "kernel_time" in event["name"]:
            ((left,), (result,)) = (
                event["args"][side][0].values() for side in ("input_type_shape", "output_type_shape")
            )
            counted += 2 * math.prod(result) * left[-1]
    assert counted == 3 * spatial_operations(loaded.manifest.dimensions, last_block_for_cls=True)


def test_the_limit_of_this_machine(tmp_path: Path) -> None:
    limit.command("tiny", ["fp32"], chunk_tubelets=3, rounds=2, out=tmp_path)
    found = rows_of(tmp_path, "limit")
    by_kind: dict[Any, list[Row]] = defaultdict(list)
    for row in found:
        assert (row.case["size"], row.case["chunk tubelets"]) == ("tiny", 3)
        by_kind[row.case["what"]].append(row)
    products, (engine,), operators = by_kind.values()
    assert {row.case["precision"] for row in products} >= {"fp32", "int8"}
    for row in products:
        single = [row.figures[layer].samples for layer in ("qkv", "proj", "fc1", "fc2")]
        total = row.figures["all layers"].samples
        assert len(total) == 2
        low, high = np.min(single, axis=0), np.max(single, axis=0)
        assert np.all(low * (1 - ROUNDED) <= total) and np.all(total <= high * (1 + ROUNDED))
    rate = np.array(engine.figures["rate"].samples)
    fastest = max((row for row in products if row.case["precision"] == "fp32"), key=_median)
    share = rate / fastest.figures["all layers"].samples
    assert engine.figures["of the ceiling"].samples == pytest.approx(share, rel=ROUNDED)
    assert {"Gemm", "LayerNormalization"} <= {row.case["name"] for row in operators}
    shares = [row.figures["time"].samples for row in operators]
    np.testing.assert_allclose(np.sum(shares, axis=0), 1, rtol=ROUNDED)


def _median(row: Row) -> float:
    return row.figures["all layers"].median


def test_every_kernel_multiplies() -> None:
    """Kernels of plain numbers give what numpy gives for the same random matrices."""
    m, k, n = 5, 8, 6
    draw = np.random.default_rng
    expected = {
        "fp32": draw(0).standard_normal((m, k), np.float32) @ draw(0).standard_normal((k, n), np.float32),
    }
    for kernel in kernels():
        result = kernel.make(m, k, n)()
        array = np.asarray(result[0] if isinstance(result, list) else _dense(result))
        assert array.shape == (m, n)
        if kernel.precision in expected:
            np.testing.assert_allclose(array, expected[kernel.precision], atol=1e-5)


def _dense(result: Any) -> Any:
    if isinstance(result, Tensor):
        return (result.dequantize() if result.is_quantized else result).float()
    return result
