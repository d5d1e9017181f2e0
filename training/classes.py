"""Class names, and examples whose labels are class indices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sfavivit.datasets import VideoItem
from sfavivit.errors import AnnotationError
from sfavivit.utils.atomic import atomic_write

Names = Mapping[str, Sequence[str]]


@dataclass(frozen=True)
class Example:
    """A video with the class index of every output."""

    item: VideoItem
    labels: dict[str, int]


def class_names(items: Sequence[VideoItem], outputs: Mapping[str, int], source: str) -> dict[str, list[str]]:
    """Return the class names of each output: the list's names, sorted, or numbers where it has numbers.

    ``outputs``: {name: number of classes}.

    Raises:
        AnnotationError: an item without a label, or another number of names than of classes.
    """
    names: dict[str, list[str]] = {}
    for output, classes in outputs.items():
        labels = {_label(item, output, source) for item in items}
        if all(isinstance(label, int) for label in labels):
            names[output] = [str(number) for number in range(classes)]
            continue
        names[output] = sorted(map(str, labels))
        if len(names[output]) != classes:
            raise AnnotationError(
                f"{source!r} names {len(labels)} classes{_of(output)}, the recipe has {classes}; give all "
                f"names with --labels, or --set the recipe's model.outputs"
            )
    return names


def number_labels(items: Sequence[VideoItem], names: Names, source: str) -> list[Example]:
    """Replace labels by class indices.

    Raises:
        AnnotationError: no items, an item without a label, or an unknown class.
    """
    if not items:
        raise AnnotationError(f"{source!r} lists no videos")
    numbers = {output: {name: k for k, name in enumerate(known)} for output, known in names.items()}
    return [
        Example(item, {output: _number(item, output, numbers[output], source) for output in names})
        for item in items
    ]


def write_names(names: Names, folder: Path) -> None:
    """Write a file per output for ``python -m export --labels``: labels.txt, or labels_verb.txt and so on."""
    for output, known in names.items():
        file = folder / (f"labels_{output}.txt" if output else "labels.txt")
        atomic_write(file, "".join(f"{name}\n" for name in known).encode())


def _label(item: VideoItem, output: str, source: str) -> str | int:
    if output not in item.labels:
        raise AnnotationError(f"{source!r}: {item.id!r:.200} has no label{_of(output)}; training needs one")
    return item.labels[output]


def _number(item: VideoItem, output: str, numbers: Mapping[str, int], source: str) -> int:
    label = _label(item, output, source)
    number = label if isinstance(label, int) else numbers.get(label, -1)
    if not 0 <= number < len(numbers):
        raise AnnotationError(
            f"{source!r}: {item.id!r:.200} has the label {label!r:.80}{_of(output)}, which is none of the "
            f"{len(numbers)} classes"
        )
    return number


def _of(output: str) -> str:
    return f" of {output!r}" if output else ""
