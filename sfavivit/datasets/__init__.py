"""Lists of videos, with or without labels, in the forms that people and published datasets write them."""

from sfavivit.datasets.item import VideoItem
from sfavivit.datasets.loader import read_items, read_splits

__all__ = ["VideoItem", "read_items", "read_splits"]
