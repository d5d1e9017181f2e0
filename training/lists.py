"""Which of the listed videos are learned from, and which are measured on.

    one list      its rows of split train         its rows of split validation, if it has any
    two lists     the first                       the second

A list has splits when it has a column ``split`` (or ``subset``): train, validation or test. Then only the
rows of the split that is wanted count, in the second of two lists, too. Test videos are left alone, unless
they are all that a second list has.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from sfavivit.datasets import VideoItem, read_splits
from sfavivit.errors import AnnotationError

TRAIN, VALIDATION, TEST = "train", "val", "test"  # as ``read_splits`` calls them

Splits = dict[str | None, list[VideoItem]]


class VideoLists(NamedTuple):
    """``validation``: None when nothing says what to measure on."""

    training: Sequence[VideoItem]
    validation: Sequence[VideoItem] | None


def read_lists(train: str, validation: str | None = None, *, root: str | Path | None = None) -> VideoLists:
    """The videos of one list, or of two.

    Raises:
        AnnotationError: a list that cannot be read, has other splits, lacks the one that is wanted, has one
            video in two of them, or says what to measure on although ``validation`` does.
    """
    splits = _read(train, root)
    training, measured = _videos(splits, train, TRAIN), splits.get(VALIDATION)
    if validation is not None:
        if measured and validation != train:
            raise AnnotationError(
                f"{train!r} has {len(measured)} videos of split validation, and {validation!r} is given to "
                "measure on; leave one of the two out"
            )
        others = splits if validation == train else _read(validation, root)
        measured = _videos(others, validation, VALIDATION, TEST)
    return VideoLists(training, measured)


def _read(source: str, root: str | Path | None) -> Splits:
    splits = read_splits(source, root=root)
    for split, items in splits.items():
        if split not in (None, TRAIN, VALIDATION, TEST):
            raise AnnotationError(
                f"{source!r}: {items[0].id!r:.200} is of split {split!r:.40}; write train, validation or test"
            )
    return splits


def _videos(splits: Splits, source: str, *wanted: str) -> list[VideoItem]:
    """All videos of a list without splits, or those of the first split that it has."""
    for split in (None, *wanted):
        if found := splits.get(split):
            return found
    raise AnnotationError(
        f"{source!r} has no videos of split {wanted[0]!r}, only of {', '.join(map(repr, splits))}"
    )
