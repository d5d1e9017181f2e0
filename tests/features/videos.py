"""Answers and entries of readers with a feature store, in comparable form."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sfavivit.features.store import FeatureStore
from sfavivit.inference.results import Recognition
from sfavivit.video import process as decoder


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
