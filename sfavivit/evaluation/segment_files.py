"""Files of labelled segments: predictions and truth, as evaluation takes them.

ActivityNet      predictions {"results": {video: [{"label", "score", "segment": [start, end]}]}}, and truth
                 {"database": {video: {"duration", "subset", "annotations": [{"label", "segment"}]}}};
                 THUMOS14 and others are published in the latter form, too
THUMOS14         truth as a folder of text files, CLASS_SUBSET.txt with lines ``video start end``; the class
                 ``Ambiguous`` is left out
JSON Lines       predictions, as ``sfavivit classify --json`` prints them
lists of videos  truth with a row for each segment, in the formats of ``sfavivit.datasets``
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import isfinite
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from sfavivit.datasets import read_items
from sfavivit.datasets.delimited import path_rows
from sfavivit.datasets.folder import VIDEO_EXTENSIONS
from sfavivit.datasets.tables import MAX_DOCUMENT_BYTES, json_lines_rows
from sfavivit.errors import AnnotationError, UsageError
from sfavivit.evaluation.localisation import LabelledSegment, VideoSegments

Videos = dict[str, VideoSegments]
"""{name of a video: its segments}"""


@dataclass(frozen=True)
class MatchedVideos:
    """Predictions under the names of the truth, and names of videos that only one of the two has."""

    predictions: Videos
    only_predicted: tuple[str, ...]
    only_true: tuple[str, ...]


LINES_SUFFIXES = (".jsonl", ".ndjson")
_AMBIGUOUS = "Ambiguous"
_THUMOS_FILE = re.compile(r"(.+)_(\w+)\.txt")


@dataclass(frozen=True)
class OutputChoice:
    """Head and output whose segments to take; None where there is only one to choose from."""

    head: str | None = None
    output: str | None = None

    def includes(self, head: str, output: str) -> bool:
        """Return whether this output is among those that may be meant."""
        return self.head in (None, head) and self.output in (None, output)

    def only(self, found: Iterable[tuple[str, str]], where: str) -> tuple[str, str]:
        """Return the one (head, output) of ``found`` that is meant.

        Raises:
            UsageError: there is none, or there are several.
        """
        known = list(dict.fromkeys(found))
        chosen = [pair for pair in known if self.includes(*pair)]
        if len(chosen) != 1:
            names = ", ".join(f"(head {head!r}, output {output!r})" for head, output in known)
            raise UsageError(
                f"{where}: {len(chosen)} outputs fit; choose one with --head and --output: {names:.300}"
            )
        return chosen[0]


def read_predictions(path: Path, choice: OutputChoice) -> Videos:
    """Read predicted segments from ActivityNet JSON, or from JSON Lines; videos that failed have none.

    Raises:
        AnnotationError: the file cannot be read, or an entry is invalid.
        UsageError: the file has several outputs, and ``choice`` leaves more than one, or none.
    """
    if path.suffix.lower() in LINES_SUFFIXES:
        with _opened(path) as stream:
            return _of_lines(json_lines_rows(stream, repr(str(path))), repr(str(path)), choice)
    where, document = repr(str(path)), _read_document(path)
    if "video" in document:  # the line of one video
        return _of_lines([(1, document)], where, choice)
    results = _object(document.get("results"), f"{where}: 'results'")
    entries = {
        video: [
            (place, _object(entry, place))
            for number, entry in enumerate(_array(found, f"{where}: video {video!r:.80}"), 1)
            for place in [f"{where}: entry {number} of video {video!r:.80}"]
        ]
        for video, found in results.items()
    }
    several = [_output_of(entry) for found in entries.values() for _, entry in found if "head" in entry]
    chosen = choice.only(several, where) if several else None
    return {
        video: VideoSegments(
            tuple(
                _segment(entry, place, scored=True)
                for place, entry in found
                if not chosen or _output_of(entry) == chosen
            )
        )
        for video, found in entries.items()
    }


def _output_of(entry: Mapping[str, Any]) -> tuple[str, str]:
    """Return head and output of a detection, as ``classify --export`` adds them where there are several."""
    return str(entry.get("head", "")), str(entry.get("output", ""))


def _of_lines(rows: Iterable[tuple[int, dict[str, Any]]], where: str, choice: OutputChoice) -> Videos:
    videos: Videos = {}
    for number, row in rows:
        place = f"{where} line {number}"
        video = _text(row.get("video"), f"{place}: 'video'")
        if video in videos:
            raise AnnotationError(f"{place} is the second of video {video!r:.200}; remove one")
        videos[video] = VideoSegments(()) if "error" in row else _answer(row, place, choice)
    return videos


def _answer(row: Mapping[str, Any], place: str, choice: OutputChoice) -> VideoSegments:
    heads = {
        head: _object(outputs, f"{place}: head {head!r:.80}")
        for head, outputs in _object(row.get("heads"), f"{place}: 'heads'").items()
    }
    head, output = choice.only(((h, o) for h, outputs in heads.items() for o in outputs), place)
    result = _object(heads[head][output], f"{place}: output {output!r:.80}")
    timeline = _array(result.get("timeline"), f"{place}: 'timeline'")
    return VideoSegments(timeline_segments(timeline, place), _duration(row.get("duration_seconds"), place))


def timeline_segments(timeline: Iterable[Any], place: str) -> tuple[LabelledSegment, ...]:
    """Return the segments of a timeline: objects with the fields of ``sfavivit.Segment``.

    Raises:
        AnnotationError: one is invalid; the message starts with ``place``.
    """
    return tuple(
        _checked(
            found.get("start_seconds"),
            found.get("end_seconds"),
            found.get("label"),
            found.get("confidence"),
            f"{place}: segment {number}",
        )
        for number, entry in enumerate(timeline, 1)
        for found in [_object(entry, f"{place}: segment {number}")]
    )


def read_truth(path: Path, *, subset: str | None = None, output: str | None = None) -> Videos:
    """Read true segments: JSON with a ``database``, a folder of THUMOS14, or a list of videos.

    Args:
        path: the file or folder.
        subset: videos to take: the ``subset`` of ActivityNet, SUBSET in the names of THUMOS14's files, or the
            ``split`` of a list (default: all).
        output: output whose labels to take from a list that has several, such as ``verb``.

    Raises:
        AnnotationError: it cannot be read, an entry is invalid, or there are no videos of the subset.
    """
    if path.is_dir():
        return _thumos_folder(path, subset)
    if path.suffix.lower() == ".json":
        document = _read_document(path, or_list=True)
        if "database" in document:
            return _database(document["database"], repr(str(path)), subset)
    return _video_list(path, subset, output)


def _database(database: object, where: str, subset: str | None) -> Videos:
    entries = {
        video: _object(entry, f"{where}: video {video!r:.80}")
        for video, entry in _object(database, f"{where}: 'database'").items()
    }
    found = {str(entry.get("subset")) for entry in entries.values()}
    if not entries or (subset is not None and subset not in found):
        raise AnnotationError(f"{where} has no videos of subset {subset!r}; it has {sorted(found)!r:.200}")
    videos: Videos = {}
    for video, entry in entries.items():
        if subset is not None and str(entry.get("subset")) != subset:
            continue
        place = f"{where}: video {video!r:.80}"
        annotations = _array(entry.get("annotations"), f"{place}: 'annotations'")
        segments = (
            _segment(_object(one, f"{place}: annotation {number}"), f"{place}: annotation {number}")
            for number, one in enumerate(annotations, 1)
        )
        videos[video] = VideoSegments(tuple(segments), _duration(entry.get("duration"), place))
    return videos


def _thumos_folder(folder: Path, subset: str | None) -> Videos:
    try:
        found = sorted(folder.iterdir())
    except OSError as error:
        raise AnnotationError(f"{str(folder)!r} cannot be read: {error.strerror}") from None
    files = [(match[1], match[2], file) for file in found if (match := _THUMOS_FILE.fullmatch(file.name))]
    subsets = sorted({name for _, name, _ in files})
    chosen = [(label, file) for label, name, file in files if subset in (None, name)]
    if not chosen:
        raise AnnotationError(
            f"{str(folder)!r} has no files CLASS_{subset or 'SUBSET'}.txt of THUMOS14; it has the subsets "
            f"{subsets!r:.200}"
        )
    videos: dict[str, list[LabelledSegment]] = {}
    for label, file in chosen:
        if label != _AMBIGUOUS:
            for video, segment in _thumos_lines(file, label):
                videos.setdefault(video, []).append(segment)
    return {video: VideoSegments(tuple(segments)) for video, segments in videos.items()}


def _thumos_lines(file: Path, label: str) -> Iterator[tuple[str, LabelledSegment]]:
    with _opened(file) as stream:
        for number, row in path_rows(stream, repr(str(file))):
            place = f"{str(file)!r} line {number}"
            match row["video"].split():
                case [video, start, end]:
                    yield video, _checked(_number(start), _number(end), label, 1.0, place)
                case [_, *_]:
                    raise AnnotationError(f"{place} must be 'video start end', got {row['video']!r:.80}")


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def _video_list(path: Path, subset: str | None, output: str | None) -> Videos:
    videos: dict[str, list[LabelledSegment]] = {}
    for item in read_items(str(path), split=subset):
        place = f"{str(path)!r}: {item.id!r:.200}"
        segments = videos.setdefault(item.video, [])
        if not item.labels and not item.start_seconds and item.end_seconds is None:
            continue  # a video in which nothing happens
        labels = [item.labels[name] for name in item.labels if output in (None, name)]
        if len(labels) != 1:
            raise AnnotationError(
                f"{place} has the labels {item.labels!r:.200}; give each segment one, or choose with --output"
            )
        segments.append(_checked(item.start_seconds, item.end_seconds, str(labels[0]), 1.0, place))
    return {video: VideoSegments(tuple(segments)) for video, segments in videos.items()}


def match_videos(predictions: Videos, truth: Videos) -> MatchedVideos:
    """Find the predictions for each video of the truth: by its name, or else by that of its file.

    The latter is without folder, extension, and the ``v_`` that begins the names of ActivityNet's files.

    Raises:
        AnnotationError: no video is in both, or two have files of the same name.
    """
    found = {name: name for name in truth if name in predictions}
    ours, theirs = (_by_file(name for name in videos if name not in found) for videos in (predictions, truth))
    for file in ours.keys() & theirs.keys():
        for names in (ours[file], theirs[file]):
            if len(names) > 1:
                raise AnnotationError(
                    f"videos {names[0]!r:.200} and {names[1]!r:.200} have the same name {file!r:.80}, so it "
                    "is unclear which is meant; give predictions and truth the same paths"
                )
        found[theirs[file][0]] = ours[file][0]
    if not found:
        examples = (next(iter(videos), "none") for videos in (predictions, truth))
        raise AnnotationError(
            "none of the {} videos with predictions is among the {} of the truth: {!r:.100} there, {!r:.100} "
            "here; name them alike".format(len(predictions), len(truth), *examples)
        )
    matched = set(found.values())
    return MatchedVideos(
        {name: predictions[other] for name, other in found.items()},
        tuple(name for name in predictions if name not in matched),
        tuple(name for name in truth if name not in found),
    )


def _by_file(names: Iterable[str]) -> dict[str, list[str]]:
    files: dict[str, list[str]] = {}
    for name in names:
        file = PurePosixPath(name).name
        stem = PurePosixPath(file).stem if PurePosixPath(file).suffix.lower() in VIDEO_EXTENSIONS else file
        files.setdefault(stem.removeprefix("v_"), []).append(name)
    return files


def truth_json(videos: Mapping[str, VideoSegments], subset: str) -> str:
    """Return true segments as ActivityNet's JSON, which ``read_truth`` reads."""
    database = {
        video: {
            "duration": found.duration_seconds,
            "subset": subset,
            "annotations": [
                {"label": one.label, "segment": [one.start_seconds, one.end_seconds]}
                for one in found.segments
            ],
        }
        for video, found in videos.items()
    }
    return json.dumps({"version": "1", "taxonomy": [], "database": database}, indent=1) + "\n"


