"""Options of a scoring job: its models, how videos are scored, its share of the list, and its output."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from sfavivit.engines import TRITON_SCHEME, open_models
from sfavivit.engines.device import Device
from sfavivit.errors import UsageError
from sfavivit.features.store import FeatureStore
from sfavivit.inference.options import ClassifyOptions
from sfavivit.inference.recognizer import Recognizer
from sfavivit.repository.manifest import Catalog, Repository
from sfavivit.video.limits import DEFAULT_LIMITS, Limits

DEFAULT_FETCH_BYTES = 16 << 30


@dataclass(frozen=True)
class ScoreOptions:
    """Options for scoring each video.

    Args:
        classify: options of the classification; it names the heads.
        limits: limits of decoding.
        store: folder of a feature store to read features from and keep them in.
        align_to_tubelets: widen segments of videos to whole tubelets, so that the stored features of the
            whole video serve them.
        fetch_bytes: size of the largest video that is downloaded.
        video_track: number of the track of each video, from 0; None for the default one.
    """

    classify: ClassifyOptions
    limits: Limits = DEFAULT_LIMITS
    store: str | None = None
    align_to_tubelets: bool = False
    fetch_bytes: int = DEFAULT_FETCH_BYTES
    video_track: int | None = None

    def open_store(self) -> FeatureStore | None:
        """Open the feature store, if there is one. Raises ``FeatureStoreError``."""
        return FeatureStore(self.store) if self.store else None


@dataclass(frozen=True)
class ModelLocation:
    """Location of the models and the engine to run them: the arguments of ``Recognizer.load``."""

    repository: str
    engine: str | None = None
    threads: int | None = None
    device: Device = "auto"

    def load(self) -> Recognizer:
        """Load the models. Raises as ``Recognizer.load``."""
        return Recognizer.load(self.repository, engine=self.engine, threads=self.threads, device=self.device)

    def catalog(self) -> Catalog:
        """Read the manifest and labels, without starting an engine where that would cost memory."""
        if self.repository.startswith(TRITON_SCHEME):
            return open_models(self.repository, self.engine, device=self.device)[0]
        return Repository.load(self.repository)


@dataclass(frozen=True)
class Shard:
    """Share ``index`` of ``count`` of a list, counted from 1; the shard of a video depends on its id."""

    index: int = 1
    count: int = 1

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse ``"2/4"``: the second of four. Raises ``UsageError`` for anything else."""
        match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
        if not match or not 1 <= int(match[1]) <= int(match[2]):
            raise UsageError(f"shard {text!r} must be I/N with I from 1 to N, for example 1/4")
        return cls(int(match[1]), int(match[2]))

    def __str__(self) -> str:
        return f"{self.index}of{self.count}"

    def holds(self, video_id: str) -> bool:
        """Return whether the video is in this shard."""
        digest = hashlib.sha256(video_id.encode(errors="surrogateescape")).digest()
        return int.from_bytes(digest[:8], "big") % self.count == self.index - 1


WHOLE = Shard()


@dataclass(frozen=True)
class Output:
    """Output folder of a job, and the treatment of rows that are there already.

    Args:
        folder: folder of the job, made if need be.
        shard: share of the list that this job scores.
        restart: remove all rows first.
        retry_errors: remove the rows with errors first.
        part_videos: videos after which a Parquet part is written.
        part_seconds: seconds after its first video when a part is written at the latest.
    """

    folder: Path
    shard: Shard = WHOLE
    restart: bool = False
    retry_errors: bool = False
    part_videos: int = 1000
    part_seconds: float = 60.0
