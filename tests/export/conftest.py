"""Fixtures of the export's tests."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest


@pytest.fixture
def own_copy(repository: Path, tmp_path: Path) -> Path:
    """A copy of the shared repository that the test may change."""
    return Path(shutil.copytree(repository, tmp_path / "model_repository"))
