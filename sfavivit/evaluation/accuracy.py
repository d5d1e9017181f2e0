"""How often a head is right: accuracies and confusion, counted video by video in constant memory."""

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
MAX_UNKNOWN_NAMES = 100  # that the summary names; all are counted

_INDEX = re.compile(r"\s*\d{1,9}\s*", re.ASCII)


class ClassNames:
    """Which class a truth means: a name, exactly or but for case, spaces and underscores; else its index.

    Names that only then become alike mean nothing but themselves; of equal names the first class counts.
    """

    def __init__(self, labels: Sequence[str]) -> None:
        self.count = len(labels)
        self._exact = {label: index for index, label in reversed(list(enumerate(labels)))}
        alike = Counter(map(_folded, self._exact))
        self._folded = {_folded(name): i for name, i in self._exact.items() if alike[_folded(name)] == 1}

    def index_of(self, truth: str | int) -> int | None:
        """Index of the class, or None when the head does not know it."""
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
    """Counts of one output. ``confusion``: int64 [C, C], truth by prediction."""

    labels: Sequence[str]
    names: ClassNames
    confusion: NDArray[np.int64]
    top_5: int = 0
    unlabelled: int = 0
    unknown: int = 0
    unknown_names: Counter[str] = field(default_factory=Counter)

    def add(self, truth: str | int | None, logits: NDArray[np.float32]) -> int | None:
        """Count a video; returns the index of its class when both the list and the head know one."""
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
    """Accuracy of one head. ``labels``: {output: name of every class}.

    Memory is that of the confusion matrices, whatever the number of videos. Outputs called ``verb`` and
    ``noun`` make an action, as in EPIC-KITCHENS: it is right when both are, and among the top 5 when the pair
    is among the five pairs with the largest products of probabilities, which are those with the largest sums
    of logits (``compute_action_scores`` of github.com/epic-kitchens/C1-Action-Recognition).
    """

    def __init__(self, labels: Mapping[str, Sequence[str]]) -> None:
        self._outputs = {
            output: _Output(names, ClassNames(names), np.zeros((len(names), len(names)), np.int64))
            for output, names in labels.items()
        }
        self._has_action = {"verb", "noun"} <= labels.keys()
        self._videos = self._actions = self._actions_top_1 = self._actions_top_5 = 0

    def add(self, truth: Mapping[str, str | int], logits: Mapping[str, NDArray[np.float32]]) -> None:
        """Count one video. ``truth``: {output: name or index of the class}, of the outputs that have one.

        ``logits``: {output: float32 [C]}, finite. Ties go to the first class, as in ``results.top_labels``.

        Raises:
            InvalidInputError: an output without logits, or with others than these; nothing was counted.
        """
        for output, counts in self._outputs.items():
            _check(output, logits.get(output), len(counts.labels))
        self._videos += 1
        classes = {
            output: counts.add(truth.get(output), logits[output]) for output, counts in self._outputs.items()
        }
        if (
            self._has_action
            and (verb := classes["verb"]) is not None
            and (noun := classes["noun"]) is not None
        ):
            verbs, nouns = logits["verb"], logits["noun"]
            self._actions += 1
            self._actions_top_1 += bool(verbs.argmax() == verb and nouns.argmax() == noun)
            self._actions_top_5 += (verb, noun) in top_actions(verbs, nouns)

    def summary(self) -> dict[str, Any]:
        """Counts and shares in [0, 1], ready for JSON; a share of no videos is None.

        ``{"videos", "outputs": {output: {"evaluated", "unlabelled", "unknown", "unknown_labels": {truth:
        count}, "top1", "top5", "mean_per_class", "per_class": {label: {"count", "top1"}}}}, "action":
        {"evaluated", "top1", "top5"}}``, the last for heads with a verb and a noun. ``evaluated``: videos
        whose truth the head knows; ``mean_per_class``: mean of ``top1`` over the classes that have videos.
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
        """For each output that has evaluated videos: how its classes are taken for one another.

        ``confusion_<name>.csv`` and ``.png``, ``per_class_<name>.csv``; ``_<output>`` follows where it has a
        name. Returns the files, each of which is written as a whole or not at all.

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
    """How many classes come before this one: those with larger logits, or as large and earlier."""
    value = logits[index]
    return int(np.count_nonzero(logits > value) + np.count_nonzero(logits[:index] == value))


def top_actions(verbs: NDArray[np.float32], nouns: NDArray[np.float32]) -> list[tuple[int, int]]:
    """The ``TOP_K`` best (verb, noun) pairs by the sum of their logits, best first; ties in class order.

    Each is made of one of the best verbs and one of the best nouns, since otherwise at least ``TOP_K`` pairs
    with better verbs, or with better nouns, come before it.
    """
    best_verbs, best_nouns = (
        np.sort(np.argsort(-logits, kind="stable")[:TOP_K]) for logits in (verbs, nouns)
    )
    sums = verbs[best_verbs].astype(np.float64)[:, None] + nouns[best_nouns].astype(np.float64)
    order = np.argsort(-sums, axis=None, kind="stable")[:TOP_K]
    rows, columns = np.unravel_index(order, sums.shape)
    return list(zip(best_verbs[rows].tolist(), best_nouns[columns].tolist(), strict=True))


def unique_names(labels: Sequence[str]) -> list[str]:
    """Labels, with the number of the class where a head has a label twice."""
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


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None
