"""Serve another version of a head, drop old versions, and regenerate configs.

Versions are numbered from 1 and never change; the manifest names the served one, and each ``config.pbtxt``
tells Triton the same by its ``version_policy``.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from export.staging import staged
from export.writer import SHIM_FILE, changed, seal, write_shim
from sfavivit.errors import ExportError
from sfavivit.repository.manifest import Catalog, HeadEntry, Manifest, Repository, read_labels, temporal_model


def with_version(manifest: Manifest, head: str, entry: HeadEntry) -> Manifest:
    """Return the manifest in which ``head``, new or not, is served in version ``entry``."""
    known = manifest.versions(head) if head in manifest.heads else ()
    others = sorted((e for e in known if e.version != entry.version), key=lambda e: e.version)
    history = {name: kept for name, kept in manifest.history.items() if name != head}
    history |= {head: tuple(others)} if others else {}
    return changed(manifest, heads=manifest.heads | {head: entry}, history=history)


def roll_back(target: Path, head: str, version: int | None = None) -> Manifest:
    """Serve ``version`` of a head, or the one before the served.

    Raises:
        RepositoryError, HeadNotFoundError: not a usable repository, or without this head.
        ExportError: no such version.
    """
    old = Repository.load(target)
    served = old.manifest.head(head).version
    kept = {entry.version: entry for entry in old.manifest.versions(head)}
    wanted = version if version is not None else max((v for v in kept if v < served), default=None)
    if wanted not in kept:
        which = f"version {version}" if version is not None else "version before the served one"
        raise ExportError(
            f"head {head!r} has no {which}; it has {', '.join(map(str, sorted(kept)))} and serves {served}"
        )
    manifest = with_version(old.manifest, head, kept[wanted])
    with staged(target) as stage:
        labels = old.labels | {head: read_labels(stage, manifest, head)}
        return seal(stage, Catalog(manifest, labels))


def prune(target: Path, head: str) -> Manifest:
    """Drop every version of a head but the served one. Raises as ``roll_back``."""
    old = Repository.load(target)
    old.manifest.head(head)
    history = dict(old.manifest.history)
    dropped = history.pop(head, ())
    with staged(target) as stage:
        for entry in dropped:
            shutil.rmtree(stage / temporal_model(head) / str(entry.version))
        return seal(stage, Catalog(changed(old.manifest, history=history), old.labels))


def rewrite_configs(target: Path) -> Manifest:
    """Write the Triton configs and shims again. Raises ``RepositoryError``."""
    old = Repository.load(target)
    with staged(target) as stage:
        for shim in stage.glob(f"*/*/{SHIM_FILE}"):
            write_shim(shim.parent)
        return seal(stage, old)
