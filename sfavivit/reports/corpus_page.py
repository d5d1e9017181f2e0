"""HTML page of a scored corpus (``score --report``), made from the rows in a job's folder.

Counts and metrics are of all rows. The table is limited to the first ``MAX_VIDEOS`` videos, and says so:
100,000 videos of 50 seconds make 10 MB. It shows the labels of a timeline, whatever its length, at
``STRIP_SLOTS`` times.
"""

from __future__ import annotations

import base64
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from sfavivit.errors import UsageError
from sfavivit.evaluation.accuracy import ClassNames
from sfavivit.reports.files import PAGE_SUFFIXES, check_target, write_file
from sfavivit.reports.page import render_page
from sfavivit.scoring.folder import JOB_NAME, METRICS_NAME
from sfavivit.scoring.parquet_parts import part_files, read_part, writing
from sfavivit.utils.text import output_title, printable

MAX_VIDEOS = 100_000
STRIP_SLOTS = 48
MAX_PICTURE_BYTES = 4 << 20
COMMONEST_LABELS = 15
NO_LABEL = -1
_COLUMNS = [
    "id", "video", "head", "output", "labels", "confidences", "timeline", "truth", "duration_seconds",
    "error_kind", "error_message", "warning",
]  # fmt: skip


def check_scores_report(path: Path, folder: Path) -> None:
    """Check that the page of a job in ``folder`` can be written; the job may still have to be started.

    Raises:
        UsageError: the page cannot be written, or has another suffix.
        ScoringError: the page belongs into ``folder``, which cannot be made.
    """
    if path.resolve().parent == folder.resolve():
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
    check_target(path, "--report", PAGE_SUFFIXES)


def write_scores_report(path: Path, folder: Path) -> None:
    """Write the page of all rows in ``folder``, of any shard; no job may be writing there meanwhile.

    Raises:
        ScoringError: a Parquet part cannot be read.
        UsageError: the page cannot be written, or the folder has no job.
    """
    record = _read_json(folder / JOB_NAME)
    if "heads" not in record:
        raise UsageError(f"{str(folder)!r} has no {JOB_NAME} of a scoring job; name the folder of one")
    corpus = _Corpus(record["heads"])
    for part in part_files(folder):
        corpus.add(read_part(part, _COLUMNS))
    outputs = [
        columns.fields() | {"picture": _picture(folder, head, output)}
        for (head, output), columns in corpus.outputs.items()
    ]
    data = corpus.fields() | {
        "title": printable(folder.resolve().name),
        "model": _facts(record),
        "metrics": list(_metric_lines("", _read_json(folder / METRICS_NAME))),
        "outputs": outputs,
    }
    write_file(path, render_page("corpus", f"{data['title']} – SFA-ViViT scores", data, {}))


@dataclass
class _OutputColumns:
    """Columns of one output of one head, a value per video, and how often each label is the best one."""

    title: str
    labels: list[str]
    best: list[int] = field(default_factory=list)
    percents: list[int] = field(default_factory=list)
    truths: list[int] = field(default_factory=list)
    strips: list[list[int]] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._names = ClassNames(tuple(self.labels))
        self._codes = {label: code for code, label in reversed(list(enumerate(self.labels)))}

    def code(self, label: str) -> int:
        """Return the number of a label on this page; a label that the head lacks gets a new one."""
        if label not in self._codes:
            self._codes[label] = len(self.labels)
            self.labels.append(label)
        return self._codes[label]

    def truth_code(self, truth: str | None) -> int:
        """Return the number of the true label that a list gives, matched as in the evaluation."""
        if truth is None:
            return NO_LABEL
        known = self._names.index_of(truth)
        return self.code(truth) if known is None else known

    def fields(self) -> dict[str, Any]:
        """Return the values for the page's script."""
        return {
            "title": self.title,
            "labels": [printable(label) for label in self.labels],
            "best": self.best,
            "percents": self.percents,
            "truths": self.truths if any(code != NO_LABEL for code in self.truths) else None,
            "strips": self.strips if any(self.strips) else None,
            "common": [[printable(label), n] for label, n in self.counts.most_common(COMMONEST_LABELS)],
        }


