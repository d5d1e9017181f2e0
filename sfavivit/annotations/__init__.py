"""Lists of videos, with or without labels, in the forms that people and published datasets write them."""

from sfavivit.annotations.items import VideoItem
from sfavivit.annotations.reader import read_items, read_splits

__all__ = ["VideoItem", "read_items", "read_splits"]
