"""The manifest in Triton's model configs, so that a client of the server needs no file of the repository.

Each ``config.pbtxt`` carries the part that belongs to its model:

    model                     parameters["sfavivit"]
    sfavivit_spatial          the manifest without heads, history, plans; "files": {name: {bytes, sha256}}
    sfavivit_temporal_<head>  {"entry": the served HeadEntry, "labels": {output: [label, ...]}, "files": ...}

``files`` are those of the served version's directory, without the config itself. Configs of earlier exports
have no ``files``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from sfavivit.errors import RepositoryError
from sfavivit.repository.manifest import (
    SPATIAL_MODEL,
    Catalog,
    Labels,
    Manifest,
    parse_manifest,
    temporal_model,
)

PARAMETER = "sfavivit"


def spatial_parameter(manifest: Manifest) -> str:
    """Return the parameter of the spatial model's config."""
    fields = manifest.model_dump(mode="json", exclude={"heads", "history", "files", "plans"})
    return _json(fields | {"files": _files(manifest, SPATIAL_MODEL, manifest.spatial.version)})


def head_parameter(manifest: Manifest, head: str, labels: Labels) -> str:
    """Return the parameter of a temporal model's config."""
    entry = manifest.head(head)
    files = _files(manifest, temporal_model(head), entry.version)
    return _json({"entry": entry.model_dump(mode="json"), "labels": labels, "files": files})


def _files(manifest: Manifest, model: str, version: int) -> dict[str, Any]:
    """Return size and digest of every file of a model's version."""
    folder = f"{model}/{version}/"
    return {
        name: entry.model_dump(mode="json")
        for name, entry in manifest.files.items()
        if name.startswith(folder)
    }


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def parse_catalog(spatial: str, heads: Mapping[str, str], where: str) -> Catalog:
    """Read a catalog from the parameters of a spatial model and of its heads; ``where`` names them in errors.

    Raises:
        RepositoryVersionError: they are written in a newer format.
        RepositoryError: they are missing, unreadable or contradict each other.
    """
    try:
        fields = dict(json.loads(spatial))
        parts = {head: json.loads(text) for head, text in heads.items()}
        fields["heads"] = {head: part["entry"] for head, part in parts.items()}
        fields["files"] = {
            name: entry for part in (fields, *parts.values()) for name, entry in part.get("files", {}).items()
        }
        labels = {
            head: {output: tuple(names) for output, names in part["labels"].items()}
            for head, part in parts.items()
        }
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise RepositoryError(
            f"{where} serves models without a readable {PARAMETER!r} parameter ({type(error).__name__}); "
            "export its repository again"
        ) from error
    manifest = parse_manifest(_json(fields).encode(), where)
    for head, entry in manifest.heads.items():
        counts = {output: len(names) for output, names in labels[head].items()}
        if counts != entry.outputs:
            raise RepositoryError(
                f"{where}: head {head!r} has labels for {counts}, but classes {entry.outputs}"
            )
    return Catalog(manifest, labels)
