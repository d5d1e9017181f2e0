"""Fixtures for the tests of video."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.video_files import H264, encode, numbered


@pytest.fixture(scope="session")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten seconds of 25 fps whose index comes first; picture n shows n."""
    options = (*H264, "-movflags", "+faststart")
    return encode(tmp_path_factory.mktemp("video") / "a.mp4", numbered(250), options=options)