def _segment(entry: Mapping[str, Any], place: str, *, scored: bool = False) -> LabelledSegment:
    match entry.get("segment"):
        case [start, end]:
            return _checked(start, end, entry.get("label"), entry.get("score") if scored else 1.0, place)
        case other:
            raise AnnotationError(f"{place}: 'segment' must be [start, end] in seconds, got {other!r:.80}")


def _checked(start: object, end: object, label: object, score: object, place: str) -> LabelledSegment:
    for name, value in (("start", start), ("end", end), ("score", score)):
        if not _is_number(value):
            raise AnnotationError(f"{place}: the {name} must be a finite number, got {value!r:.80}")
    segment = LabelledSegment(float(start), float(end), _text(label, f"{place}: the label"), float(score))  # type: ignore[arg-type]
    if segment.start_seconds > segment.end_seconds:
        raise AnnotationError(
            f"{place}: the segment [{start}, {end}] ends before it starts; exchange the two"
        )
    return segment


def _is_number(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return isfinite(value)
    except OverflowError:  # an integer beyond float64
        return False


def _duration(value: object, place: str) -> float | None:
    if value is None:
        return None
    if not _is_number(value) or value < 0:  # type: ignore[operator]
        raise AnnotationError(f"{place}: the duration must be a number of seconds, got {value!r:.80}")
    return float(value)  # type: ignore[arg-type]


def _text(value: object, what: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise AnnotationError(f"{what} must be text, got {value!r:.80}")
    return value


def _object(value: object, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise AnnotationError(f"{what} must be an object, got {value!r:.80}")
    return value


def _array(value: object, what: str) -> list[Any]:
    if not isinstance(value, list):
        raise AnnotationError(f"{what} must be an array, got {value!r:.80}")
    return value


def _read_document(path: Path, *, or_list: bool = False) -> dict[str, Any]:
    """Read a JSON object; a key that is there twice is an error, since one of its values would be lost."""
    where = repr(str(path))
    with _opened(path) as stream:
        content = stream.read(MAX_DOCUMENT_BYTES + 1)
    if len(content) > MAX_DOCUMENT_BYTES:
        raise AnnotationError(f"{where} has more than {MAX_DOCUMENT_BYTES >> 20} MiB; give a part of it")

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            ((twice, _),) = Counter(name for name, _ in pairs).most_common(1)
            raise AnnotationError(f"{where} names {twice!r:.200} twice in one object; remove one")
        return found

    try:
        document = json.loads(content, object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        hint = "; a file of one object a line is named .jsonl" if "Extra data" in str(error) else ""
        raise AnnotationError(f"{where} is not JSON: {error}{hint}") from None
    if or_list and isinstance(document, list):
        return {}
    return _object(document, where)


def _opened(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise AnnotationError(f"{str(path)!r} cannot be read: {reason}") from None
