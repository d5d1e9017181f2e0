"""Fixtures of the tests of new heads."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.video_files import encode


@pytest.fixture(scope="session")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve videos that become light or dark, one window long, and a broken one; their verbs and nouns."""
    folder = tmp_path_factory.mktemp("videos")
    rng = np.random.default_rng(0)
    lines, actions = ["video,label"], ["video,verb,noun"]
    for number in range(12):
        light_last, wide = number % 2, number % 3
        shades = np.linspace(20, 235, 32)[:: 1 if light_last else -1] + rng.normal(0, 12)
        frames = np.clip(shades[:, None, None, None] + rng.normal(0, 6, (32, 48, 64, 3)), 0, 255)
        encode(folder / f"{number}.mp4", frames.astype(np.uint8))
        name = "gets light" if light_last else "gets dark"
        lines.append(f"{number}.mp4,{name}")
        actions.append(f"{number}.mp4,{name},{wide}")
    (folder / "broken.mp4").write_bytes(b"no video")
    (folder / "list.csv").write_text("\n".join([*lines, "broken.mp4,gets dark"]))
    (folder / "actions.csv").write_text("\n".join(actions))
    return folder


@pytest.fixture
def own(repository: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(repository, tmp_path / "models"))
