"""Read the model to export: a checkpoint file, or a head of an fp32 model repository."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file

from export.outputs import label_outputs, read_label_files
from sfavivit.config import Sampling
from sfavivit.errors import ExportError
from sfavivit.models.checkpoints import load_checkpoint
from sfavivit.models.vivit import SfaVivit
from sfavivit.repository.manifest import Labels, Padding, Repository


@dataclass(frozen=True)
class ModelSource:
    """A model, its labels, and the sampling of its repository (``None`` for a checkpoint)."""

    model: SfaVivit
    labels: Labels
    sampling: Sampling | None = None
    padding: Padding | None = None


def read_source(path: Path, label_files: list[str], from_head: str | None) -> ModelSource:
    """Read a checkpoint, or a repository's head ``from_head`` (default: its only one, or ``default``).

    Raises:
        CheckpointError, RepositoryError: the file or directory ``path`` cannot be read.
        ExportError: a repository of reduced precision, labels that do not fit, ``from_head`` for a file.
        HeadNotFoundError: a repository without that head.
    """
    files = read_label_files(label_files)
    if path.is_dir():
        return _read_repository(path, files, from_head)
    if from_head:
        raise ExportError(f"--from-head {from_head} is for a model repository; {path} is a file")
    model = load_checkpoint(path)
    return ModelSource(model, label_outputs(model, files))


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
    return ModelSource(model.eval(), labels, manifest.sampling, entry.padding)
