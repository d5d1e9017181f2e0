"""What the tests of sources with a feature store share: videos, and a recognizer whose engine counts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sfavivit.features.store import FeatureStore
from sfavivit.inference.results import Recognition
from sfavivit.video import process as decoder
from tests.conftest import random_frames
from tests.video_files import encode


def wide_video(path: Path, frames: int, seed: int = 3) -> Path:
    """25 fps, twice as wide as high: its three crops differ."""
    pictures = np.concatenate([random_frames(frames, seed), random_frames(frames, seed + 1)], axis=2)
    return encode(path, pictures.repeat(3, 1).repeat(3, 2))


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
