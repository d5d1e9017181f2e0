"""Calibrated int8 weights: the bound on pairs is kept, outputs come closer, clips are spread over videos."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from export.__main__ import app as export_app
from export.calibration import (
    DAMPING,
    NOISE_TUBELETS,
    VIDEO_TUBELETS,
    calibrated,
    calibration_clips,
    inverse_hessian_factor,
)
from export.exporter import SAMPLE_VIDEO
from export.graphs import numpy_state, spatial_graph
from export.quantization import quantize_weight
from export.source import read_source
from export.writer import ENGINE_FILE, write_engine
from sfavivit.config import named_dimensions
from sfavivit.engines.onnxruntime import OnnxModel
from sfavivit.errors import VideoError
from sfavivit.models.rotation import ROTATION, rotated
from sfavivit.models.vivit import SfaVivit
from sfavivit.repository.manifest import FEATURES, FRAMES
from sfavivit.video.reader import VideoReader
from tests.commands import run_here
from tests.conftest import build_model, random_frames
from tests.export.support import ROOT
from tests.video_files import encode, numbered, numbers_shown, sampling


def inputs_of(rng: np.random.Generator, count: int, size: int, kinds: int = 5) -> Any:
    """Rows that are nearly mixtures of ``kinds`` others, as activations are."""
    basis = np.random.default_rng(99).normal(size=(kinds, size))
    return (rng.normal(size=(count, kinds)) @ basis + 0.1 * rng.normal(size=(count, size))).astype(np.float32)


def factor_of(rows: Any) -> Any:
    found = inverse_hessian_factor(torch.from_numpy(rows))
    assert found is not None
    return found


def test_the_factor_is_that_of_the_inverse_of_the_damped_moments() -> None:
    rows = inputs_of(np.random.default_rng(0), 200, 24)
    moments = rows.T.astype(float) @ rows / len(rows)
    damped = moments + DAMPING * moments.diagonal().mean() * np.eye(24)
    factor = factor_of(rows).astype(float)
    np.testing.assert_allclose(factor, np.triu(factor))
    np.testing.assert_allclose(factor.T @ factor @ damped, np.eye(24), atol=1e-3)


@pytest.mark.parametrize("value", [0.0, float("nan"), float("inf")])
def test_nothing_can_be_learned_from_rows_that_say_nothing(value: float) -> None:
    assert inverse_hessian_factor(torch.full((8, 4), value)) is None


@given(st.integers(1, 9), st.integers(1, 70), st.floats(0.1, 30), st.integers(0, 2**32 - 1))
def test_no_two_neighbours_can_saturate_however_errors_spread(
    outputs: int, size: int, largest: float, seed: int
) -> None:
    """Sizes on both sides of a block's, odd ones among them, and weights with a few large ones."""
    rng = np.random.default_rng(seed)
    weight = (rng.normal(size=(outputs, size)) * largest ** rng.random((outputs, size))).astype(np.float32)
    values, _ = quantize_weight(weight, factor_of(inputs_of(rng, 8, size)))
    pairs = np.pad(values.astype(int), ((0, 0), (0, size % 2))).reshape(outputs, -1, 2)
    assert abs(values.astype(int)).max() <= 127
    for sign in (1, -1):
        assert (255 * (sign * pairs).clip(0).sum(axis=2) <= 32767).all()


def test_inputs_that_have_nothing_to_do_with_one_another_leave_weights_rounded() -> None:
    weight = np.random.default_rng(0).normal(size=(9, 130)).astype(np.float32)
    plain, of_white = quantize_weight(weight), quantize_weight(weight, np.eye(130, dtype=np.float32))
    np.testing.assert_array_equal(of_white.values, plain.values)
    np.testing.assert_array_equal(of_white.scale, plain.scale)


def test_outputs_come_closer_for_inputs_of_that_kind() -> None:
    """Measured on rows that were not seen."""
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(32, 150)).astype(np.float32)
    seen, unseen = inputs_of(rng, 400, 150), inputs_of(rng, 400, 150).astype(float)
    errors = []
    for found in (quantize_weight(weight), quantize_weight(weight, factor_of(seen))):
        meant = found.values * found.scale[:, None].astype(float)
        errors.append(float(np.square(unseen @ (meant - weight).T).mean()))
    assert errors[1] < errors[0] / 4


