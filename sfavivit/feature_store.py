"""The durable feature store: what the frozen spatial transformer made of a video, kept for good.

    store/
      store.json                        format version, and the type that features are kept in
      3f/3fa1...c2.safetensors          one entry, named by the digest of its key

An entry is a safetensors file: ``features`` [T, D], ``timestamps`` float64 [T], and as metadata its key, the
frames it was made of and a checksum over all of that. Entries are written beside their place and renamed
into it, so a reader sees a whole entry or none, and several writers do each other no harm: of one key they
write the same. Whatever is found damaged counts as absent, is reported, and is replaced when the features
have been computed again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import safetensors
import safetensors.numpy
from numpy.typing import NDArray

from sfavivit.errors import FeatureStoreError
from sfavivit.video import CENTER, Crop, Sampling

log = logging.getLogger("sfavivit")

FORMAT_VERSION = 1
STORE_NAME = "store.json"
SUFFIX = ".safetensors"

StoredDtype = Literal["float32", "float16"]
DTYPES: tuple[StoredDtype, ...] = ("float32", "float16")


@dataclass(frozen=True)
class FeatureKey:
    """What features are a function of: equal keys, equal features.

    ``video_sha256``: of the file's content. ``spatial_sha256``: of the spatial engine's files
    (``Manifest.spatial_sha256``), which covers its precision. The part of the video that was looked at
    counts, because it says which pictures are sampled.
    """

    video_sha256: str
    spatial_sha256: str
    sampling: Sampling
    crop: Crop = CENTER[0]
    start_seconds: float = 0.0
    end_seconds: float | None = None

    @cached_property
    def text(self) -> str:
        """The key as JSON, always written the same way."""
        return json.dumps(asdict(self), sort_keys=True)

    @cached_property
    def digest(self) -> str:
        """sha256 of ``text``, in hex."""
        return hashlib.sha256(self.text.encode()).hexdigest()


@dataclass(frozen=True)
class StoredFeatures:
    """Features float32 [T, D] of a video, and float64 [T], the second at which each tubelet starts.

    ``frames_used``: frames that they were made of (the last tubelet may have been filled up). ``warning``:
    what was wrong with the video, of which these features are the readable part.
    """

    features: NDArray[np.float32]
    timestamps: NDArray[np.float64]
    frames_used: int
    warning: str | None = None


class DamagedEntryError(Exception):
    """A file of the store that is not the entry it should be. Never leaves the library."""


class FeatureStore:
    """Features on disk, by key. Safe with several processes and machines on one file system.

    ``dtype``: what features are kept as; None takes what the store has (float32 for a new one). With float32
    the scores from the store are those from the video, bit for bit; float16 takes half the room.

    Raises:
        FeatureStoreError: the folder cannot be a store, or holds another type than ``dtype``.
    """

    def __init__(self, root: str | Path, dtype: StoredDtype | None = None) -> None:
        self.root = Path(root)
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            if not (self.root / STORE_NAME).exists():
                if any(self.root.iterdir()):
                    raise FeatureStoreError(
                        f"{self.root} is neither a feature store nor empty: it has no {STORE_NAME}; "
                        "name another folder"
                    )
                fields = {"format_version": FORMAT_VERSION, "dtype": dtype or DTYPES[0]}
                _write(self.root / STORE_NAME, json.dumps(fields).encode())
            fields = json.loads((self.root / STORE_NAME).read_bytes())
            version, kept = fields["format_version"], fields["dtype"]
        except OSError as error:
            raise FeatureStoreError(f"feature store {self.root} cannot be used: {error.strerror}") from error
        except (ValueError, TypeError, KeyError) as error:
            raise FeatureStoreError(
                f"{self.root / STORE_NAME} cannot be read: {error!r}; restore it, or start another store"
            ) from error
        if version != FORMAT_VERSION or kept not in DTYPES:
            raise FeatureStoreError(
                f"{self.root} is a store of format {version!r} with {kept!r}; this program knows format "
                f"{FORMAT_VERSION} with {' or '.join(DTYPES)}"
            )
        if dtype not in (None, kept):
            raise FeatureStoreError(f"feature store {self.root} keeps {kept}, not {dtype}; name another one")
        self.dtype: StoredDtype = kept

    def get(self, key: FeatureKey) -> StoredFeatures | None:
        """The features of ``key``; None when there are none, or none that are undamaged."""
        path = self.path(key.digest)
        try:
            return read_entry(path, key.text)
        except FileNotFoundError:
            return None
        except (DamagedEntryError, OSError) as error:
            log.warning("feature store: %s: %s; computing these features again", path, error)
            return None

    def put(self, key: FeatureKey, entry: StoredFeatures) -> None:
        """Keep features; they are durable when this returns.

        Raises:
            FeatureStoreError: they cannot be written.
        """
        path = self.path(key.digest)
        tensors = {"features": entry.features.astype(self.dtype), "timestamps": entry.timestamps}
        metadata = {"key": key.text, "frames_used": str(entry.frames_used)}
        if entry.warning:
            metadata["warning"] = entry.warning
        metadata["sha256"] = _checksum(tensors, metadata)
        try:
            path.parent.mkdir(exist_ok=True)
            _write(path, safetensors.numpy.save(tensors, metadata))
        except OSError as error:
            raise FeatureStoreError(f"feature store: {path} cannot be written: {error.strerror}") from error

    def path(self, digest: str) -> Path:
        """Where the entry of a key's digest lies."""
        return self.root / digest[:2] / (digest + SUFFIX)

    def files(self) -> Iterator[Path]:
        """Every file in the place of an entry, in order."""
        return (path for path in sorted(self.root.glob(f"??/*{SUFFIX}")))


def read_entry(path: Path, key_text: str | None = None) -> StoredFeatures:
    """An entry whose checksum, form and (when given) key are right.

    Raises:
        DamagedEntryError: they are not.
        OSError: the file cannot be read.
    """
    content = path.read_bytes()
    try:
        tensors = safetensors.numpy.load(content)
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        metadata: dict[str, Any] = header["__metadata__"]
        features, timestamps = tensors["features"], tensors["timestamps"]
        checksum, text = metadata.pop("sha256"), metadata["key"]
        frames_used = int(metadata["frames_used"])
    except (safetensors.SafetensorError, ValueError, KeyError, TypeError) as error:
        raise DamagedEntryError(f"not an entry ({error})") from error
    if checksum != _checksum(tensors, metadata):
        raise DamagedEntryError("the checksum is wrong")
    if (key_text or text) != text or hashlib.sha256(text.encode()).hexdigest() != path.stem:
        raise DamagedEntryError("the entry is another video's")
    if features.ndim != 2 or timestamps.shape != features.shape[:1] or not np.isfinite(features).all():
        raise DamagedEntryError(f"features {list(features.shape)}, timestamps {list(timestamps.shape)}")
    return StoredFeatures(features.astype(np.float32), timestamps, frames_used, metadata.get("warning"))


def _checksum(tensors: dict[str, NDArray[Any]], metadata: dict[str, str]) -> str:
    """Over the metadata, and over every tensor's name, type, shape and bytes."""
    digest = hashlib.sha256(json.dumps(metadata, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tensor.shape}".encode())
        digest.update(np.ascontiguousarray(tensor).data)
    return digest.hexdigest()


def _write(path: Path, content: bytes) -> None:
    """Atomically, and durably: the file and its name are on disk when this returns."""
    descriptor, name = tempfile.mkstemp(prefix=".", suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        with suppress(OSError):
            Path(name).unlink()
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
