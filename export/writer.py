"""Write the files of a model repository into a staged copy, in which the old files are hard links."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from safetensors.numpy import save_file

from export.graph_builder import GraphAndWeights
from export.triton_configs import configs
from sfavivit.repository.manifest import (
    MANIFEST_NAME,
    Backend,
    Catalog,
    FileEntry,
    Labels,
    Manifest,
    ensemble_model,
    labels_file,
    sha256_of,
)
from sfavivit.utils import cpus

ENGINE_FILE, WEIGHTS_FILE, SHIM_FILE = "model.onnx", "model.safetensors", "model.py"
CONFIG_FILE = "config.pbtxt"
SHIM = {SHIM_FILE: Path(__file__).with_name("triton_shim.py"), "cpus.py": Path(cpus.__file__)}
"""Files of the shim in a version directory and what they are copies of; Triton has no sfavivit to import."""
SPATIAL_VERSION = 1  # other spatial weights make another repository


def changed(manifest: Manifest, **fields: Any) -> Manifest:
    """Return the manifest with other ``fields``, validated again."""
    return Manifest(**{**dict(manifest), **fields})


def write_engine(version: Path, built: GraphAndWeights, backend: Backend) -> None:
    """Make a version directory: graph, weights, and the shim if the backend is Python."""
    version.mkdir(parents=True)
    weights = version / WEIGHTS_FILE
    save_file(built.stored, weights)
    model = built.bind(WEIGHTS_FILE, _tensor_offsets(weights))
    (version / ENGINE_FILE).write_bytes(model.SerializeToString(deterministic=True))
    if backend == "python":
        write_shim(version)


def write_shim(version: Path) -> None:
    """Put the shim, for Triton's Python backend, into a version directory."""
    for name, source in SHIM.items():
        write_text(version / name, source.read_text())


def _tensor_offsets(file: Path) -> dict[str, int]:
    """First byte of each tensor of a safetensors file, which begins with a length (8 bytes) and JSON."""
    with file.open("rb") as stream:
        (header_bytes,) = struct.unpack("<Q", stream.read(8))
        header = json.loads(stream.read(header_bytes))
    start = 8 + header_bytes
    return {
        name: start + entry["data_offsets"][0] for name, entry in header.items() if name != "__metadata__"
    }


def write_labels(version: Path, labels: Labels) -> None:
    """Put the labels of every output beside the engine whose classes they name."""
    for output, names in labels.items():
        write_text(version / labels_file(output), "".join(f"{name}\n" for name in names))


def seal(stage: Path, catalog: Catalog) -> Manifest:
    """Write the configs and the manifest that follow from the catalog and the files; return the manifest.

    A config that stays the same keeps its file and its time, so a polling Triton reloads nothing else.
    """
    manifest = catalog.manifest
    plans = {name: plan for name, plan in manifest.plans.items() if (stage / name).is_file()}
    for head in manifest.heads:
        # Triton wants a version directory even for an ensemble; git keeps no empty directories.
        write_text(stage / ensemble_model(head) / "1" / ".gitkeep", "")
    engines = _digests(stage, (file for file in stage.rglob("*") if file.name != CONFIG_FILE))
    # The configs carry these digests.
    manifest = changed(manifest, plans=plans, files=dict(sorted(engines.items())))
    for model, text in configs(Catalog(manifest, catalog.labels)).items():
        write_text(stage / model / CONFIG_FILE, text)
    files = engines | _digests(stage, stage.glob(f"*/{CONFIG_FILE}"))
    manifest = changed(manifest, files=dict(sorted(files.items())))
    write_text(stage / MANIFEST_NAME, manifest.to_json())
    return manifest


def write_text(file: Path, text: str) -> None:
    """Write ``file``, never into a hard link to the old repository's; an equal one is left alone."""
    content = text.encode()
    if file.is_file() and file.read_bytes() == content:
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    file.unlink(missing_ok=True)
    file.write_bytes(content)


def _digests(stage: Path, files: Iterable[Path]) -> dict[str, FileEntry]:
    """Digests by name of all files but the manifest and the bytecode that a Triton leaves beside the shim."""
    skipped = (MANIFEST_NAME, "__pycache__")
    return {
        file.relative_to(stage).as_posix(): FileEntry(bytes=file.stat().st_size, sha256=sha256_of(file))
        for file in files
        if file.is_file() and not any(part in skipped for part in file.relative_to(stage).parts)
    }
