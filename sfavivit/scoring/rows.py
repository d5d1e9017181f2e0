"""Rows of a job: their columns, and the rows of an answer or an error."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pyarrow as pa

from sfavivit.datasets import VideoItem
from sfavivit.errors import SfaVivitError
from sfavivit.inference.results import OutputResult, Recognition
from sfavivit.repository.manifest import Catalog
from sfavivit.scoring.record import head_sha256

Row = dict[str, Any]
"""One row: {column of ``SCHEMA``: value}; a missing column is null."""

_SEGMENT = pa.struct(
    [
        ("start_seconds", pa.float64()),
        ("end_seconds", pa.float64()),
        ("label", pa.string()),
        ("confidence", pa.float64()),
    ]
)

SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("video", pa.string(), nullable=False),
        pa.field("head", pa.string(), nullable=False),
        pa.field("output", pa.string(), nullable=False),
        ("labels", pa.list_(pa.string())),
        ("confidences", pa.list_(pa.float64())),
        ("logits", pa.list_(pa.float32())),
        ("timeline", pa.list_(_SEGMENT)),
        ("truth", pa.string()),
        ("frames_used", pa.int64()),
        ("duration_seconds", pa.float64()),
        ("error_kind", pa.string()),
        ("error_message", pa.string()),
        ("warning", pa.string()),
        ("decode_seconds", pa.float64()),
        ("spatial_seconds", pa.float64()),
        ("temporal_seconds", pa.float64()),
        ("total_seconds", pa.float64()),
        ("device", pa.string()),
        ("spatial_sha256", pa.string()),
        ("head_sha256", pa.string()),
    ]
)
"""One row for each video, head and output (most heads have one output, called ``""``).

    id, video                 as in the list of videos
    labels, confidences       the top-k classes, best first; confidences in [0, 1]
    logits                    [C], mean over windows or views, in the order of the labels in job.json
    timeline                  segments with one label and its mean confidence, in seconds of the whole video;
                              empty for views
    truth                     label in the list, a name or an index; null when it has none
    frames_used               number of sampled frames, and duration_seconds: their length
    error_kind, _message      null, or the reason for having no answer: labels, logits ... are empty then, and
                              unmeasured values null
    warning                   null, or what was irregular in the video: damage, timestamps, other tracks
    decode_seconds ...        timings of the video, the same in all its rows; features from the store have
                              zero decode and spatial seconds
    device                    device of the engine, such as cpu or cuda:0
    spatial_sha256, head_sha256   digests of the engines' files, where the manifest has them

A byte of a file name that is not UTF-8 is written as ``\\udcXX``.
"""


def storable_text(value: str) -> str:
    """Return the string as Parquet can hold it; every string goes through here, so ids can be compared."""
    return value.encode("utf-8", "backslashreplace").decode()


class RowBuilder:
    """Makes the rows of a video for ``heads`` of ``catalog``."""

    def __init__(self, catalog: Catalog, heads: tuple[str, ...]) -> None:
        self._heads = heads
        self._catalog = catalog
        spatial = catalog.manifest.spatial_sha256
        self._digests = {
            head: {"spatial_sha256": spatial, "head_sha256": head_sha256(catalog.manifest, head)}
            for head in heads
        }

    def answer(self, item: VideoItem, answer: Recognition) -> list[Row]:
        """Return the rows of a video that was classified."""
        shared = {
            "frames_used": answer.frames_used,
            "duration_seconds": answer.duration_seconds,
            "warning": storable_text(answer.warning) if answer.warning else None,
            **asdict(answer.timings),
        }
        return [row | shared | _result(answer.heads[row["head"]][row["output"]]) for row in self._rows(item)]

    def error(self, item: VideoItem, error: SfaVivitError) -> list[Row]:
        """Return the rows of a video that could not be classified."""
        nothing: Row = {"labels": [], "confidences": [], "logits": [], "timeline": []}
        shared = nothing | {"error_kind": error.kind, "error_message": storable_text(str(error))}
        return [row | shared for row in self._rows(item)]

    def _rows(self, item: VideoItem) -> list[Row]:
        return [
            {
                "id": storable_text(item.id),
                "video": storable_text(item.video),
                "head": head,
                "output": output,
                "truth": storable_text(str(item.labels[output])) if output in item.labels else None,
                **self._digests[head],
            }
            for head in self._heads
            for output in self._catalog.manifest.head(head).outputs
        ]


def _result(result: OutputResult) -> Row:
    return {
        "labels": [score.label for score in result.labels],
        "confidences": [score.confidence for score in result.labels],
        "logits": result.logits,
        "timeline": [asdict(segment) for segment in result.timeline],
    }
