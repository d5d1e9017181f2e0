"""Formats of lists: our own manifest, and the annotation files of the paper's datasets, as published.

Kinetics-400/600/700    CSV label,youtube_id,time_start,time_end,split(,is_cc), or JSON {youtube_id:
                        {annotations: {label, segment}, subset}}; test files have no label
Moments in Time         CSV without header: path,label,agree,disagree (the README of the release)
Something-Something v2  JSON [{id, label, template, placeholders}]; test.json has ids only; its answers are
                        CSV without header, id;label. Something-Else has the same format (dataset_splits/ of
                        github.com/joaanna/something_else)
EPIC-KITCHENS-55        CSV uid,participant_id,video_id,start_timestamp,stop_timestamp, and in training files
                        verb_class,noun_class (the README of github.com/epic-kitchens/annotations)
EPIC-KITCHENS-100       as that, with narration_id (epic-kitchens-100-annotations)
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import product
from typing import Any

from sfavivit.datasets.folder import VideoFolder
from sfavivit.datasets.item import VideoItem
from sfavivit.datasets.lines import Row, is_unicode
from sfavivit.video.source import VideoSegment

SPLIT_NAMES = {"training": "train", "validate": "val", "validation": "val"}
"""{another name in use, also for folders: name of the split}"""
_TIMESTAMP = re.compile(r"(\d{1,4}):(\d\d):(\d\d(?:\.\d{1,9})?)", re.ASCII)


@dataclass(frozen=True)
class Format:
    """Format of a list, recognised by its columns.

    Attributes:
        name: name of the dataset or format.
        columns: columns it must have.
        item: makes an item of a row; raises ``ValueError`` or ``UsageError`` for an invalid row.
        only: whether it must have no other columns.
    """

    name: str
    columns: frozenset[str]
    item: Callable[[Row, VideoFolder], VideoItem]
    only: bool = False


def find_format(columns: Collection[str]) -> Format | None:
    """Return the first format that fits these columns."""
    present = frozenset(columns)
    return next((f for f in FORMATS if f.columns == present or (f.columns < present and not f.only)), None)


def _manifest(row: Row, folder: VideoFolder) -> VideoItem:
    video = _text(row, "video")
    start, end = _seconds(row, "start_seconds") or 0.0, _seconds(row, "end_seconds")
    labels = _labels(row, {"": "label", "verb": "verb", "noun": "noun"})
    times = f"@{_short(start)}-{'' if end is None else _short(end)}" if start or end is not None else ""
    name = f"{video}{times}" if _is_empty(row.get("id")) else _text(row, "id")
    return VideoItem(name, folder.path(video), labels, start, end)


def _kinetics_json(row: Row, folder: VideoFolder) -> VideoItem:
    match row["annotations"]:
        case {"segment": [start, end], **rest}:
            columns = {"label": rest.get("label"), "time_start": start, "time_end": end}
            return _kinetics({**row, **columns, "split": row.get("subset")}, folder)
        case other:
            raise ValueError(f"annotations must hold a segment [start, end], got {other!r:.80}")


def _kinetics(row: Row, folder: VideoFolder) -> VideoItem:
    """Return the clip named after its video and times, or else that segment of the whole video."""
    video, labels, split = _text(row, "youtube_id"), _labels(row, {"": "label"}), row.get("split")
    start_seconds, end_seconds = _given_seconds(row, "time_start"), _given_seconds(row, "time_end")
    VideoSegment(video, start_seconds, end_seconds)
    name = f"{video}_{round(start_seconds):06d}_{round(end_seconds):06d}"
    places = _kinetics_places(str(split or ""), str(labels.get("", "")))
    if clip := folder.find(name, places, ".mp4"):
        return VideoItem(name, clip, labels)
    if whole := folder.find(video, places, ".mp4"):
        return VideoItem(name, whole, labels, start_seconds, end_seconds)
    looked_for = folder.looked_for([name, video], places)
    return VideoItem(name, folder.path(f"{name}.mp4"), labels, looked_for=looked_for)


@lru_cache(4096)
def _kinetics_places(split: str, label: str) -> list[str]:
    """Return the folders of clips: of a split, by any of its names, of a class, or of a class in a split."""
    canonical = SPLIT_NAMES.get(split, split)
    names = [split, canonical, *(name for name, other in SPLIT_NAMES.items() if other == canonical)]
    splits = ["", *(f"{name}/" for name in dict.fromkeys(names))] if split else [""]
    classes = ["", *dict.fromkeys((f"{label}/", f"{label.replace(' ', '_')}/"))] if label else [""]
    return [f"{top}{below}" for top, below in product(splits, classes)]


def _moments(row: Row, folder: VideoFolder) -> VideoItem:
    path = _text(row, "path")
    name, extension = os.path.splitext(path)  # noqa: PTH122 - faster than a Path
    places = ["", "training/", "validation/"]
    return _found(path, folder, name, places, extension or ".mp4", _labels(row, {"": "label"}))


def _something(row: Row, folder: VideoFolder) -> VideoItem:
    name = _text(row, "id")
    labels = _labels(row, {"": "template"})
    if labels:  # the class is the template without its brackets: "Holding [something]" -> "Holding something"
        labels[""] = str(labels[""]).replace("[", "").replace("]", "")
    return _found(name, folder, name, ["", "20bn-something-something-v2/"], ".webm", labels)


def _epic(row: Row, folder: VideoFolder, *, id_column: str) -> VideoItem:
    """Return an action segment; folders as the downloader of -100 makes them, or as in the release of -55."""
    participant, video = _text(row, "participant_id"), _text(row, "video_id")
    of_55 = [f"videos/{split}/{participant}/" for split in ("train", "test")]
    places = [f"{participant}/videos/", f"{participant}/", "", *of_55]
    indexes = {"verb": "verb_class", "noun": "noun_class"}
    labels: dict[str, str | int] = {
        output: _class_index(row, column)
        for output, column in indexes.items()
        if not _is_empty(row.get(column))
    }
    start, end = _timestamp(row, "start_timestamp"), _timestamp(row, "stop_timestamp")
    return _found(_text(row, id_column), folder, video, places, ".MP4", labels, start, end)


def _found(
    id_: str,
    folder: VideoFolder,
    name: str,
    places: list[str],
    extension: str,
    labels: dict[str, str | int],
    start_seconds: float = 0.0,
    end_seconds: float | None = None,
) -> VideoItem:
    """Return the item of a video called ``name``, at the first place if it is at none."""
    path = folder.find(name, places, extension)
    looked_for = "" if path else folder.looked_for([name], places)
    video = path or folder.path(f"{places[0]}{name}{extension}")
    return VideoItem(id_, video, labels, start_seconds, end_seconds, looked_for)


_EPIC_COLUMNS = frozenset({"participant_id", "video_id", "start_timestamp", "stop_timestamp"})

FORMATS = (
    Format("manifest", frozenset({"video"}), _manifest),
    Format("Kinetics CSV", frozenset({"youtube_id", "time_start", "time_end"}), _kinetics),
    Format("Kinetics JSON", frozenset({"youtube_id", "annotations"}), _kinetics_json),
    Format("Moments in Time", frozenset({"path", "label", "agree", "disagree"}), _moments, only=True),
    Format("Something-Something v2", frozenset({"id", "template"}), _something),
    Format("Something-Something v2 test", frozenset({"id"}), _something, only=True),
    Format("EPIC-KITCHENS-100", _EPIC_COLUMNS | {"narration_id"}, partial(_epic, id_column="narration_id")),
    Format("EPIC-KITCHENS-55", _EPIC_COLUMNS | {"uid"}, partial(_epic, id_column="uid")),
)


def _is_empty(value: object) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())


def _text(row: Row, column: str) -> str:
    """Return a required field as text; whole numbers count as text, since ids are often numbers."""
    value = row.get(column)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{column} must be given, as text; got {value!r:.80}")
    if "\0" in value or not is_unicode(value):
        raise ValueError(f"{column} has a null or half a character: {value!r:.80}")
    return value


def _labels(row: Row, columns: dict[str, str]) -> dict[str, str | int]:
    """Return {output: label} of the columns that are not empty."""
    labels: dict[str, str | int] = {}
    for output, column in columns.items():
        value = row.get(column)
        if _is_empty(value):
            continue
        labels[output] = value if type(value) is int else _text(row, column).strip()
    return labels


def _class_index(row: Row, column: str) -> int:
    value = str(row[column]).strip()
    if not (value.isascii() and value.isdigit() and len(value) < 10):
        raise ValueError(f"{column} must be the number of a class, got {row[column]!r:.80}")
    return int(value)


def _seconds(row: Row, column: str) -> float | None:
    """Return a field as seconds; None when it is empty."""
    value: Any = row.get(column)
    if _is_empty(value):
        return None
    try:
        if isinstance(value, bool):
            raise TypeError
        return float(value)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"{column} must be a number of seconds, got {value!r:.80}") from None


def _given_seconds(row: Row, column: str) -> float:
    seconds = _seconds(row, column)
    if seconds is None:
        raise ValueError(f"{column} must be a number of seconds, got nothing")
    return seconds


def _timestamp(row: Row, column: str) -> float:
    """Return a field ``HH:mm:ss.SSS`` as seconds."""
    value = row[column]
    if not isinstance(value, str) or not (match := _TIMESTAMP.fullmatch(value.strip())):
        raise ValueError(f"{column} must be HH:mm:ss.SSS, got {value!r:.80}")
    hours, minutes, seconds = match.groups()
    return int(hours) * 3600 + int(minutes) * 60 + float(seconds)


def _short(seconds: float) -> str:
    """Format seconds to the microsecond, which is as exact as the decoder cuts: 12.5, 3."""
    return f"{seconds:.6f}".rstrip("0").rstrip(".")