def test_features_of_a_calibrated_model_are_closer(tmp_path: Path) -> None:
    """The demo model in ONNX Runtime, on frames from between those it was calibrated on."""
    source = read_source(ROOT / "model_repository", [], None)
    model, sampling = source.model, source.sampling
    assert sampling
    weights = rotated(numpy_state(model.spatial))
    with VideoReader(SAMPLE_VIDEO, sampling, chunk_frames=1024) as reader:
        frames = next(iter(reader))[None, 100:164]
    with torch.inference_mode():
        expected = model.spatial(torch.from_numpy(frames))[0].numpy()
    found = calibrated(model.dims, weights, calibration_clips([SAMPLE_VIDEO], sampling, 2))
    layers = {name.removesuffix(".weight") for name in weights if weights[name].ndim == 2}
    assert found.keys() == layers - {ROTATION}
    errors = []
    for quantized in ({}, found):
        folder = tmp_path / str(len(quantized))
        write_engine(folder, spatial_graph(model.dims, weights, "int8", quantized=quantized), "onnxruntime")
        features = OnnxModel(folder / ENGINE_FILE).run({FRAMES: frames})[FEATURES][0]
        errors.append(float(np.square(features - expected).mean()))
    assert errors[1] < errors[0] / 1.5


def test_a_hybrids_layers_are_fitted_and_its_resnet_left_alone() -> None:
    dims = named_dimensions("R-tiny", {"": 5}, frames=8, temporal_layers=1, image_size=32)
    weights = numpy_state(SfaVivit(dims).spatial)
    clip = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), np.uint8)
    names: list[str] = []
    found = calibrated(dims, rotated(weights), [clip], names.append)
    assert list(found) == names
    assert set(names) == {"patch_embed"} | {
        f"encoder.blocks.{k}.{layer}"
        for k in range(dims.spatial.layers)
        for layer in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
    }


def test_exporting_names_the_calibration_video_that_is_none(tmp_path: Path) -> None:
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"nothing")
    options = ("--precision", "int8", "--calibration-video", SAMPLE_VIDEO, "--calibration-video", broken)
    target = tmp_path / "new"
    done = run_here(export_app, ROOT / "model_repository", target, *options)
    assert done.returncode == 1
    assert "broken.mp4" in done.stderr
    assert done.stderr.count("\n") == 1
    assert not target.exists()
    done = run_here(export_app, ROOT / "model_repository", target, "--calibration-video", SAMPLE_VIDEO)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "new int8 repository" in done.stderr
    assert not target.exists()


def test_clips_are_mirrored_tubelets_from_all_over_a_video_and_noise(tmp_path: Path) -> None:
    film = encode(tmp_path / "film.mp4", numbered(400), fps=12.5)
    noise, clip = calibration_clips([film], sampling(), 2)
    assert noise.shape == (NOISE_TUBELETS * 2, 64, 64, 3)
    assert 120 < noise.mean() < 135
    assert clip.shape == (VIDEO_TUBELETS * 2, 64, 64, 3)
    shown = np.array(numbers_shown(clip[:, :, ::-1])).reshape(-1, 2)
    np.testing.assert_array_equal(shown[:, 1] - shown[:, 0], 1)
    assert (shown[0, 0], shown[-1, 1]) == (0, 399)
    assert (np.diff(shown[:, 0]) > 20).all()


def test_short_videos_and_several(tmp_path: Path) -> None:
    films = [encode(tmp_path / f"{n}.mp4", numbered(n), fps=12.5) for n in (1, 3, 40)]
    _, *clips = calibration_clips(films, sampling(), 2)
    assert [len(clip) for clip in clips] == [2, 2, 2 * (VIDEO_TUBELETS // 3)]
    _, *clips = calibration_clips(films * 10, sampling(), 2)
    assert [len(clip) for clip in clips] == [2] * 30


def test_what_is_no_video(tmp_path: Path) -> None:
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"nothing")
    with pytest.raises(VideoError):
        calibration_clips([broken], sampling(), 2)


def test_a_model_that_gives_no_numbers_is_still_exported_by_rounding() -> None:
    """It is for the parity check to refuse it."""
    model = build_model()
    with torch.no_grad():
        model.spatial.encoder.pos.fill_(float("nan"))
    weights = numpy_state(model.spatial)
    found = calibrated(model.dims, weights, [random_frames(8)])
    name = "encoder.blocks.0.attn.qkv"
    np.testing.assert_array_equal(found[name].values, quantize_weight(weights[f"{name}.weight"]).values)
