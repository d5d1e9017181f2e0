"""Benchmarks of latency, memory and overlap: what must hold whatever the clock says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import cold, decode, latency, long, memory, pipeline, segments
from benchmarks.figures import Row
from benchmarks.latency import Setting, percentiles
from benchmarks.models import random_repository
from benchmarks.videos import read_chunks, write_video
from sfavivit import Recognizer
from tests.benchmarks.support import rows_of

ROUNDS = 2


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights; windows of 8 frames, which are 4 tubelets."""
    return random_repository(tmp_path_factory.mktemp("models") / "tiny-fp32-8", "tiny", "fp32", frames=8)


def value(row: Row, figure: str) -> float:
    return row.figures[figure].median


def test_latency_of_every_stage(models: Path) -> None:
    chunks = (4, 3)  # tubelets: one call for a clip, or two
    settings = [Setting("onnxruntime", "fp32", "tiny", 8, chunk) for chunk in chunks]
    out_of_reach = Setting("tensorrt", "fp32", "tiny", 8, 4)
    words: list[str] = []
    rows = latency.measure(
        [*settings, out_of_reach],
        models.parent,
        streams=[1, 2],
        rounds=ROUNDS,
        seconds=0,
        left_out=words.append,
    )
    assert len(words) == 1
    assert "tensorrt fp32 tiny, 8 frames" in words[0] and "\n" not in words[0]
    found = {(row.case["chunk"], row.case["work"], row.case["stage"]): row for row in rows}
    assert {row.case["engine"] for row in rows} == {"onnxruntime"}
    assert len(found) == len(rows) == len(chunks) * (5 + 5 + 4 + 4)
    for chunk in chunks:
        assert value(found[chunk, "clip", "total"], "values") == ROUNDS
        assert value(found[chunk, "clip", "spatial call"], "values") == ROUNDS * -(-4 // chunk)
        assert value(found[chunk, "2 streams", "queue"], "values") == 2 * ROUNDS
        for work in ("clip", "1 stream", "2 streams"):
            assert value(found[chunk, work, "total"], "throughput") > 0
        for work, stages, whole in (
            ("1 stream", ("queue", "spatial", "temporal"), False),
            ("fresh process", ("imports", "load", "decode", "rest"), True),
        ):
            parts = np.sum([found[chunk, work, stage].figures["p50"].samples for stage in stages], axis=0)
            total = np.array(found[chunk, work, "total"].figures["p50"].samples)
            assert parts.shape == (ROUNDS,)
            assert np.allclose(parts, total) if whole else (parts <= total).all()


def test_a_percentile_needs_enough_values() -> None:
    few = percentiles([[0.001], [0.002], [0.004]])
    assert few["p50"].samples == (1, 2, 4)
    assert set(few) == {"p50", "values"}
    together = percentiles([[k / 1000 for k in range(6)], [k / 1000 for k in range(6, 11)]])
    assert together["p50"].samples == (2.5, 8)
    assert together["p90"].samples == (9,)  # of 0 to 10
    assert "p99" not in together
    many = percentiles([[k / 1000 for k in range(101)]] * 2)
    assert many["p90"].samples == (90, 90)
    assert many["p99"].samples == (99, 99)
    assert many["values"].samples == (202,)


def test_each_tubelet_once_answers_as_every_window_recomputed(tmp_path: Path) -> None:
    long.command([0, 0.5, 0.75], 2.0, ROUNDS, frames=8, out=tmp_path)  # 25 frames: 13 tubelets
    rows = rows_of(tmp_path, "long")
    assert [(row.case["overlap"], value(row, "windows")) for row in rows if row.case["way"] == long.ONCE] == [
        (0, 4),
        (0.5, 6),
        (0.75, 10),
    ]
    assert len(rows) == 6
    for row in rows:
        assert value(row, "largest difference") <= long.TOLERANCE
        assert len(row.figures["time"].samples) == ROUNDS
        if row.case["overlap"] == 0:
            assert row.figures["times the first"].samples == (1,) * ROUNDS


def test_other_answers_are_not_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = long._recomputed
    monkeypatch.setattr(long, "_recomputed", lambda *arguments: right(*arguments) + 1e-3)
    with pytest.raises(AssertionError, match="logits differ by"):
        long.command([0], 1.0, 1, frames=8, out=tmp_path)


def test_cold_process(repository: Path, tmp_path: Path) -> None:
    cold.command(repository, 1, tmp_path)
    found = rows_of(tmp_path, "cold")
    rows = {row.case["what"]: row.figures["time"].samples for row in found}
    assert list(rows) == [cold.COMMAND, *(f"of which: {p}" for p in ("imports", "load", "decode", "rest"))]
    assert all(took > 0 for (took,) in rows.values())


def test_classify_against_its_parts(repository: Path, tmp_path: Path) -> None:
    row = pipeline.measure("small", repository, tmp_path, video_seconds=2, picture="64x64", rounds=ROUNDS)
    samples = {name: np.array(figure.samples) for name, figure in row.figures.items()}
    larger = np.maximum(samples["decode"], samples["inference"])
    assert np.allclose(samples["ratio"], samples["classify"] / larger)
    assert (samples["bound"] >= 1).all()
    assert (samples["decode CPU"] > 0).all()  # of a child process that has been waited for


def test_peak_memory(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "SHORT_SECONDS", 2)
    memory.command(models, [1, 2], [8], rounds=1, out=tmp_path)
    rows = rows_of(tmp_path, "memory")
    assert [tuple(row.case.values()) for row in rows] == [
        ("video_seconds", 1),
        ("video_seconds", 2),
        ("window_frames", 8),
    ]
    for row in rows:
        assert 20 < value(row, "process") < value(row, "with decoder") < 1000  # MiB; decoder apart
        if row.case["value"] != 2:
            assert value(row, "times the first") == 1


def test_the_peak_is_that_of_the_program() -> None:
    """Memory that the process gave back counts; memory that its parent used before does not."""
    program = "x = b'x' * (100 << 20); del x; print(flush=True); input()"
    child = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with child:
        assert child.stdout and child.stdin
        child.stdout.readline()
        peak, now = memory._process_peak_bytes(child.pid), memory._tree_bytes(child.pid)
        child.stdin.write("\n")
    assert (100 << 20) < peak < (150 << 20)
    assert 0 < now < (100 << 20)


def test_a_video_that_repeats_itself(recognizer: Recognizer, tmp_path: Path) -> None:
    video, sampling = write_video(tmp_path / "long.mp4", 40, "32x32"), recognizer.manifest.sampling
    frames = np.concatenate(list(read_chunks(video, sampling, 16))).astype(int)
    assert len(frames) == 40 * sampling.fps
    assert np.abs(frames[:250] - frames[250:]).max() < 8


def test_segments_are_slices(models: Path, tmp_path: Path) -> None:
    """The benchmark itself compares their scores."""
    segments.command(models, 12, 3, ROUNDS, tmp_path)
    decoded, stored, sliced = rows_of(tmp_path, "segments")
    assert [len(row.figures["time"].samples) for row in (decoded, stored, sliced)] == [ROUNDS] * 3
    ratios = np.divide(decoded.figures["time"].samples, sliced.figures["time"].samples)
    assert sliced.figures["times faster"].samples == pytest.approx(ratios, rel=1e-4)  # of six digits


def test_decoding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode, "PICTURES", {"64x64": 1e5})
    monkeypatch.setattr(decode, "VIDEO_SECONDS", 2.0)
    decode.command(ROUNDS, tmp_path)
    (row,) = rows_of(tmp_path, "decode")
    assert len(row.figures["decode CPU"].samples) == ROUNDS
    assert all(row.figures[name].median > 0 for name in ("decode CPU", "speed", "bit rate"))
