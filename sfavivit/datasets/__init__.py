"""Lists of videos, with or without labels: our own manifests and the files of published datasets."""

from sfavivit.datasets.item import VideoItem
from sfavivit.datasets.loader import read_items, read_splits

__all__ = ["VideoItem", "read_items", "read_splits"]
