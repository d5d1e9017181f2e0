"""The durable feature store: what the frozen spatial transformer made of a video, kept for good.

    store/
      store.json                        format version, and the type that features are kept in
      3f/3fa1...c2.safetensors          one entry (feature_entry.py), named by the digest of its key

Entries are written beside their place and renamed into it, so a reader sees a whole entry or none, and
several writers do each other no harm: of one key they write the same. Whatever is found damaged counts as
absent, is reported, and is replaced when the features have been computed again. Nothing is ever written to
look something up.

An entry of a whole video also serves its parts (feature_parts.py).

On two cores and an SSD: 64 x 768 in float32 (0.2 MB) takes 0.4 ms to read with all checks and 1.4 ms to make
durable, an hour of video (22,500 x 768, 69 MB) 0.2 s and 0.3 s; hashing its file, 1.4 GB/s.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
from contextlib import suppress
from pathlib import Path

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
from sfavivit.features.slicing import part_of, slice_of
from sfavivit.utils.atomic import TEMPORARY_NAME, atomic_write, fsync_path
from sfavivit.video.ffmpeg import exact_rate

__all__ = ["FeatureKey", "FeatureStore", "StoredDtype", "StoredFeatures"]

log = logging.getLogger("sfavivit")

FORMAT_VERSION = 1
STORE_NAME = "store.json"
_MAX_STORE_BYTES = 4096
MOST_KEPT_BYTES = 256 << 20
"""Of a whole video's entry that stays in memory for its parts: three hours and a half, with D = 768."""


class FeatureStore:
    """Features on disk, by key. Safe with several processes and machines on one file system.

    ``dtype``: what features are kept as; None takes what the store has (float32 for a new one). With float32
    the scores from the store are those from the video, bit for bit; float16 takes half the room.
    ``create``: make a new store of a folder that is empty or absent.

    Raises:
        FeatureStoreError: the folder is not a store and cannot be one, or holds another type than ``dtype``.
    """

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

    def get(self, key: FeatureKey) -> StoredFeatures | None:
        """The features of ``key``; None when there are none, or none that are undamaged.

        Those of a part that begins and ends where tubelets do may be a slice of the whole video's.
        """
        entry = self._read(key, "computing these features again")
        if entry or key == key.of_whole or not slice_of(key, exact_rate(key.sampling.fps)):
            return entry
        whole = self._whole(key.of_whole)
        return part_of(whole, key) if whole else None

    def _whole(self, key: FeatureKey) -> StoredFeatures | None:
        """Of a whole video, whose parts follow one another in a list: it is read once for them."""
        path = self.path(key.digest)
        try:
            status = path.stat()
        except OSError:
            return None
        version = (key.digest, status.st_ino, status.st_size, status.st_mtime_ns)
        known, whole = self._last_whole
        if known != version:
            whole = self._read(key, "decoding parts of this video; store it again: sfavivit features --whole")
            if status.st_size <= MOST_KEPT_BYTES:
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

    def put(self, key: FeatureKey, entry: StoredFeatures) -> None:
        """Keep features; they are durable when this returns.

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
            self._make_folder(path.parent)
            try:
                atomic_write(path, content)
            except IsADirectoryError:
                path.rename(path.with_name(f"{path.name}.{secrets.token_hex(4)}.aside"))
                atomic_write(path, content)
        except OSError as error:
            raise FeatureStoreError(f"feature store: {path} cannot be written: {error.strerror}") from error

    def path(self, digest: str) -> Path:
        """Where the entry of a key's digest lies."""
        return self.root / digest[:2] / (digest + SUFFIX)

    def _create(self, dtype: StoredDtype) -> None:
        """Unless there is one. Of several who do this at once, the first decides."""
        self.root.mkdir(parents=True, exist_ok=True)
        # In this order: who finds store.json missing after it has looked cannot have seen a store's entries.
        names = os.listdir(self.root)  # noqa: PTH208 - all names at one moment
        if os.path.lexists(self.root / STORE_NAME):
            return
        if any(not TEMPORARY_NAME.fullmatch(name) for name in names):
            raise FeatureStoreError(
                f"{self.root} is neither a feature store nor empty: it has no {STORE_NAME}; name another"
            )
        fields = {"format_version": FORMAT_VERSION, "dtype": dtype}
        atomic_write(self.root / STORE_NAME, json.dumps(fields).encode(), replace=False)

    def _make_folder(self, folder: Path) -> None:
        with suppress(FileExistsError):
            folder.mkdir()
            fsync_path(self.root)
