"""Options of a classification, and their check against a model."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Self

from sfavivit.arguments import check_fields, checked
from sfavivit.config import CENTER, Crop
from sfavivit.errors import UsageError
from sfavivit.inference.windows import default_stride
from sfavivit.repository.manifest import Manifest

MAX_CLIPS = 100
CROPS: dict[int, tuple[Crop, ...]] = {
    1: CENTER,
    3: (Crop(along=0.0), Crop(), Crop(along=1.0)),  # both ends of the longer side, and its middle
}


@dataclass(frozen=True)
class Views:
    """Multi-view testing: ``clips`` in time x ``crops`` in space. The literature reports 4 x 3.

    Raises:
        UsageError: not 1 to 100 clips, and 1 or 3 crops.
    """

    clips: int = 4
    crops: int = 3

    def __post_init__(self) -> None:
        check_fields(self)
        if not 1 <= self.clips <= MAX_CLIPS or self.crops not in CROPS:
            raise UsageError(
                f"views {self.clips}x{self.crops} cannot be: 1 to {MAX_CLIPS} clips, and 1 or 3 crops"
            )

    @classmethod
    @checked
    def parse(cls, text: str) -> Self:
        """Parse ``"4x3"``: four clips, three crops. Raises ``UsageError`` for anything else."""
        match = re.fullmatch(r"(\d{1,3})x(\d)", text)
        if not match:
            raise UsageError(f"views {text!r} must be CLIPSxCROPS, for example 4x3")
        return cls(int(match[1]), int(match[2]))

    def __str__(self) -> str:
        return f"{self.clips}x{self.crops}"

    @property
    def places(self) -> tuple[Crop, ...]:
        """Crops of the picture, one for each spatial view."""
        return CROPS[self.crops]


@dataclass(frozen=True)
class ClassifyOptions:
    """Options of one classification.

    Args:
        heads: names of the heads to run (default: all of them; they share one spatial pass).
        stride_seconds: seconds from window to window, at most one window (default: an eighth of it).
        top_k: number of labels for the whole video.
        views: average over clips and crops, in place of a timeline.

    Raises:
        UsageError: a value of a wrong type.
    """

    heads: tuple[str, ...] = ()
    stride_seconds: float | None = None
    top_k: int = 5
    views: Views | None = None

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def crops(self) -> tuple[Crop, ...]:
        """Crops of the picture whose features are needed."""
        return self.views.places if self.views else CENTER

    def resolve(self, manifest: Manifest) -> dict[str, int]:
        """Return the stride of each requested head in tubelets.

        Raises:
            HeadNotFoundError: the model has no such head.
            UsageError: a ``top_k`` below 1, or a stride that does not suit a head.
        """
        if self.top_k < 1:
            raise UsageError(f"top-k must be at least 1, got {self.top_k}")
        return {head: self._stride(manifest, head) for head in self.heads or manifest.heads}

    def _stride(self, manifest: Manifest, head: str) -> int:
        dims = manifest.head(head).dimensions
        length, seconds = dims.max_tubelets, self.stride_seconds
        if seconds is None:
            return default_stride(length)
        tubelet_seconds = dims.tubelet_frames / manifest.sampling.fps
        if not tubelet_seconds / 2 <= seconds < (length + 0.5) * tubelet_seconds:
            raise UsageError(
                f"a stride of {seconds:g} s does not suit head {head!r}; it must be from one tubelet "
                f"({tubelet_seconds:g} s) to one window ({length * tubelet_seconds:g} s)"
            )
        return max(1, round(seconds / tubelet_seconds))


DEFAULT_OPTIONS = ClassifyOptions()
