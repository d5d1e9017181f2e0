"""Accuracies of all rows in a job's folder whose true labels are known."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sfavivit.evaluation.accuracy import Evaluation
from sfavivit.scoring.folder import METRICS_NAME, JobFolder
from sfavivit.scoring.parquet_parts import part_files, read_part, write_file

_COLUMNS = ["id", "head", "output", "truth", "logits", "error_kind"]

_Truth = dict[str, str]
_Logits = dict[str, NDArray[np.float32]]


def evaluate(folder: JobFolder) -> dict[str, Any] | None:
    """Compare all rows, of all shards, with their true labels; None when the list has no labels.

    Writes the files of ``Evaluation.write``, and ``metrics.json`` with the value that is returned:
    {head: ``Evaluation.summary``}. Videos with errors do not count.

    Raises:
        ScoringError: a part cannot be read, or the folder cannot be written.
    """
    evaluations = {head: Evaluation(entry["labels"]) for head, entry in folder.record["heads"].items()}
    labelled: set[str] = set()
    for part in part_files(folder.path):
        for head, truth, logits in _videos(read_part(part, _COLUMNS)):
            evaluations[head].add(truth, logits)
            if truth:
                labelled.add(head)
    if not labelled:
        return None
    metrics = {head: evaluation.summary() for head, evaluation in evaluations.items() if head in labelled}
    write_file(folder.path / METRICS_NAME, json.dumps(metrics, indent=2, ensure_ascii=False).encode() + b"\n")
    for head in labelled:
        evaluations[head].write(folder.path, head)
    return metrics


def _videos(table: pa.Table) -> Iterator[tuple[str, _Truth, _Logits]]:
    """Yield head, true labels and logits float32 [C] by output, for every head and video of a part."""
    table = table.filter(table["error_kind"].is_null()).combine_chunks()
    logits = table["logits"].combine_chunks()
    values, ends = logits.values.to_numpy(), logits.offsets.to_numpy()
    scored: dict[tuple[str, str], tuple[_Truth, _Logits]] = {}
    columns = (table[name].to_pylist() for name in ("id", "head", "output", "truth"))
    for row, (video, head, output, truth) in enumerate(zip(*columns, strict=True)):
        truths, by_output = scored.setdefault((video, head), ({}, {}))
        by_output[output] = values[ends[row] : ends[row + 1]]
        if truth is not None:
            truths[output] = truth
    return ((head, *entry) for (_, head), entry in scored.items())
