"""The model repository: a Triton model repository with a manifest.

    model_repository/
      manifest.json                  everything needed to run the models, and a digest of every other file
      sfavivit_spatial/              config.pbtxt, 1/{model.onnx, model.safetensors, ...}
      sfavivit_temporal_<head>/      config.pbtxt, <version>/{model.onnx, model.safetensors, labels*.txt, ...}
      sfavivit_<head>/               config.pbtxt, 1/    ensemble FRAMES -> FEATURES -> LOGITS

``model.onnx`` holds a graph whose weights lie in ``model.safetensors`` beside it (ONNX external data), so
one copy serves ONNX Runtime, Triton and PyTorch. The sampling (fps, crop) belongs to the repository, because
all heads share the spatial pass; the window length and the padding of shorter clips belong to each head. A
head exported again becomes a new version beside the earlier ones; the manifest names the one that is served.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    AliasChoices,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)

from sfavivit.arguments import checked
from sfavivit.config import ModelDimensions, Sampling, validation_summary
from sfavivit.errors import (
    DigestMismatchError,
    HeadNotFoundError,
    RepositoryError,
    RepositoryVersionError,
)

FORMAT_VERSION: Literal[1] = 1
MANIFEST_NAME = "manifest.json"
MAX_MANIFEST_BYTES = 16 << 20

# Tensor names of the contract (DESIGN: uint8 [B, F, H, W, 3] -> float32 [B, T, D] -> float32 [B, C]).
FRAMES = "FRAMES"
FEATURES = "FEATURES"

SPATIAL_MODEL = "sfavivit_spatial"
PLAN_FILE = "model.plan"
ENGINE_FILES = ("model.onnx", "model.safetensors")
HEAD_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
RESERVED_HEAD = re.compile(r"spatial|temporal(_.*)?")

Precision = Literal["fp32", "fp16", "int8"]
PlanPrecision = Literal["fp32", "fp16", "bf16"]
Backend = Literal["python", "onnxruntime"]
Padding = Literal["loop", "none"]
Labels = dict[str, tuple[str, ...]]
"""Labels of one head: {output: label of every class}."""


def logits_tensor(output: str) -> str:
    """Return the tensor name of an output: ``LOGITS``, ``LOGITS_verb`` ..."""
    return f"LOGITS_{output}" if output else "LOGITS"


def labels_file(output: str) -> str:
    """Return the name of an output's label file: ``labels.txt``, ``labels_verb.txt`` ..."""
    return f"labels_{output}.txt" if output else "labels.txt"


def temporal_model(head: str) -> str:
    """Return the Triton name of a head's temporal model."""
    return f"sfavivit_temporal_{head}"


def ensemble_model(head: str) -> str:
    """Return the Triton name of a head's ensemble."""
    return f"sfavivit_{head}"


def _inside(path: str) -> str:
    parts = PurePosixPath(path)
    if parts.is_absolute() or ".." in parts.parts or not parts.parts or "\\" in path:
        raise ValueError("must be a relative path inside the repository")
    return path


def plan_file(model: str, version: int) -> str:
    """Return the path of a version's TensorRT plan in the repository."""
    return f"{model}/{version}/{PLAN_FILE}"


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class FileEntry(_Frozen):
    """Size and digest of one file."""

    bytes: Annotated[int, Field(ge=0)]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Parity(_Frozen):
    """Parity of an engine file with PyTorch fp32, measured at export.

    ``max_abs_error`` in the units of the output (features or logits). ``min_cosine``: smallest cosine over
    rows (tubelets or clips). ``top1_agreement``: share of the parity clips with the same top-1, ties aside.
    """

    max_abs_error: float
    min_cosine: float
    top1_agreement: Annotated[float, Field(ge=0, le=1)]


class SpatialEntry(_Frozen):
    """The spatial model. ``weights_sha256``: digest of the fp32 weights that it was made from."""

    version: Annotated[int, Field(gt=0)]
    precision: Precision
    weights_sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    parity: Parity


class TimelineDecoding(_Frozen):
    """How a head's timeline is made of window scores (:class:`sfavivit.inference.timeline.TimelineBuilder`).

    ``window_tubelets``: lengths of the windows, each at most the head's. ``switch_cost``: log-probability
    that another label must gain.
    """

    window_tubelets: Annotated[tuple[Annotated[int, Field(gt=0)], ...], Field(min_length=1, max_length=8)]
    switch_cost: Annotated[float, Field(ge=0, le=1000, allow_inf_nan=False)]


