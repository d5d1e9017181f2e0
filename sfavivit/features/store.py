"""Durable feature store: features of the frozen spatial transformer on disk, computed once.

    store/
      store.json                        format version and dtype of the features
      3f/3fa1...c2.safetensors          one entry (entry.py), named by the digest of its key

Entries are written beside their place and renamed into it, so a reader sees a whole entry or none, and
several writers do each other no harm: for one key they write the same. A damaged entry counts as absent, is
reported, and is replaced when its features have been computed again. Looking something up never writes.

An entry of a whole video also serves its segments (slicing.py).
"""

from __future__ import annotations

import json
import logging
import os
import secrets
from contextlib import suppress
from pathlib import Path

from sfavivit.arguments import checked
from sfavivit.errors import FeatureStoreError
from sfavivit.features.entry import (
    DTYPES,
    SUFFIX,
    DamagedEntryError,
    FeatureKey,
    StoredDtype,
    StoredFeatures,
    encode_entry,
    open_regular,
    read_entry,
)
from sfavivit.features.slicing import segment_slice, slice_features
from sfavivit.utils.atomic import TEMPORARY_NAME, atomic_write, fsync_path
from sfavivit.video.ffmpeg import exact_rate

__all__ = ["FeatureKey", "FeatureStore", "StoredDtype", "StoredFeatures"]

log = logging.getLogger("sfavivit")

FORMAT_VERSION = 1
STORE_NAME = "store.json"
_MAX_STORE_BYTES = 4096
MAX_KEPT_BYTES = 256 << 20
"""Largest entry of a whole video that stays in memory for its segments: 3.5 hours with D = 768."""


class FeatureStore:
    """Features on disk, by key. Safe with several processes and machines on one file system.

    Args:
        root: folder of the store.
        dtype: type of the features on disk; None takes the store's (float32 for a new one). With float32,
            scores from the store are those from the video, bit for bit; float16 takes half the space.
        create: make a new store of a folder that is empty or absent.

    Raises:
        FeatureStoreError: the folder is not a store and cannot be one, or holds another type than ``dtype``.
    """

    @checked
    def __init__(self, root: str | Path, dtype: StoredDtype | None = None, *, create: bool = True) -> None:
        self.root = Path(root)
        try:
            if create:
                self._create(dtype or DTYPES[0])
            with open_regular(self.root / STORE_NAME) as file:
                content = file.read(_MAX_STORE_BYTES)
        except FileNotFoundError:
            raise FeatureStoreError(f"{self.root} is not a feature store: it has no {STORE_NAME}") from None
        except (FileExistsError, NotADirectoryError):
            raise FeatureStoreError(f"feature store {self.root} cannot be used: it is not a folder") from None
        except (OSError, ValueError, DamagedEntryError) as error:  # ValueError: a null character in the name
            reason = error.strerror if isinstance(error, OSError) else error
            raise FeatureStoreError(f"feature store {self.root} cannot be used: {reason}") from error
        try:
            fields = json.loads(content)
            version, kept = fields["format_version"], fields["dtype"]
        except (ValueError, TypeError, KeyError, RecursionError) as error:
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
        self._last_whole: tuple[tuple[str, int, int, int] | None, StoredFeatures | None] = None, None

    @checked
    def get(self, key: FeatureKey) -> StoredFeatures | None:
        """Return the features of ``key``, or None when there are none that are undamaged.

        Features of a segment that begins and ends where tubelets do may be a slice of the whole video's.
        """
        entry = self._read(key, "computing these features again")
        if entry or key == key.of_whole or not segment_slice(key, exact_rate(key.sampling.fps)):
            return entry
        whole = self._whole(key.of_whole)
        return slice_features(whole, key) if whole else None

    def _whole(self, key: FeatureKey) -> StoredFeatures | None:
        """Read the entry of a whole video, once for all of its segments that follow one another in a list."""
        path = self.path(key.digest)
        try:
            status = path.stat()
        except OSError:
            return None
        version = (key.digest, status.st_ino, status.st_size, status.st_mtime_ns)
        known, whole = self._last_whole
        if known != version:
            whole = self._read(
                key, "decoding its segments; store the whole video again: sfavivit features --whole"
            )
            if status.st_size <= MAX_KEPT_BYTES:
                self._last_whole = version, whole
        return whole

    def _read(self, key: FeatureKey, remedy: str) -> StoredFeatures | None:
        path = self.path(key.digest)
        try:
            return read_entry(path)
        except FileNotFoundError:
            return None
        except (DamagedEntryError, OSError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            log.warning("feature store: %s: %s; %s", path, reason, remedy)
            return None

    @checked
    def put(self, key: FeatureKey, entry: StoredFeatures) -> None:
        """Store features; they are durable when this returns.

        Raises:
            FeatureStoreError: they cannot be written, or are not finite as the store's ``dtype``.
        """
        path = self.path(key.digest)
        try:
            content = encode_entry(key, entry, self.dtype)
        except ValueError as error:
            raise FeatureStoreError(
                f"feature store {self.root}: {error}; use a float32 store, or check the engine"
            ) from None
        try:
            with suppress(FileExistsError):
                path.parent.mkdir()
                fsync_path(self.root)
            try:
                atomic_write(path, content)
            except IsADirectoryError:
                path.rename(path.with_name(f"{path.name}.{secrets.token_hex(4)}.aside"))
                atomic_write(path, content)
        except OSError as error:
            raise FeatureStoreError(f"feature store: {path} cannot be written: {error.strerror}") from error

    @checked
    def path(self, digest: str) -> Path:
        """Return the path of the entry of a key's digest."""
        return self.root / digest[:2] / (digest + SUFFIX)

    def _create(self, dtype: StoredDtype) -> None:
        """Create the store unless there is one. Of several processes that do so at once, the first wins."""
        self.root.mkdir(parents=True, exist_ok=True)
        # In this order: a process that finds store.json missing after listing cannot have seen any entries.
        names = os.listdir(self.root)  # noqa: PTH208 - all names at one moment
        if os.path.lexists(self.root / STORE_NAME):
            return
        if any(not TEMPORARY_NAME.fullmatch(name) for name in names):
            raise FeatureStoreError(
                f"{self.root} is neither a feature store nor empty: it has no {STORE_NAME}; name another"
            )
        fields = {"format_version": FORMAT_VERSION, "dtype": dtype}
        atomic_write(self.root / STORE_NAME, json.dumps(fields).encode(), replace=False)