class _Corpus:
    """Content of the page, collected part by part."""

    def __init__(self, heads: dict[str, Any]) -> None:
        self.outputs = {
            (head, output): _OutputColumns(output_title(head, output), list(labels))
            for head, entry in heads.items()
            for output, labels in entry["labels"].items()
        }
        self._videos = 0
        self._seconds = 0.0
        self._errors: Counter[str] = Counter()
        self._warnings = 0
        self._names: list[str] = []
        self._durations: list[float] = []
        self._notes: dict[int, list[str]] = {}

    def add(self, table: pa.Table) -> None:
        """Add a Parquet part, in which the rows of a video lie together."""
        rows = table.drop_columns("timeline").to_pylist()
        last = None
        for row, (slots, names) in zip(rows, _strips(table["timeline"].combine_chunks()), strict=True):
            if row["id"] != last:
                last = row["id"]
                self._add_video(row)
            columns = self.outputs[row["head"], row["output"]]
            if row["labels"]:
                columns.counts[row["labels"][0]] += 1
            if self._videos <= MAX_VIDEOS:
                columns.best.append(columns.code(row["labels"][0]) if row["labels"] else NO_LABEL)
                columns.percents.append(round(100 * row["confidences"][0]) if row["labels"] else 0)
                columns.truths.append(columns.truth_code(row["truth"]))
                columns.strips.append(_run_lengths([columns.code(names[slot]) for slot in slots]))

    def fields(self) -> dict[str, Any]:
        """Return the values for the page's script."""
        return {
            "videos": self._videos,
            "hours": self._seconds / 3600,
            "errors": self._errors.most_common(),
            "warnings": self._warnings,
            "names": self._names,
            "durations": self._durations,
            "notes": self._notes,
        }

    def _add_video(self, row: dict[str, Any]) -> None:
        self._videos += 1
        self._seconds += row["duration_seconds"] or 0.0
        self._warnings += row["warning"] is not None
        if row["error_kind"]:
            self._errors[row["error_kind"]] += 1
        if self._videos > MAX_VIDEOS:
            return
        if row["error_kind"]:
            self._notes[len(self._names)] = [row["error_kind"], printable(row["error_message"] or "")]
        elif row["warning"]:
            self._notes[len(self._names)] = ["", printable(row["warning"])]
        self._names.append(printable(row["id"]))
        self._durations.append(round(row["duration_seconds"] or 0.0, 1))


def _strips(timelines: pa.ListArray) -> Iterator[tuple[list[int], list[str]]]:
    """Yield for each row the label in the middle of each slot, as indexes of names; [] without a timeline."""
    segments, offsets = timelines.values, timelines.offsets.to_numpy()
    coded = segments.field("label").dictionary_encode()
    names, codes = coded.dictionary.to_pylist(), coded.indices.to_numpy(zero_copy_only=False)
    starts, ends = (segments.field(name).to_numpy() for name in ("start_seconds", "end_seconds"))
    middles = (np.arange(STRIP_SLOTS) + 0.5) / STRIP_SLOTS
    for first, stop in zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True):
        if first == stop:
            yield [], names
            continue
        times = starts[first] + middles * (ends[stop - 1] - starts[first])
        at = np.minimum(np.searchsorted(ends[first:stop], times, side="right"), stop - first - 1)
        yield codes[first + at].tolist(), names


def _run_lengths(codes: list[int]) -> list[int]:
    """Return [a, 2, b, 1] for [a, a, b]."""
    return [value for code, run in groupby(codes) for value in (code, len(list(run)))]


def _facts(record: dict[str, Any]) -> list[tuple[str, str]]:
    sampling = record["sampling"]
    facts = [
        ("model", str(record["model"])),
        ("spatial engine", record["spatial_sha256"] or "unknown"),
        ("sampling", f"{sampling['fps']:g} frames/s, crop {sampling['crop_size']}"),
        ("views", record["views"] or "one, with a timeline"),
    ]
    return facts + [
        (f"head {name}", f"version {entry['version']}, {entry['sha256'] or 'digest unknown'}")
        for name, entry in record["heads"].items()
    ]


def _metric_lines(name: str, metrics: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield counts and shares of ``Evaluation.summary`` by head and output, without single classes."""
    for key, value in metrics.items():
        if isinstance(value, dict) and key not in ("per_class", "unknown_labels"):
            yield from _metric_lines(name if key == "outputs" else f"{name} {key}".strip(), value)
        elif isinstance(value, int | float):
            shown = f"{value:.1%}" if isinstance(value, float) else f"{value:,}"
            yield printable(f"{name} {key.replace('_', ' ')}"), shown


def _picture(folder: Path, head: str, output: str) -> str | None:
    """Return the picture of the confusion matrix as a ``data:`` URL, where the evaluation drew one."""
    file = folder / ("_".join(filter(None, ("confusion", head, output))) + ".png")
    if not file.is_file() or file.stat().st_size > MAX_PICTURE_BYTES:
        return None
    return "data:image/png;base64," + base64.b64encode(file.read_bytes()).decode()


def _read_json(file: Path) -> dict[str, Any]:
    """Read a JSON object; an empty one where there is no file."""
    try:
        return dict(json.loads(file.read_bytes()))
    except FileNotFoundError:
        return {}
