"""Accuracies and confusion of a head, counted video by video in constant memory."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sfavivit.errors import InvalidInputError
from sfavivit.evaluation.confusion import write_confusion

TOP_K = 5
MAX_UNKNOWN_NAMES = 100  # named in the summary; all are counted

_INDEX = re.compile(r"\s*\d{1,9}\s*", re.ASCII)


class ClassNames:
    """Classes of a head by the names that lists use for them.

    A name matches exactly, or else without regard to case, spaces and underscores, where that is unambiguous;
    other text may be the index of a class. Of equal names the first class counts.
    """

    def __init__(self, labels: Sequence[str]) -> None:
        self.count = len(labels)
        self._exact = {label: index for index, label in reversed(list(enumerate(labels)))}
        alike = Counter(map(_folded, self._exact))
        self._folded = {_folded(name): i for name, i in self._exact.items() if alike[_folded(name)] == 1}

    def index_of(self, truth: str | int) -> int | None:
        """Return the index of the class, or None when the head does not know it."""
        if isinstance(truth, str):
            found = self._exact.get(truth, self._folded.get(_folded(truth)))
            if found is not None or not _INDEX.fullmatch(truth):
                return found
        index = int(truth)
        return index if 0 <= index < self.count else None


def _folded(name: str) -> str:
    return " ".join(name.replace("_", " ").split()).casefold()


@dataclass
class _Output:
    """Counts of one output; ``confusion`` is int64 [C, C], truth by prediction."""

    labels: Sequence[str]
    top_5: int = 0
    unlabelled: int = 0
    unknown: int = 0
    unknown_names: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.names = ClassNames(self.labels)
        self.confusion = np.zeros((len(self.labels), len(self.labels)), np.int64)

    def add(self, truth: str | int | None, logits: NDArray[np.float32]) -> int | None:
        """Count a video; returns the index of its true class, where the list and the head have one."""
        if truth is None:
            self.unlabelled += 1
            return None
        index = self.names.index_of(truth)
        if index is None:
            self.unknown += 1
            name = str(truth)
            if name in self.unknown_names or len(self.unknown_names) < MAX_UNKNOWN_NAMES:
                self.unknown_names[name] += 1
            return None
        self.confusion[index, logits.argmax()] += 1
        self.top_5 += rank_of(logits, index) < TOP_K
        return index

    def summary(self) -> dict[str, Any]:
        counts, right = self.confusion.sum(1), self.confusion.diagonal()
        shares = [_share(*pair) for pair in zip(right.tolist(), counts.tolist(), strict=True)]
        known = [share for share in shares if share is not None]
        classes = zip(unique_names(self.labels), counts.tolist(), shares, strict=True)
        return {
            "evaluated": int(counts.sum()),
            "unlabelled": self.unlabelled,
            "unknown": self.unknown,
            "unknown_labels": dict(self.unknown_names.most_common()),
            "top1": _share(int(right.sum()), int(counts.sum())),
            "top5": _share(self.top_5, int(counts.sum())),
            "mean_per_class": sum(known) / len(known) if known else None,
            "per_class": {name: {"count": count, "top1": share} for name, count, share in classes},
        }


class Evaluation:
    """Accuracy of one head, in the memory of its confusion matrices, whatever the number of videos.

    Outputs called ``verb`` and ``noun`` make an action, as in EPIC-KITCHENS: it is correct when both are, and
    among the top 5 when the pair is among the five with the largest products of probabilities, which are
    those with the largest sums of logits (``compute_action_scores`` of
    github.com/epic-kitchens/C1-Action-Recognition).

    Args:
        labels: {output: name of every class}.
    """

    def __init__(self, labels: Mapping[str, Sequence[str]]) -> None:
        self._outputs = {output: _Output(names) for output, names in labels.items()}
        self._has_action = {"verb", "noun"} <= labels.keys()
        self._videos = self._actions = self._actions_top_1 = self._actions_top_5 = 0

    def add(self, truth: Mapping[str, str | int], logits: Mapping[str, NDArray[np.float32]]) -> None:
        """Count one video. Ties go to the first class, as in ``results.top_labels``.

        Args:
            truth: {output: name or index of the true class}, for the outputs that have one.
            logits: {output: float32 [C]}, finite.

        Raises:
            InvalidInputError: logits are missing or invalid; nothing was counted.
        """
        for output, counts in self._outputs.items():
            _check(output, logits.get(output), len(counts.labels))
        self._videos += 1
        classes = {
            output: counts.add(truth.get(output), logits[output]) for output, counts in self._outputs.items()
        }
        verb, noun = classes.get("verb"), classes.get("noun")
        if verb is not None and noun is not None:
            verbs, nouns = logits["verb"], logits["noun"]
            self._actions += 1
            self._actions_top_1 += bool(verbs.argmax() == verb and nouns.argmax() == noun)
            self._actions_top_5 += (verb, noun) in top_actions(verbs, nouns)

    def summary(self) -> dict[str, Any]:
        """Return counts and shares in [0, 1], ready for JSON; a share of no videos is None.

        ``{"videos", "outputs": {output: {"evaluated", "unlabelled", "unknown", "unknown_labels": {truth:
        count}, "top1", "top5", "mean_per_class", "per_class": {label: {"count", "top1"}}}}, "action":
        {"evaluated", "top1", "top5"}}``, the last for heads with a verb and a noun. ``evaluated`` counts the
        videos whose true class the head knows; ``mean_per_class`` is the mean of ``top1`` over the classes
        that have videos.
        """
        summary: dict[str, Any] = {
            "videos": self._videos,
            "outputs": {output: counts.summary() for output, counts in self._outputs.items()},
        }
        if self._has_action:
            summary["action"] = {
                "evaluated": self._actions,
                "top1": _share(self._actions_top_1, self._actions),
                "top5": _share(self._actions_top_5, self._actions),
            }
        return summary

    def write(self, folder: Path, name: str) -> list[Path]:
        """Write the confusion of each output that has evaluated videos, and return the files.

        ``confusion_<name>.csv`` and ``.png``, ``per_class_<name>.csv``; ``_<output>`` follows where it has a
        name. Each file is written as a whole or not at all.

        Raises:
            UsageError: a file cannot be written, or matplotlib is not installed (the CSV files are written).
        """
        written: list[Path] = []
        for output, counts in self._outputs.items():
            if counts.confusion.any():
                stem = f"{name}_{output}" if output else name
                written += write_confusion(folder, stem, counts.confusion, unique_names(counts.labels))
        return written


def rank_of(logits: NDArray[np.float32], index: int) -> int:
    """Return the number of classes before this one: with larger logits, or equal ones and a lower index."""
    value = logits[index]
    return int(np.count_nonzero(logits > value) + np.count_nonzero(logits[:index] == value))


def top_actions(verbs: NDArray[np.float32], nouns: NDArray[np.float32]) -> list[tuple[int, int]]:
    """Return the ``TOP_K`` (verb, noun) pairs with the largest sums of logits; ties in class order.

    Only the ``TOP_K`` best verbs and nouns need to be paired: any other pair has at least ``TOP_K`` pairs
    with better verbs, or with better nouns, before it.
    """
    best_verbs, best_nouns = (
        np.sort(np.argsort(-logits, kind="stable")[:TOP_K]) for logits in (verbs, nouns)
    )
    sums = verbs[best_verbs].astype(np.float64)[:, None] + nouns[best_nouns].astype(np.float64)
    order = np.argsort(-sums, axis=None, kind="stable")[:TOP_K]
    rows, columns = np.unravel_index(order, sums.shape)
    return list(zip(best_verbs[rows].tolist(), best_nouns[columns].tolist(), strict=True))


def unique_names(labels: Sequence[str]) -> list[str]:
    """Return the labels, with the index of the class where a head has a label twice."""
    counts = Counter(labels)
    return [label if counts[label] == 1 else f"{label} (class {i})" for i, label in enumerate(labels)]


def _check(output: str, logits: NDArray[np.float32] | None, classes: int) -> None:
    what = f"logits of output {output!r}" if output else "logits"
    if logits is None:
        raise InvalidInputError(f"{what} are missing; give those of every output of the head")
    if logits.shape != (classes,):
        raise InvalidInputError(f"{what} have shape {logits.shape}, the head has {classes} classes")
    if not np.isfinite(logits).all():
        raise InvalidInputError(f"{what} are not all finite; the engine that computed them overflowed")


def _share(count: int, total: int) -> float | None:
    return count / total if total else None
