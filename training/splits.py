"""Training and validation videos of one list, or of two.

    one list      its rows of split train         its rows of split validation, if it has any
    two lists     the first                       the second

A list has splits when it has a column ``split`` (or ``subset``): train, validation or test. Then only the
rows of the split that is wanted count, also in the second of two lists. Test videos are not used, unless a
second list has no others.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from sfavivit.datasets import VideoItem, read_splits
from sfavivit.errors import AnnotationError

TRAIN, VALIDATION, TEST = "train", "val", "test"  # as ``read_splits`` names them

Splits = dict[str | None, list[VideoItem]]


class VideoLists(NamedTuple):
    """Videos to train on and to validate on; ``validation`` is None where no list names any."""

    training: Sequence[VideoItem]
    validation: Sequence[VideoItem] | None


def read_lists(train: str, validation: str | None = None, *, root: str | Path | None = None) -> VideoLists:
    """Read the videos of one list, or of two.

    Raises:
        AnnotationError: a list that cannot be read, has unknown splits, lacks the wanted one, has a video in
            two of them, or has validation videos although ``validation`` is given.
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
    """Return all videos of a list without splits, or those of the first of the ``wanted`` splits it has."""
    for split in (None, *wanted):
        if found := splits.get(split):
            return found
    raise AnnotationError(
        f"{source!r} has no videos of split {wanted[0]!r}, only of {', '.join(map(repr, splits))}"
    )
