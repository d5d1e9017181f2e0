"""Keeping a feature store in order: what is in it, what of that is damaged, and what may go.

All of it is safe while others read and write: an entry that is removed under a reader's hands is still read
to its end, and one that should have stayed is computed again.
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
    """Something in a store. ``leftover``: a temporary file whose writer has died. ``foreign``: not its own.

    ``modified``: seconds since 1970.
    """

    path: Path
    kind: Kind
    bytes: int
    modified: float


@dataclass(frozen=True)
class Usage:
    """Entries, and the bytes, tubelets and seconds of video that they hold."""

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
    """What ``stats`` counts. ``models``: by the digest of the spatial engine. ``others``: of other kinds."""

    total: Usage = Usage()
    videos: int = 0
    models: dict[str, Usage] = field(default_factory=dict)
    damaged: int = 0
    others: Counter[Kind] = field(default_factory=Counter)
    oldest: float | None = None
    newest: float | None = None


@dataclass(frozen=True)
class Keep:
    """What ``prune`` leaves. ``models``: digests of spatial engines; None: all of them.

    ``max_age_seconds``: since an entry was written. ``max_bytes``: of all entries; the oldest go first.
    """

    models: Collection[str] | None = None
    max_age_seconds: float | None = None
    max_bytes: int | None = None

    def __post_init__(self) -> None:
        for name, value in (("age", self.max_age_seconds), ("bytes", self.max_bytes)):
            if value is not None and not value >= 0:
                raise UsageError(f"the most {name} to keep must be at least 0, got {value:g}")


def places(store: FeatureStore) -> list[Place]:
    """Everything in the store's folder, by path, ``store.json`` aside.

    Raises:
        FeatureStoreError: a folder cannot be read.
    """
    return sorted(_walk(store.root), key=lambda place: place.path)


def fault(place: Place) -> str | None:
    """What is wrong with a place, all of it read; None for an entry that is as it should be, or has gone."""
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
    """Count what entries say of themselves; their features are not read. ``progress``: called for each."""
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
    """Entries that ``keep`` does not leave, and all leftovers. One whose model cannot be read stays."""
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
    """Remove a file; one that has gone is no error, and one that was written since stays.

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
    """Whether an entry is to be kept for its model's sake."""
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
    """Nothing for what has just gone, or is just being written."""
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
