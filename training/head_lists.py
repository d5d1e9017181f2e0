"""The classes that a list of videos makes for a head, and which of its videos are held out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from sfavivit.datasets import VideoItem
from sfavivit.errors import AnnotationError
from training.classes import class_names
from training.stored_features import StoredVideo

MAX_CLASSES = 100_000


def head_classes(items: Sequence[VideoItem], source: str) -> dict[str, list[str]]:
    """The classes of every output that the list labels: its names, sorted, or the numbers up to its largest.

    Raises:
        AnnotationError: a video without a label, an output of one class, or labels that are no classes.
    """
    outputs = dict.fromkeys(output for item in items for output in item.labels)
    if not outputs:
        raise AnnotationError(f"{source!r} has no labelled videos; add a column 'label' (or 'verb', 'noun')")
    counts = {output: _count(items, output, source) for output in outputs}
    return class_names(items, counts, source)


def _count(items: Sequence[VideoItem], output: str, source: str) -> int:
    what = f"labels of {output!r}" if output else "labels"
    labels = {item.labels[output]: item.id for item in items if output in item.labels}
    numbers = [label for label in labels if isinstance(label, int)]
    for label, video in labels.items():
        if not _is_class(label):
            raise AnnotationError(
                f"{source!r}: {video!r:.200} has the label {label!r:.80}; a class is one line of text, or a "
                f"number below {MAX_CLASSES}"
            )
    if 0 < len(numbers) < len(labels):
        raise AnnotationError(f"{source!r}: some {what} are numbers and some are names; use either")
    if len(labels) < 2:
        raise AnnotationError(
            f"{source!r}: all {what} are {next(iter(labels))!r:.80}; a head needs two classes or more"
        )
    return max(numbers) + 1 if numbers else len(labels)


def _is_class(label: str | int) -> bool:
    if isinstance(label, int):
        return 0 <= label < MAX_CLASSES
    return label.splitlines() == [label.strip()]


def hold_out(
    videos: Sequence[StoredVideo], share: float, seed: int
) -> tuple[list[StoredVideo], list[StoredVideo]]:
    """Videos to train on, and about a ``share`` of every class to measure on, drawn with ``seed``.

    Every class keeps a video to train on; equal videos are never on both sides.
    """
    groups: dict[str, list[StoredVideo]] = {}  # by content: a list may have a video twice
    for index in np.random.default_rng((seed, 3)).permutation(len(videos)):
        groups.setdefault(videos[index].keys[0].digest, []).append(videos[index])
    left = Counter(_classes(videos))
    held: list[StoredVideo] = []
    for group in _class_by_class(list(groups.values())):
        taken = Counter(_classes(group))
        fits = len(held) + len(group) <= round(share * len(videos))
        if fits and all(left[name] > count for name, count in taken.items()):
            left -= taken
            held += group
    held_ids = {video.item.id for video in held}
    return [video for video in videos if video.item.id not in held_ids], held


def _classes(videos: Sequence[StoredVideo]) -> Iterator[tuple[str, str | int]]:
    """(output, label) of every label."""
    for video in videos:
        yield from video.item.labels.items()


def _class_by_class(groups: Sequence[list[StoredVideo]]) -> list[list[StoredVideo]]:
    """In an order in which every class, or pair of verb and noun, comes in proportion to its size."""
    classes = [tuple(sorted(group[0].item.labels.items())) for group in groups]
    sizes = Counter(classes)
    seen: Counter[Any] = Counter()
    places = []
    for name in classes:
        places.append((seen[name] + 0.5) / sizes[name])
        seen[name] += 1
    order = sorted(range(len(groups)), key=places.__getitem__)
    return [groups[k] for k in order]