class HeadEntry(_Frozen):
    """One head; its window is all its temporal positions.

    ``padding`` of a clip shorter than the window: ``"loop"`` repeats its tubelets, ``"none"`` leaves it as it
    is, at the first temporal positions. ``timeline``: None for full windows, and the largest score of each
    tubelet.
    """

    version: Annotated[int, Field(gt=0)]
    dimensions: ModelDimensions
    padding: Annotated[
        Padding,
        # Earlier exports call it "short_clip", and "none" "prefix".
        Field(validation_alias=AliasChoices("padding", "short_clip")),
        BeforeValidator(lambda value: "none" if value == "prefix" else value),
    ]
    parity: Parity
    timeline: TimelineDecoding | None = None

    @model_serializer(mode="wrap")
    def _without_absent_timeline(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # Heads without one are written as before there were any, so that older code can read them.
        fields: dict[str, Any] = write(self)
        return fields if self.timeline else {name: fields[name] for name in fields if name != "timeline"}

    @model_validator(mode="after")
    def _check(self) -> Self:
        longest, window = max(self.decoding.window_tubelets), self.dimensions.max_tubelets
        if longest > window:
            raise ValueError(f"timeline windows of {longest} tubelets are longer than the head's {window}")
        return self

    @property
    def decoding(self) -> TimelineDecoding:
        """How the timeline is made."""
        full = TimelineDecoding(window_tubelets=(self.dimensions.max_tubelets,), switch_cost=0.0)
        return self.timeline or full

    @property
    def outputs(self) -> dict[str, int]:
        """Number of classes of every output."""
        return dict(self.dimensions.outputs)


class PlanEntry(_Frozen):
    """A TensorRT plan, which runs only on the GPU model and with the TensorRT version that built it.

    ``compute_capability`` as in ``"9.0"``. ``parity``: the worse of the plan's two profiles.
    """

    gpu: str
    compute_capability: Annotated[str, Field(pattern=r"^\d+\.\d+$")]
    tensorrt: str
    precision: PlanPrecision
    parity: Parity


class Manifest(_Frozen):
    """Content of ``manifest.json``, validated.

    ``heads``: the served version of each head; ``history``: its other versions whose files are kept.
    ``files``: size and digest by path, empty for the models of a Triton server. ``plans``: TensorRT plans by
    path.
    """

    format_version: Literal[1]
    name: str
    backend: Backend
    sampling: Sampling
    spatial: SpatialEntry
    heads: dict[str, HeadEntry]
    history: dict[str, tuple[HeadEntry, ...]] = {}
    files: dict[Annotated[str, AfterValidator(_inside)], FileEntry]
    plans: dict[str, PlanEntry] = {}

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.heads:
            raise ValueError("there must be at least one head")
        if unknown := self.history.keys() - self.heads.keys():
            raise ValueError(f"history of heads that are not there: {', '.join(sorted(unknown))}")
        versions = {name: self.versions(name) for name in self.heads}
        shared = {_spatial_dimensions(entry.dimensions) for kept in versions.values() for entry in kept}
        if len(shared) > 1:
            raise ValueError("heads disagree about the spatial transformer they share")
        if self.sampling.crop_size != self.dimensions.image_size:
            raise ValueError(
                f"crop {self.sampling.crop_size} is not the image size {self.dimensions.image_size}"
            )
        for head, kept in versions.items():
            check_head_name(head)
            if len({entry.version for entry in kept}) < len(kept):
                raise ValueError(f"head {head!r} has a version twice")
        return self

    @property
    def dimensions(self) -> ModelDimensions:
        """Dimensions of the first head; those of the spatial half are the same in all heads."""
        return next(iter(self.heads.values())).dimensions

    @property
    def spatial_sha256(self) -> str:
        """Digest over the files of the spatial model, which identifies the features that it computes.

        Raises:
            RepositoryError: the manifest has no digests of them, as in Triton configs of earlier exports.
        """
        folder = f"{SPATIAL_MODEL}/{self.spatial.version}"
        try:
            digests = [self.files[f"{folder}/{name}"].sha256 for name in ENGINE_FILES]
        except KeyError as error:
            raise RepositoryError(
                f"the manifest has no digest of {error.args[0]}; run `python -m export configs` on it "
                "from a checkout"
            ) from None
        return hashlib.sha256("".join(digests).encode()).hexdigest()

    @property
    def weights_sha256(self) -> dict[str, str]:
        """Digest of the weights of each model, spatial model first; models of unknown digest are left out."""
        digests = {SPATIAL_MODEL: self.spatial.weights_sha256}
        for head, entry in self.heads.items():
            weights = self.files.get(f"{temporal_model(head)}/{entry.version}/model.safetensors")
            if weights:
                digests[temporal_model(head)] = weights.sha256
        return digests

    def head(self, name: str) -> HeadEntry:
        """Return the served version of a head.

        Raises:
            HeadNotFoundError: the repository has no such head.
        """
        if name not in self.heads:
            raise HeadNotFoundError(f"no head {name!r} in this repository; it has {', '.join(self.heads)}")
        return self.heads[name]

    def versions(self, name: str) -> tuple[HeadEntry, ...]:
        """Return the served version of a head, then the others that are kept."""
        return (self.head(name), *self.history.get(name, ()))

    def to_json(self) -> str:
        """Write the manifest as JSON. The text is stable, for files and digests."""
        return json.dumps(self.model_dump(mode="json"), indent=2, ensure_ascii=False) + "\n"


def _spatial_dimensions(dims: ModelDimensions) -> tuple[object, ...]:
    return (
        dims.hidden_size,
        dims.image_size,
        dims.patch_size,
        dims.tubelet_frames,
        dims.spatial,
        dims.resnet,
    )


def check_head_name(head: str) -> None:
    """Raise ``ValueError`` for a name that cannot be a directory or collides with another model's."""
    if not HEAD_NAME.fullmatch(head) or RESERVED_HEAD.fullmatch(head):
        raise ValueError(
            f"head name {head!r} must be lower-case letters, digits, '-' or '_', "
            "and not 'spatial' or 'temporal...'"
        )


@dataclass(frozen=True)
class Catalog:
    """Manifest and labels of models, on disk or on a server. ``labels``: {head: {output: labels}}."""

    manifest: Manifest
    labels: dict[str, Labels]


@dataclass(frozen=True)
class Repository(Catalog):
    """A repository on disk, whose files have the digests in its manifest."""

    path: Path

    @classmethod
    @checked
    def load(cls, path: str | Path) -> Repository:
        """Read and verify a repository.

        Raises:
            RepositoryVersionError: it is written in a newer format.
            DigestMismatchError: a file is missing or differs from its digest.
            RepositoryError: the manifest is missing, unreadable or contradicts itself.
        """
        root = Path(path)
        manifest = read_manifest(root)
        for name, entry in manifest.files.items():
            _verify(root, name, entry)
        return cls(manifest, {head: read_labels(root, manifest, head) for head in manifest.heads}, root)

    def spatial_file(self, name: str) -> Path:
        """Return the path of a file of the spatial model's version."""
        return self._listed(f"{SPATIAL_MODEL}/{self.manifest.spatial.version}/{name}")

    def temporal_file(self, head: str, name: str) -> Path:
        """Return the path of a file of a head's served version."""
        return self._listed(f"{temporal_model(head)}/{self.manifest.head(head).version}/{name}")

    def _listed(self, name: str) -> Path:
        if name not in self.manifest.files:
            raise RepositoryError(f"{self.path}: the manifest names no {name}; export the checkpoint again")
        return self.path / name


def read_manifest(root: Path) -> Manifest:
    """Read the manifest of a repository without verifying its files. Raises as ``Repository.load``."""
    file = root / MANIFEST_NAME
    hint = "make one with `python -m export CHECKPOINT REPOSITORY` from a checkout"
    try:
        with file.open("rb") as stream:
            text = stream.read(MAX_MANIFEST_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise RepositoryError(
            f"{root} is not a model repository: it has no {MANIFEST_NAME}; {hint}"
        ) from error
    except OSError as error:
        raise RepositoryError(f"{file} cannot be read: {error.strerror}") from error
    return parse_manifest(text, str(file))


def parse_manifest(text: bytes, where: str) -> Manifest:
    """Read a manifest from JSON text; ``where`` names it in errors. Raises as ``Repository.load``."""
    try:
        fields = json.loads(text) if len(text) <= MAX_MANIFEST_BYTES else None
    except (ValueError, RecursionError) as error:
        raise RepositoryError(f"{where} is not JSON: {error}; restore it or export again") from error
    version = fields.get("format_version") if isinstance(fields, dict) else None
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise RepositoryVersionError(
            f"{where} has format version {version}; this program reads up to {FORMAT_VERSION}: update it"
        )
    try:
        return Manifest.model_validate_json(text)
    except ValidationError as error:
        raise RepositoryError(f"{where} is not a valid manifest: {validation_summary(error)}") from error


def _verify(root: Path, name: str, entry: FileEntry) -> None:
    file = root / name
    try:
        size = file.stat().st_size
        found = sha256_of(file) if size == entry.bytes else None
    except OSError as error:
        raise DigestMismatchError(f"{file}: {error.strerror}; restore the file or export again") from error
    if found != entry.sha256:
        what = f"has {size} bytes, expected {entry.bytes}" if found is None else f"has sha256 {found[:12]}..."
        raise DigestMismatchError(
            f"{file} is not the file the manifest names ({what}); restore it or export again"
        )


def sha256_of(file: Path) -> str:
    """Return the hexadecimal digest of a file's content."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def read_labels(root: Path, manifest: Manifest, head: str) -> Labels:
    """Read the labels of a head's served version. Raises ``RepositoryError`` if they do not fit."""
    labels, entry = {}, manifest.heads[head]
    for output, classes in entry.outputs.items():
        name = f"{temporal_model(head)}/{entry.version}/{labels_file(output)}"
        if name not in manifest.files:
            raise RepositoryError(f"{root}: the manifest names no {name}; export the checkpoint again")
        labels[output] = parse_labels((root / name).read_bytes(), root / name, classes)
    return labels


def parse_labels(content: bytes, file: Path, classes: int) -> tuple[str, ...]:
    """Parse a label file: one label per line.

    Raises:
        RepositoryError: not UTF-8, an empty line, or another number of lines than ``classes``.
    """
    try:
        lines = content.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise RepositoryError(f"{file} is not UTF-8 text: {error.reason} at byte {error.start}") from error
    labels = tuple(line.strip() for line in lines)
    if len(labels) != classes:
        raise RepositoryError(f"{file} has {len(labels)} labels; the model has {classes} classes")
    if "" in labels:
        raise RepositoryError(f"{file} line {labels.index('') + 1} is empty; every class needs a label")
    return labels
