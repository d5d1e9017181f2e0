"""An entry of the feature store, and everything that can happen to its file."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from sfavivit.config import Sampling
from sfavivit.features.entry import FeatureKey, StoredFeatures

KEY = FeatureKey("1" * 64, "2" * 64, Sampling(fps=12.5, shortest_side=16, crop_size=16))
OTHER = replace(KEY, video_sha256="3" * 64)


def features(
    tubelets: int = 5, seed: int = 0, warning: str | None = "broken near second 1 (é)"
) -> StoredFeatures:
    values = np.random.default_rng(seed).normal(size=(tubelets, 8)).astype(np.float32)
    return StoredFeatures(values, 0.16 * np.arange(tubelets, dtype=np.float64), 2 * tubelets - 1, warning)


def same(found: StoredFeatures | None, entry: StoredFeatures) -> bool:
    return (
        found is not None
        and found.features.dtype == np.float32
        and found.features.shape == entry.features.shape
        and found.features.tobytes() == entry.features.tobytes()
        and found.timestamps.tobytes() == entry.timestamps.tobytes()
        and (found.frames_used, found.warning) == (entry.frames_used, entry.warning)
    )


def flipped(content: bytes, *bits: int) -> bytes:
    """Return ``content`` with the bits of these numbers inverted."""
    changed = bytearray(content)
    for bit in bits:
        changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def deep_json(path: Path) -> None:
    text = b"[" * 100_000
    path.write_bytes(len(text).to_bytes(8, "little") + text)


def sparse(path: Path) -> None:
    """A terabyte that begins like an entry."""
    content = path.read_bytes()
    path.write_bytes(content)
    os.truncate(path, 1 << 40)


def replaced_by(make: Callable[[Path], object]) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        path.unlink()
        make(path)

    return damage


def unix_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        here = Path.cwd()
        os.chdir(path.parent)  # names of sockets must be short
        try:
            listener.bind(path.name)
        finally:
            os.chdir(here)


def folder_with_content(path: Path) -> None:
    path.mkdir()
    (path / "precious").touch()


def link_to_itself(path: Path) -> None:
    path.symlink_to(path.name)


def link_to_a_copy(path: Path) -> None:
    copy = path.with_suffix(".copy")
    shutil.copy(path, copy)
    path.unlink()
    path.symlink_to(copy.name)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "empty": lambda path: path.write_bytes(b""),
    "no header": lambda path: os.truncate(path, 8),
    "half a header": lambda path: os.truncate(path, 100),
    "half": lambda path: os.truncate(path, path.stat().st_size // 2),
    "a byte short": lambda path: os.truncate(path, path.stat().st_size - 1),
    "a byte long": lambda path: path.write_bytes(path.read_bytes() + b"\0"),
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "text": lambda path: path.write_text("a foreign file\n" * 100),
    "deep json": deep_json,
    "sparse": sparse,
    "folder": replaced_by(Path.mkdir),
    "folder with content": replaced_by(folder_with_content),
    "fifo": replaced_by(os.mkfifo),
    "socket": replaced_by(unix_socket),
    "link to nothing": replaced_by(lambda path: path.symlink_to("nothing")),
    "link to /dev/zero": replaced_by(lambda path: path.symlink_to("/dev/zero")),
    "link to itself": replaced_by(link_to_itself),
    "link to a copy": link_to_a_copy,
}
