"""Lists of videos for a head: classes, held-out videos, segments of whole tubelets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sfavivit.datasets import VideoItem
from sfavivit.errors import AnnotationError, UsageError
from sfavivit.features.slicing import align_to_tubelets, tubelet_rate
from sfavivit.repository.manifest import read_manifest
from training.classes import class_names
from training.head.features import StoredVideo
from training.splits import read_lists

MAX_CLASSES = 100_000
HELD_OUT_SHARE = 0.2


class HeadLists(NamedTuple):
    """Videos to train on and to measure on: a list of their own, or a share ``held_out`` of the first."""

    source: str
    training: Sequence[VideoItem]
    validation: Sequence[VideoItem] | None
    held_out: float


def read_head_lists(
    source: str, validation: str | None, root: str | None, held_out: float | None, *, align_to: Path | None
) -> HeadLists:
    """Read the lists of a head; ``align_to``: repository whose tubelets the segments are widened to.

    Raises:
        AnnotationError: a list that cannot be read.
        UsageError: ``held_out`` is given although the lists name the videos to measure on.
    """
    training, measured = read_lists(source, validation, root=root)
    if measured is not None and held_out is not None:
        raise UsageError(
            f"--held-out {held_out:g} is for a list that does not say what to measure on; "
            f"{validation or source!r} says so: leave --held-out out"
        )
    if align_to:
        manifest = read_manifest(align_to)
        rate = tubelet_rate(manifest.sampling, manifest.dimensions.tubelet_frames)
        training = [align_to_tubelets(item, rate) for item in training]
        measured = measured and [align_to_tubelets(item, rate) for item in measured]
    return HeadLists(source, training, measured, HELD_OUT_SHARE if held_out is None else held_out)


def head_classes(items: Sequence[VideoItem], source: str) -> dict[str, list[str]]:
    """Return the classes of every labelled output: names, sorted, or numbers up to the largest.

    Raises:
        AnnotationError: a video without a label, an output of one class, or labels that are no classes.
    """
    outputs = dict.fromkeys(output for item in items for output in item.labels)
    if not outputs:
        raise AnnotationError(f"{source!r} has no labelled videos; add a column 'label' (or 'verb', 'noun')")
    counts = {output: _count_classes(items, output, source) for output in outputs}
    return class_names(items, counts, source)


def _count_classes(items: Sequence[VideoItem], output: str, source: str) -> int:
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
    """Split videos into those to train on and about a ``share`` of every class to measure on.

    Every class keeps a video to train on, and equal videos stay on one side.
    """
    groups: dict[str, list[StoredVideo]] = {}  # by content: a list may have a video twice
    for index in np.random.default_rng((seed, 3)).permutation(len(videos)):
        groups.setdefault(videos[index].keys[0].digest, []).append(videos[index])
    left = Counter(_labels(videos))
    held: list[StoredVideo] = []
    for group in _class_by_class(list(groups.values())):
        taken = Counter(_labels(group))
        fits = len(held) + len(group) <= round(share * len(videos))
        if fits and all(left[name] > count for name, count in taken.items()):
            left -= taken
            held += group
    held_ids = {video.item.id for video in held}
    return [video for video in videos if video.item.id not in held_ids], held


def _labels(videos: Sequence[StoredVideo]) -> Iterator[tuple[str, str | int]]:
    """Yield (output, label) of every label."""
    for video in videos:
        yield from video.item.labels.items()


def _class_by_class(groups: Sequence[list[StoredVideo]]) -> list[list[StoredVideo]]:
    """Order groups so that every class, or pair of verb and noun, comes in proportion to its size."""
    classes = [tuple(sorted(group[0].item.labels.items())) for group in groups]
    sizes = Counter(classes)
    seen: Counter[Any] = Counter()
    places = []
    for name in classes:
        places.append((seen[name] + 0.5) / sizes[name])
        seen[name] += 1
    order = sorted(range(len(groups)), key=places.__getitem__)
    return [groups[k] for k in order]
