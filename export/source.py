"""Read the model to export: a checkpoint file, or a head of an fp32 model repository."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file

from export.outputs import label_outputs, read_label_files
from sfavivit.config import Sampling
from sfavivit.errors import ExportError
from sfavivit.models.checkpoints import KnownDimensions, load_checkpoint
from sfavivit.models.checkpoints.kinds import recognise
from sfavivit.models.vivit import SfaVivit
from sfavivit.repository.manifest import MANIFEST_NAME, Labels, Padding, Repository, TimelineDecoding
from sfavivit.utils.text import printable

_WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".msgpack")
_MAX_CONFIG_BYTES = 1 << 20


@dataclass(frozen=True)
class ModelSource:
    """A model, its labels, and settings of its repository (``None`` for a checkpoint)."""

    model: SfaVivit
    labels: Labels
    sampling: Sampling | None = None
    padding: Padding | None = None
    timeline: TimelineDecoding | None = None


def read_source(
    path: Path,
    label_files: list[str],
    from_head: str | None,
    known: KnownDimensions | None = None,
    from_key: str | None = None,
) -> ModelSource:
    """Read a checkpoint, or a repository's head ``from_head`` (default: its only one, or ``default``).

    A folder of a checkpoint, such as Hugging Face's, is read by its weights file. ``known`` and ``from_key``
    are those of ``load_checkpoint``.

    Raises:
        CheckpointError, RepositoryError: the file or directory ``path`` cannot be read.
        ExportError: a repository of reduced precision, labels that do not fit, ``from_head`` for a file,
            ``from_key`` for a repository.
        HeadNotFoundError: a repository without that head.
    """
    files = read_label_files(label_files)
    if path.is_dir() and (path / MANIFEST_NAME).exists():
        if from_key:
            raise ExportError(f"--from-key {from_key} is for a checkpoint; {path} is a model repository")
        source = _read_repository(path, files, from_head)
        (known or KnownDimensions()).check(path, source.model.dims)
        return source
    if from_head:
        raise ExportError(f"--from-head {from_head} is for a model repository; {path} is a checkpoint")
    model = load_checkpoint(_weights_file(path) if path.is_dir() else path, known, from_key)
    return ModelSource(model, label_outputs(model, files))


def _weights_file(folder: Path) -> Path:
    """Return the one file of weights in a folder that is no model repository.

    Raises:
        ExportError: the folder is of another model, or holds no single file of weights.
    """
    found = recognise(folder)
    names = sorted(entry.name for entry in folder.iterdir())
    if model_type := _model_type(folder / "config.json"):
        raise ExportError(
            f"{folder} is a Hugging Face folder of the model {model_type!r}, which is another function than "
            "this project's factorised encoder; if its weights are this project's, give their file"
        )
    weights = [name for name in names if name.endswith(_WEIGHT_SUFFIXES)]
    if len(weights) == 1:
        return folder / weights[0]
    if weights:
        raise ExportError(f"{folder} holds several files of weights; give one: {', '.join(weights[:8])}")
    raise ExportError(
        f"{folder}: expected a checkpoint file, or a model repository with {MANIFEST_NAME}; found {found}"
    )


def _model_type(config: Path) -> str | None:
    """Return the architecture that a Hugging Face ``config.json`` names, or ``None``."""
    try:
        with config.open("rb") as file:
            content = json.loads(file.read(_MAX_CONFIG_BYTES))
    except (OSError, ValueError, RecursionError):
        return None
    model_type = content.get("model_type") if isinstance(content, dict) else None
    return printable(model_type)[:80] if isinstance(model_type, str) else None


def _read_repository(path: Path, files: dict[str, Path], from_head: str | None) -> ModelSource:
    repository = Repository.load(path)
    manifest = repository.manifest
    if manifest.spatial.precision != "fp32":
        raise ExportError(
            f"{path} is {manifest.spatial.precision}; only an fp32 repository can be exported again"
        )
    head = from_head or (next(iter(manifest.heads)) if len(manifest.heads) == 1 else "default")
    entry = manifest.head(head)
    model = SfaVivit(entry.dimensions)
    for half, file in (
        (model.spatial, repository.spatial_file("model.safetensors")),
        (model.temporal, repository.temporal_file(head, "model.safetensors")),
    ):
        try:
            half.load_state_dict(load_file(file))
        except (SafetensorError, RuntimeError) as error:
            reason = " ".join(str(error).split())
            raise ExportError(f"{file} does not hold this model's weights: {reason}") from error
    labels = label_outputs(model, files) if files else repository.labels[head]
    return ModelSource(model.eval(), labels, manifest.sampling, entry.padding, entry.timeline)
