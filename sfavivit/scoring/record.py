"""The record of a job, ``job.json``: the settings that all rows of a folder share."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from typing import Any

from sfavivit.repository.manifest import ENGINE_FILES, Catalog, HeadEntry, Manifest, temporal_model
from sfavivit.scoring.job_options import ScoreOptions

FORMAT_VERSION = 1

Record = dict[str, Any]
"""Content of job.json.

    format_version   1
    model            name of the repository's model
    spatial_sha256   digest over the spatial engine's files
    sampling         fps, shortest_side, crop_size
    heads            {head: {version, sha256, timeline, labels: {output: [label of each class]}}}; timeline:
                     null, or its windows and cost
    stride_seconds   null: each head's default
    top_k, views     views: null or "4x3"
    align_to_tubelets             true where segments were widened to whole tubelets, else null
    video_track      number of the video track, if one was chosen
"""


def record_of(catalog: Catalog, options: ScoreOptions) -> Record:
    """Return the record of a job.

    Raises:
        HeadNotFoundError: the repository lacks one of the heads.
        RepositoryError: the manifest lacks digests of the engines' files.
    """
    manifest = catalog.manifest
    heads = {
        head: {
            "version": manifest.head(head).version,
            "sha256": head_sha256(manifest, head),
            "timeline": timeline.model_dump(mode="json")
            if (timeline := manifest.head(head).timeline)
            else None,
            "labels": {output: list(labels) for output, labels in catalog.labels[head].items()},
        }
        for head in options.classify.heads
    }
    return {
        "format_version": FORMAT_VERSION,
        "model": manifest.name,
        "spatial_sha256": manifest.spatial_sha256,
        "sampling": asdict(manifest.sampling),
        "heads": heads,
        "stride_seconds": options.classify.stride_seconds,
        "top_k": options.classify.top_k,
        "views": str(options.classify.views) if options.classify.views else None,
        "align_to_tubelets": options.align_to_tubelets or None,
        "video_track": options.video_track,
    }


def _timeline(head: HeadEntry) -> dict[str, Any] | None:
    return head.timeline.model_dump(mode="json") if head.timeline else None


def head_sha256(manifest: Manifest, head: str) -> str | None:
    """Return the digest over the engine files of a head; None when the manifest lacks theirs."""
    folder = f"{temporal_model(head)}/{manifest.head(head).version}"
    files = [manifest.files.get(f"{folder}/{name}") for name in ENGINE_FILES]
    digests = [file.sha256 for file in files if file]
    return hashlib.sha256("".join(digests).encode()).hexdigest() if len(digests) == len(files) else None


def differences(old: Record, new: Record) -> list[str]:
    """Return the differences of two records, such as ``views (none before, 4x3 now)``."""
    return [
        f"{name} ({_short(before)} before, {_short(now)} now)"
        for name, before, now in _pairs("", old, new)
        if before != now
    ]


def _pairs(name: str, old: Any, new: Any) -> list[tuple[str, Any, Any]]:
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return [(name, old, new)]
    keys = dict.fromkeys((*old, *new))
    return [pair for key in keys for pair in _pairs(f"{name}.{key}".lstrip("."), old.get(key), new.get(key))]


def _short(value: Any) -> str:
    if value is None:
        return "none"
    shown = value if isinstance(value, str) else json.dumps(value)
    return shown if len(shown) <= 20 else shown[:12] + "..."
