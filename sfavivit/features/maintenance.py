"""Maintenance of a feature store: inventory, verification and pruning.

It is safe while others read and write: an entry that is removed while it is being read is still read to its
end, and one that should have stayed is computed again.
"""

from __future__ import annotations

import os
import re
import stat
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from sfavivit.errors import FeatureStoreError, UsageError
from sfavivit.features.entry import SUFFIX, DamagedEntryError, read_entry, read_header
from sfavivit.features.store import STORE_NAME, FeatureStore
from sfavivit.utils.atomic import TEMPORARY_NAME

DAY_SECONDS = 86400.0
# A writer is done with a temporary file in moments; one of this age has been left by a writer that died.
LEFT_OVER_SECONDS = 3600.0

_FOLDER_NAME = re.compile(r"[0-9a-f]{2}")
_ENTRY_NAME = re.compile(r"[0-9a-f]{64}" + re.escape(SUFFIX))

Kind = Literal["entry", "leftover", "foreign"]


@dataclass(frozen=True)
class Place:
    """A file in a store: an entry, a ``leftover`` (temporary file of a writer that died), or ``foreign``.

    ``modified``: seconds since 1970.
    """

    path: Path
    kind: Kind
    bytes: int
    modified: float


@dataclass(frozen=True)
class Usage:
    """Number of entries, and the bytes, tubelets and seconds of video that they hold."""

    entries: int = 0
    bytes: int = 0
    tubelets: int = 0
    video_seconds: float = 0.0

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.entries + other.entries,
            self.bytes + other.bytes,
            self.tubelets + other.tubelets,
            self.video_seconds + other.video_seconds,
        )


@dataclass
class Stats:
    """Contents of a store.

    ``models``: usage by digest of the spatial engine. ``others``: number of files that are no entries.
    """

    total: Usage = Usage()
    videos: int = 0
    models: dict[str, Usage] = field(default_factory=dict)
    damaged: int = 0
    others: Counter[Kind] = field(default_factory=Counter)
    oldest: float | None = None
    newest: float | None = None


@dataclass(frozen=True)
class Keep:
    """Retention policy of ``to_prune``.

    ``models``: digests of spatial engines whose entries stay; None: all. ``max_age_seconds``: time since an
    entry was written. ``max_bytes``: size of all entries together; the oldest go first.
    """

    models: Collection[str] | None = None
    max_age_seconds: float | None = None
    max_bytes: int | None = None

    def __post_init__(self) -> None:
        for name, value in (("age", self.max_age_seconds), ("bytes", self.max_bytes)):
            if value is not None and not value >= 0:
                raise UsageError(f"the most {name} to keep must be at least 0, got {value:g}")


def places(store: FeatureStore) -> list[Place]:
    """List all files in the store's folder, sorted by path, without ``store.json``.

    Raises:
        FeatureStoreError: a folder cannot be read.
    """
    return sorted(_walk(store.root), key=lambda place: place.path)


def fault(place: Place) -> str | None:
    """Read a file in full and return its fault; None for an intact entry, or one that has gone."""
    if place.kind == "foreign":
        return "not of the store"
    if place.kind == "leftover":
        return "left by a writer that was killed"
    try:
        read_entry(place.path)
    except FileNotFoundError:
        return None
    except DamagedEntryError as error:
        return str(error)
    except OSError as error:
        return error.strerror or str(error)
    return None


def stats(found: list[Place], progress: Callable[[], None] = lambda: None) -> Stats:
    """Sum up the headers of all entries; features are not read. ``progress`` is called for each file."""
    result, videos = Stats(), set()
    for place in found:
        progress()
        if place.kind != "entry":
            result.others[place.kind] += 1
            continue
        try:
            header = read_header(place.path)
            fps = float(header.key["sampling"]["fps"])
            usage = Usage(1, place.bytes, header.tubelets, header.frames_used / fps)
            model, video = str(header.key["spatial_sha256"]), str(header.key["video_sha256"])
        except FileNotFoundError:
            continue
        except (DamagedEntryError, OSError, LookupError, TypeError, ValueError, ZeroDivisionError):
            result.damaged += 1
            continue
        videos.add(video)
        result.total += usage
        result.models[model] = result.models.get(model, Usage()) + usage
        result.oldest = min(place.modified, result.oldest or place.modified)
        result.newest = max(place.modified, result.newest or place.modified)
    result.videos = len(videos)
    return result


def to_prune(found: list[Place], keep: Keep, progress: Callable[[], None] = lambda: None) -> list[Place]:
    """Select the entries outside the retention policy, and all leftovers. An unreadable entry stays."""
    now = time.time()
    doomed: list[Place] = []
    kept: list[Place] = []
    for place in found:
        progress()
        if place.kind == "leftover":
            doomed.append(place)
        elif place.kind == "entry":
            too_old = keep.max_age_seconds is not None and now - place.modified > keep.max_age_seconds
            (doomed if too_old or not _of_model(place, keep.models) else kept).append(place)
    if keep.max_bytes is not None:
        excess = sum(place.bytes for place in kept) - keep.max_bytes
        for place in sorted(kept, key=lambda place: place.modified):
            if excess <= 0:
                break
            doomed.append(place)
            excess -= place.bytes
    return doomed


def remove(place: Place) -> None:
    """Remove a file, unless it has gone or was written to since it was listed.

    Raises:
        FeatureStoreError: it cannot be removed.
    """
    try:
        if place.path.lstat().st_mtime == place.modified:
            place.path.unlink()
    except FileNotFoundError:
        return
    except OSError as error:
        raise FeatureStoreError(f"{place.path} cannot be removed: {error.strerror}") from error


def _of_model(place: Place, models: Collection[str] | None) -> bool:
    """Return whether an entry is of one of ``models``."""
    if models is None:
        return True
    try:
        return str(read_header(place.path).key["spatial_sha256"]) in models
    except (DamagedEntryError, OSError):
        return True


def _walk(root: Path) -> Iterator[Place]:
    for path in _listed(root):
        if path.name == STORE_NAME:
            continue
        if _FOLDER_NAME.fullmatch(path.name) and path.is_dir():
            for entry in _listed(path):
                is_entry = _ENTRY_NAME.fullmatch(entry.name) and entry.name.startswith(path.name)
                yield from _place(entry, "entry" if is_entry else "foreign")
        else:
            yield from _place(path, "foreign")


def _place(path: Path, kind: Kind) -> Iterator[Place]:
    """Yield the file, unless it has just gone or is still being written."""
    try:
        status = path.lstat()
    except FileNotFoundError:
        return
    if kind == "foreign" and TEMPORARY_NAME.fullmatch(path.name) and stat.S_ISREG(status.st_mode):
        if time.time() - status.st_mtime < LEFT_OVER_SECONDS:
            return
        kind = "leftover"
    yield Place(path, kind, status.st_size, status.st_mtime)


def _listed(folder: Path) -> list[Path]:
    try:
        return [Path(entry) for entry in os.scandir(folder)]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise FeatureStoreError(f"{folder} cannot be read: {error.strerror}") from error
