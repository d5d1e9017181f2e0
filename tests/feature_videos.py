"""What the tests of sources with a feature store share: videos, and a recognizer whose engine counts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sfavivit import Recognizer, Repository
from sfavivit import decoder_process as decoder
from sfavivit.engines import load_engine
from sfavivit.feature_store import FeatureStore
from sfavivit.results import Recognition
from tests.conftest import random_frames
from tests.test_recognizer import CountingEngine
from tests.video_files import encode


def wide_video(path: Path, frames: int, seed: int = 3) -> Path:
    """25 fps, twice as wide as high: its three crops differ."""
    pictures = np.concatenate([random_frames(frames, seed), random_frames(frames, seed + 1)], axis=2)
    return encode(path, pictures.repeat(3, 1).repeat(3, 2))


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """6 s: 75 frames at 12.5 fps, 38 tubelets, the last one not full."""
    return wide_video(tmp_path_factory.mktemp("video") / "six seconds.mp4", 150)


@pytest.fixture(scope="module")
def damaged_video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    whole = wide_video(tmp_path_factory.mktemp("video") / "whole.mkv", 200)
    part = whole.with_name("part.mkv")
    part.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    return part


@pytest.fixture
def engine(repository: Path) -> CountingEngine:
    return CountingEngine(load_engine("onnxruntime", Repository.load(repository)))


@pytest.fixture
def recognizer(repository: Path, engine: CountingEngine) -> Recognizer:
    return Recognizer(Repository.load(repository), engine, chunk_tubelets=4)


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    return FeatureStore(tmp_path / "store")


def essence(answer: Recognition, *, warned: bool = True) -> Any:
    """Everything but the timings, and the warning unless ``warned``; logits as bytes."""
    results = [
        (head, output, result.labels, result.timeline, result.logits.tobytes())
        for head, outputs in answer.heads.items()
        for output, result in outputs.items()
    ]
    warning = answer.warning if warned else None
    return results, answer.video, answer.duration_seconds, answer.frames_used, warning


def entries(store: FeatureStore) -> list[Path]:
    return sorted(store.root.glob("??/*.safetensors"))


def forbid_decoders(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(*_: object) -> None:
        pytest.fail("a decoder was started")

    monkeypatch.setattr(decoder, "_start", start)
