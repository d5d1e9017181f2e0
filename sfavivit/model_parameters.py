"""The manifest on its way through Triton: each ``config.pbtxt`` carries the part that belongs to its model.

    model                     parameters["sfavivit"]
    sfavivit_spatial          the manifest without heads, history, files, plans
    sfavivit_temporal_<head>  {"entry": the served HeadEntry, "labels": {output: [label, ...]}}

A client then needs no file of the repository. File digests stay in ``manifest.json``: a config that held
them would hold its own.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from sfavivit.errors import RepositoryError
from sfavivit.repository import Catalog, HeadEntry, Labels, Manifest, parse_manifest

PARAMETER = "sfavivit"


def spatial_parameter(manifest: Manifest) -> str:
    """What the spatial model's config carries."""
    return _json(manifest.model_dump(mode="json", exclude={"heads", "history", "files", "plans"}))


def head_parameter(entry: HeadEntry, labels: Labels) -> str:
    """What a temporal model's config carries."""
    return _json({"entry": entry.model_dump(mode="json"), "labels": labels})


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def parse_catalog(spatial: str, heads: Mapping[str, str], where: str) -> Catalog:
    """The catalog that the parameters of a spatial model and of its heads describe.

    Raises:
        RepositoryVersionError: written in a newer format.
        RepositoryError: not such parameters, or ones that contradict each other.
    """
    try:
        fields = dict(json.loads(spatial))
        parts = {head: json.loads(text) for head, text in heads.items()}
        fields |= {"heads": {head: part["entry"] for head, part in parts.items()}, "files": {}}
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
