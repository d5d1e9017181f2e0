"""File format of one feature store entry: safetensors with a checksum over everything in it.

Tensors ``features`` [T, D], float32 or float16, and ``timestamps`` float64 [T]. Metadata ``key``,
``frames_used``, ``warning``, and ``sha256`` over all of that. Whatever bit of the file
changes, reading it gives the same entry or :class:`DamagedEntryError`.

Format: https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
import safetensors
import safetensors.numpy
from numpy.typing import NDArray

from sfavivit.config import CENTER, Crop, Sampling

SUFFIX = ".safetensors"
MAX_HEADER_BYTES = 1 << 20

StoredDtype = Literal["float32", "float16"]
DTYPES: tuple[StoredDtype, ...] = ("float32", "float16")

# Errors of parsing bytes that are not an entry.
_NOT_AN_ENTRY = (
    safetensors.SafetensorError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    RecursionError,
)


@dataclass(frozen=True)
class FeatureKey:
    """Key of an entry: everything that features are a function of.

    ``video_sha256``: digest of the file's content. ``spatial_sha256``: digest of the spatial engine's files
    (``Manifest.spatial_sha256``), which covers its precision. The segment counts, because it determines which
    pictures are sampled. Equal keys give equal features, bit for bit, from one set-up; another engine of the
    same files, another size of its calls (``chunk_tubelets``) or another ffmpeg may round them differently.
    """

    video_sha256: str
    spatial_sha256: str
    sampling: Sampling
    crop: Crop = CENTER[0]
    start_seconds: float = 0.0
    end_seconds: float | None = None
    video_track: int | None = None

    @property
    def of_whole(self) -> FeatureKey:
        """Key of the whole video."""
        return replace(self, start_seconds=0.0, end_seconds=None)

    @cached_property
    def text(self) -> str:
        """Key as JSON with its fields sorted; without a track unless one was chosen."""
        fields = asdict(self)
        if self.video_track is None:  # as in the stores that knew of no tracks
            del fields["video_track"]
        return json.dumps(fields, sort_keys=True)

    @cached_property
    def digest(self) -> str:
        """Hex SHA-256 of ``text``, which names the entry's file."""
        return hashlib.sha256(self.text.encode()).hexdigest()


@dataclass(frozen=True)
class StoredFeatures:
    """Features float32 [T, D] of a video, and float64 [T], the second at which each tubelet starts.

    ``frames_used``: number of frames behind them (the last tubelet may have been filled up). ``warning``:
    what was irregular in the video (damage, timestamps, other tracks), or None.
    """

    features: NDArray[np.float32]
    timestamps: NDArray[np.float64]
    frames_used: int
    warning: str | None = None


@dataclass(frozen=True)
class EntryHeader:
    """Header of an entry, not verified by the checksum. ``key``: the fields of its ``FeatureKey``."""

    key: dict[str, Any]
    tubelets: int
    frames_used: int


class DamagedEntryError(Exception):
    """Raised for a file of the store that is not the entry it should be; never leaves the library."""


def encode_entry(key: FeatureKey, entry: StoredFeatures, dtype: StoredDtype) -> bytes:
    """Encode an entry as the content of its file.

    Raises:
        ValueError: features that are not finite, or not in ``dtype``.
    """
    with np.errstate(over="ignore"):
        features = np.ascontiguousarray(entry.features, dtype)
    if not np.isfinite(features).all():
        raise ValueError(f"features hold NaN or infinity as {dtype}")
    tensors = {"features": features, "timestamps": np.ascontiguousarray(entry.timestamps, np.float64)}
    metadata = {"key": key.text, "frames_used": str(entry.frames_used)}
    if entry.warning:
        metadata["warning"] = entry.warning
    return safetensors.numpy.save(tensors, metadata | {"sha256": _checksum(tensors, metadata)})


def read_entry(path: Path) -> StoredFeatures:
    """Read an entry and verify its checksum, its form, and that its key is the one the file is named by.

    Raises:
        DamagedEntryError: they are not.
        OSError: the file cannot be read.
    """
    with open_regular(path) as file:
        _header(file)
        file.seek(0)
        content = file.read()
    try:
        tensors = safetensors.numpy.load(content)
        metadata = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"]
        checksum, text = metadata.pop("sha256"), metadata["key"]
        features, timestamps, frames_used = _parts(tensors, metadata)
    except _NOT_AN_ENTRY as error:
        raise DamagedEntryError(f"not an entry ({error})") from error
    if checksum != _checksum(tensors, metadata):
        raise DamagedEntryError("its checksum is wrong")
    if hashlib.sha256(text.encode()).hexdigest() != path.stem:
        raise DamagedEntryError("it is the entry of another key")
    return StoredFeatures(features, timestamps, frames_used, metadata.get("warning"))


def read_header(path: Path) -> EntryHeader:
    """Read the header of an entry, without its features. Raises as ``read_entry``."""
    with open_regular(path) as file:
        header = _header(file)
    try:
        metadata = header["__metadata__"]
        key = json.loads(metadata["key"])
        return EntryHeader(
            {"video_track": None, **key},
            int(header["features"]["shape"][0]),
            int(metadata["frames_used"]),
        )
    except _NOT_AN_ENTRY as error:
        raise DamagedEntryError(f"not an entry ({error!r})") from error


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file; no link is followed, and no pipe waited for.

    Raises:
        DamagedEntryError: it is something else.
        OSError: it cannot be opened.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise DamagedEntryError("it is a symbolic link, not a file") from None
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise DamagedEntryError("it is not a file")
    return os.fdopen(descriptor, "rb")


def _header(file: BinaryIO) -> dict[str, Any]:
    """Read the header of a safetensors file whose size matches it."""
    size = os.fstat(file.fileno()).st_size
    length = int.from_bytes(file.read(8), "little")
    if not 0 < length <= MAX_HEADER_BYTES:
        raise DamagedEntryError("not an entry (it does not begin like one)")
    try:
        header: dict[str, Any] = json.loads(file.read(length))
        ends = [tensor["data_offsets"][1] for name, tensor in header.items() if name != "__metadata__"]
        expected = 8 + length + max(ends)
    except _NOT_AN_ENTRY as error:
        raise DamagedEntryError(f"not an entry ({error})") from error
    if size != expected:
        raise DamagedEntryError(f"it has {size} bytes, not {expected}")
    return header


def _parts(
    tensors: dict[str, NDArray[Any]], metadata: dict[str, str]
) -> tuple[NDArray[np.float32], NDArray[np.float64], int]:
    features, timestamps = tensors["features"], tensors["timestamps"]
    if features.dtype.name not in DTYPES or features.ndim != 2 or not np.isfinite(features).all():
        raise ValueError(f"features {features.dtype} {list(features.shape)}")
    if timestamps.dtype != np.float64 or timestamps.shape != features.shape[:1]:
        raise ValueError(f"timestamps {timestamps.dtype} {list(timestamps.shape)}")
    if not np.isfinite(timestamps).all() or (np.diff(timestamps) <= 0).any():
        raise ValueError("timestamps that do not rise")
    return features.astype(np.float32, copy=False), timestamps, int(metadata["frames_used"])


def _checksum(tensors: dict[str, NDArray[Any]], metadata: dict[str, str]) -> str:
    """Return the SHA-256 of the metadata and of every tensor's name, type, shape and bytes."""
    digest = hashlib.sha256(json.dumps(metadata, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tensor.shape}".encode())
        digest.update(tensor.data)
    return digest.hexdigest()
