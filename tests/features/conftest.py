"""Fixtures for tests of the feature store: videos, and a recognizer whose engine counts."""

from __future__ import annotations

from pathlib import Path

import pytest

from sfavivit import Recognizer
from sfavivit.features.store import FeatureStore
from tests.conftest import wide_video
from tests.counting_engine import CountingEngine


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
def engine(counting: tuple[Recognizer, CountingEngine]) -> CountingEngine:
    return counting[1]


@pytest.fixture
def recognizer(counting: tuple[Recognizer, CountingEngine]) -> Recognizer:
    return counting[0]


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    return FeatureStore(tmp_path / "store")
