"""A loaded model: chunks that suit its size, checks around its calls, seconds of each half."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from sfavivit.config import named_dimensions
from sfavivit.engines.model import LoadedModel, TimedEngine, default_chunk_tubelets
from sfavivit.errors import UsageError
from sfavivit.types import Features, Frames, Logits
from tests.conftest import random_frames


@pytest.fixture(scope="module")
def model(repository: Path) -> LoadedModel:
    return LoadedModel.load(repository, threads=1, chunk_tubelets=3)


@pytest.mark.parametrize(("size", "tubelets"), [("tiny", 8), ("B", 4), ("H", 3)])
def test_larger_models_have_smaller_chunks(size: str, tubelets: int) -> None:
    """``tiny`` has 65 tokens a tubelet, B has 197, H has 257: at most 8 tubelets and 800 tokens a call."""
    assert default_chunk_tubelets(named_dimensions(size, {"": 2})) == tubelets


def test_a_chunk_of_no_tubelets_is_refused(repository: Path) -> None:
    with pytest.raises(UsageError, match="chunk_tubelets must be at least 1, got 0"):
        LoadedModel.load(repository, chunk_tubelets=0)


def test_the_same_model_on_another_engine(model: LoadedModel) -> None:
    other = model.with_engine(TimedEngine(model.engine))
    assert (other.catalog, other.chunk_frames) == (model.catalog, 6)
    frames = random_frames(6)
    np.testing.assert_array_equal(other.features(frames), model.features(frames))


def test_seconds_of_each_half() -> None:
    class Sleeping:
        device = "cpu"

        def spatial(self, frames: Frames) -> Features:
            time.sleep(0.02)
            return np.zeros((1, 1, 1), np.float32)

        def temporal(self, head: str, features: Features) -> Logits:
            time.sleep(0.01)
            return {}

    timed = TimedEngine(Sleeping())
    for _ in range(2):
        timed.spatial(np.zeros((1, 2, 1, 1, 3), np.uint8))
    seconds = timed.timer.seconds
    assert seconds["spatial"] >= 0.04
    assert seconds["temporal"] == 0
    timed.temporal("default", np.zeros((1, 1, 1), np.float32))
    assert 0.01 <= seconds["temporal"] < seconds["spatial"]
