"""Metrics of temporal action localisation: labelled segments of untrimmed videos against the true ones.

mAP at tIoU      average precision of the ActivityNet detection task (Evaluation/eval_detection.py of
                 github.com/activitynet/ActivityNet): the detections of a class in all videos, best score
                 first, each matched to the unmatched true segment of highest temporal IoU
F1@k, edit       segmental F1 at k% overlap, and Levenshtein score of the order of labels (Lea et al.,
                 "Temporal Convolutional Networks for Action Segmentation and Detection", CVPR 2017)
frame accuracy   share of moments with a right answer, and of background that is called an action

Segments may overlap and leave gaps, in predictions as in the truth. No result depends on the order of either.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from sfavivit.errors import InvalidInputError, UsageError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Masks = NDArray[np.bool_]

THUMOS_THRESHOLDS = (0.3, 0.4, 0.5, 0.6, 0.7)
ACTIVITYNET_THRESHOLDS = (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)
THRESHOLDS = tuple(sorted({*THUMOS_THRESHOLDS, *ACTIVITYNET_THRESHOLDS}))
OVERLAPS = (0.10, 0.25, 0.50)
MAX_SECONDS = 1e9
DEFAULT_FRAMES_PER_SECOND = 10.0
MAX_FRAMES = 100_000_000  # 2,800 hours at the default rate
_BLOCK = 1 << 20  # pairs of segments compared at once


class LabelledSegment(NamedTuple):
    """Stretch of a video with a label; ``score`` orders predictions, higher is surer."""

    start_seconds: float
    end_seconds: float
    label: str
    score: float = 1.0


@dataclass(frozen=True)
class VideoSegments:
    """Segments of one video, in any order; ``duration_seconds``: its length, where that is known."""

    segments: tuple[LabelledSegment, ...]
    duration_seconds: float | None = None


@dataclass(frozen=True)
class ClassPrecision:
    """Segments of one class, and its average precision in [0, 1] at each of ``THRESHOLDS``."""

    true_segments: int
    predicted_segments: int
    average_precision: tuple[float, ...]


@dataclass(frozen=True)
class Localisation:
    """Metrics of a set of videos; shares are in [0, 1], and None where there is nothing to take a share of.

    Attributes:
        videos: number of videos of the truth.
        classes: {label of the truth: its average precision}, by name.
        unknown_labels: {label of predictions that is not in the truth: number of segments}. They count
            against F1, edit and frames, and not in the mAP, which is a mean over the classes of the truth.
        f1: segmental F1 at each of ``OVERLAPS``.
        edit: mean over videos of 1 - Levenshtein distance of the labels in order / the longer number of them.
        frame_accuracy: share of moments whose answer is right: the label of the predicted segment with the
            highest score there is one of the true ones, or there is neither.
        background_as_action: share of the moments without a true segment that have a predicted one.
    """

    videos: int
    classes: dict[str, ClassPrecision]
    unknown_labels: dict[str, int]
    f1: tuple[float | None, ...]
    edit: float | None
    frame_accuracy: float | None
    background_as_action: float | None

    def mean_average_precision(self, *thresholds: float) -> float | None:
        """Return the mAP at one of ``THRESHOLDS``, or its mean over several."""
        places = [THRESHOLDS.index(threshold) for threshold in thresholds]
        found = [found.average_precision[place] for found in self.classes.values() for place in places]
        return fmean(found) if found else None

    def to_json(self) -> dict[str, Any]:
        """Return the metrics as ``sfavivit evaluate --json`` prints them."""
        return {
            "map": {f"{threshold:g}": self.mean_average_precision(threshold) for threshold in THRESHOLDS},
            "mean_map": {
                "0.3:0.7": self.mean_average_precision(*THUMOS_THRESHOLDS),
                "0.5:0.95": self.mean_average_precision(*ACTIVITYNET_THRESHOLDS),
            },
            "f1": {f"{overlap:g}": share for overlap, share in zip(OVERLAPS, self.f1, strict=True)},
            "edit": self.edit,
            "frame_accuracy": self.frame_accuracy,
            "background_as_action": self.background_as_action,
            "unknown_labels": self.unknown_labels,
            "per_class": {
                label: {
                    "true_segments": found.true_segments,
                    "predicted_segments": found.predicted_segments,
                    "ap": {
                        f"{threshold:g}": precision
                        for threshold, precision in zip(THRESHOLDS, found.average_precision, strict=True)
                    },
                }
                for label, found in self.classes.items()
            },
        }


def evaluate_localisation(
    predictions: Mapping[str, VideoSegments],
    truth: Mapping[str, VideoSegments],
    *,
    min_score: float | None = None,
    frames_per_second: float = DEFAULT_FRAMES_PER_SECOND,
) -> Localisation:
    """Compare predicted segments with true ones.

    A video without predictions has none; predictions of videos that the truth lacks are left out. Moments
    count up to the end of the video (``duration_seconds`` of the truth, else of the predictions, else the
    last end of a true segment).

    Ties: of equal scores the earlier video by name, start and end comes first in the mAP, and the last by
    start, end and label is the answer of a moment; of true segments with the same tIoU the earlier one is
    taken. A true segment that is listed twice needs two detections.

    Args:
        predictions: {video: its predicted segments}.
        truth: {video: its true segments}.
        min_score: predictions with a lower score do not count in F1, edit and frames.
        frames_per_second: moments of a second, at (k + 1/2) / frames_per_second.

    Raises:
        InvalidInputError: a segment ends before it starts, has values that are not finite or times beyond
            ``MAX_SECONDS``, or there are more moments than ``MAX_FRAMES``.
        UsageError: ``frames_per_second`` is not a positive number.
    """
    names = sorted(truth)
    nothing = VideoSegments(())
    answers = [predictions.get(name, nothing) for name in names]
    true = [truth[name] for name in names]
    known, said = (
        {segment.label for video in videos for segment in video.segments} for videos in (true, answers)
    )
    index = {label: number for number, label in enumerate(sorted(known | said))}
    all_predicted, wanted = (_Segments.of(videos, names, index) for videos in (answers, true))
    predicted = all_predicted[all_predicted.score >= min_score] if min_score is not None else all_predicted
    frames = _count_frames(predicted, wanted, _durations(answers, true), _checked_rate(frames_per_second))
    counts = Counter(all_predicted.label.tolist())
    return Localisation(
        videos=len(names),
        classes=_class_precisions(
            all_predicted,
            wanted,
            {label: number for label, number in index.items() if label in known},
            counts,
        ),
        unknown_labels={label: counts[index[label]] for label in sorted(said - known)},
        f1=_segmental_f1(predicted, wanted),
        edit=_edit_score(predicted, wanted, len(names)),
        frame_accuracy=_share(frames.right, frames.all),
        background_as_action=_share(frames.called, frames.background),
    )


@dataclass(frozen=True)
class _Segments:
    """Columns [N] of segments: numbers of their videos and labels, times and scores."""

    video: Ints
    label: Ints
    start: Floats
    end: Floats
    score: Floats

    @classmethod
    def of(cls, videos: Sequence[VideoSegments], names: Sequence[str], index: Mapping[str, int]) -> Self:
        """Raise ``InvalidInputError`` for a segment that cannot be."""
        rows = [(number, found) for number, video in enumerate(videos) for found in video.segments]
        times = np.array([(one.start_seconds, one.end_seconds, one.score) for _, one in rows], np.float64)
        start, end, score = times.reshape(-1, 3).T
        wrong = ~((start >= -MAX_SECONDS) & (start <= end) & (end <= MAX_SECONDS) & np.isfinite(score))
        if wrong.any():
            number, found = rows[int(wrong.argmax())]
            raise InvalidInputError(
                f"video {names[number]!r:.200} has the segment {tuple(found)!r:.200}; give finite numbers, "
                f"the start not after the end, and times of at most {MAX_SECONDS:g} s"
            )
        video, label = np.array([(n, index[found.label]) for n, found in rows], np.int64).reshape(-1, 2).T
        return cls(video, label, start, end, score)

    def __len__(self) -> int:
        return len(self.video)

    def __getitem__(self, rows: Ints | Masks | slice) -> Self:
        return type(self)(*(column[rows] for column in vars(self).values()))


def _temporal_iou(one: _Segments, other: _Segments) -> Floats:
    """Return intersection over union of each pair, float64 [N, M]; 0 where the union has no length."""
    start = np.maximum(one.start[:, None], other.start)
    shared = np.clip(np.minimum(one.end[:, None], other.end) - start, 0, None)
    union = (one.end - one.start)[:, None] + (other.end - other.start) - shared
    return np.asarray(np.divide(shared, union, out=np.zeros_like(union), where=union > 0))


def _iou_blocks(one: _Segments, other: _Segments) -> Iterator[tuple[int, Floats]]:
    """Yield (first row, tIoU of some rows of ``one`` with all of ``other``), in bounded memory."""
    rows = max(1, _BLOCK // len(other))
    for first in range(0, len(one), rows):
        yield first, _temporal_iou(one[slice(first, first + rows)], other)


def _pairs(predicted: _Segments, true: _Segments) -> Iterator[tuple[Ints, Ints]]:
    """Yield rows of predictions and truth of each video and label that has both.

    Predictions come best score first, then in order of time; the truth in order of time.
    """
    labels = 1 + max(predicted.label.max(initial=0), true.label.max(initial=0))
    keys = [segments.video * labels + segments.label for segments in (predicted, true)]
    orders = [
        np.lexsort((predicted.end, predicted.start, -predicted.score, keys[0])),
        np.lexsort((true.end, true.start, keys[1])),
    ]
    arranged = [key[order] for key, order in zip(keys, orders, strict=True)]
    for key in np.intersect1d(*arranged):
        ours, theirs = (
            order[slice(*np.searchsorted(found, [key, key + 1]))]
            for order, found in zip(orders, arranged, strict=True)
        )
        yield ours, theirs


def _class_precisions(
    predicted: _Segments, true: _Segments, classes: Mapping[str, int], counts: Mapping[int, int]
) -> dict[str, ClassPrecision]:
    hits = np.zeros((len(THRESHOLDS), len(predicted)), np.bool_)
    for ours, theirs in _pairs(predicted, true):
        hits[:, ours] = _detections(predicted[ours], true[theirs])
    order = np.lexsort((predicted.end, predicted.start, predicted.video, -predicted.score, predicted.label))
    ranked = predicted.label[order]
    true_counts = np.bincount(true.label).tolist()
    return {
        label: ClassPrecision(
            true_counts[number],
            counts[number],
            _average_precision(
                hits[:, order[slice(*np.searchsorted(ranked, [number, number + 1]))]], true_counts[number]
            ),
        )
        for label, number in classes.items()
    }


def _detections(predicted: _Segments, true: _Segments) -> Masks:
    """Return the predictions that detect a true segment of their own, bool [thresholds, N].

    The segments are of one video and label, the predictions in the order in which they choose.
    """
    thresholds = np.array(THRESHOLDS)
    each = np.arange(len(thresholds))
    free = np.ones((len(thresholds), len(true)), np.bool_)
    found = np.zeros((len(thresholds), len(predicted)), np.bool_)
    for first, ious in _iou_blocks(predicted, true):
        for row in np.flatnonzero(ious.max(1) >= thresholds[0]):
            left = np.where(free, ious[row], -1.0)
            best = left.argmax(1)
            hit = left[each, best] >= thresholds
            free[each[hit], best[hit]] = False
            found[:, first + row] = hit
    return found


def _average_precision(hits: Masks, positives: int) -> tuple[float, ...]:
    """Return the area under interpolated precision over recall: hits bool [thresholds, N], best score first.

    Recall grows by one of ``positives`` at each hit; interpolated precision is the best at that recall or a
    higher one.
    """
    precision = hits.cumsum(1) / np.arange(1, hits.shape[1] + 1)
    interpolated = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    return tuple((np.where(hits, interpolated, 0).sum(1) / positives).tolist())


def _segmental_f1(predicted: _Segments, true: _Segments) -> tuple[float | None, ...]:
    """Return F1 at each of ``OVERLAPS``.

    A predicted segment goes with the true one of its label that it overlaps most; of several that go with the
    same one, one counts.
    """
    hits = np.zeros(len(OVERLAPS), np.int64)
    for ours, theirs in _pairs(predicted, true):
        reached = np.zeros(len(theirs))
        for _, ious in _iou_blocks(predicted[ours], true[theirs]):
            np.maximum.at(reached, ious.argmax(1), ious.max(1))
        hits += (reached >= np.array(OVERLAPS)[:, None]).sum(1)
    return tuple(_share(2 * count, len(predicted) + len(true)) for count in hits.tolist())


def _edit_score(predicted: _Segments, true: _Segments, videos: int) -> float | None:
    sequences = [_label_sequences(segments, videos) for segments in (predicted, true)]
    scores = [
        1 - levenshtein(ours, theirs) / max(len(ours), len(theirs), 1)
        for ours, theirs in zip(*sequences, strict=True)
    ]
    return fmean(scores) if scores else None


def _label_sequences(segments: _Segments, videos: int) -> list[list[int]]:
    """Return the labels of each video in order of start, then of end and label."""
    order = np.lexsort((segments.label, segments.end, segments.start, segments.video))
    bounds = np.searchsorted(segments.video[order], np.arange(1, videos))
    return [labels.tolist() for labels in np.split(segments.label[order], bounds)][:videos]


def levenshtein(one: Sequence[int], other: Sequence[int]) -> int:
    """Return the number of insertions, deletions and replacements that make ``other`` of ``one``.

    Columns of the table of distances are bit vectors (Myers, "A fast bit-vector algorithm for approximate
    string matching", 1999; for whole sequences, Hyyrö, 2003): ``up`` and ``down`` hold the rows at which a
    column grows or falls by one.
    """
    if not one:
        return len(other)
    everything, last = (1 << len(one)) - 1, 1 << (len(one) - 1)
    places: dict[int, int] = {}
    for row, label in enumerate(one):
        places[label] = places.get(label, 0) | 1 << row
    up, down, distance = everything, 0, len(one)
    for label in other:
        equal = places.get(label, 0)
        diagonal = (((equal & up) + up) ^ up) | equal | down
        right_up = down | ~(diagonal | up) & everything
        right_down = up & diagonal
        distance += bool(right_up & last) - bool(right_down & last)
        right_up, right_down = right_up << 1 | 1, right_down << 1
        up = (right_down | ~(equal | down | right_up)) & everything
        down = right_up & (equal | down) & everything
    return distance


@dataclass
class _FrameCounts:
    """Numbers of moments: all, those with a right answer, background, and background called an action."""

    all: int = 0
    right: int = 0
    background: int = 0
    called: int = 0


def _durations(predicted: Sequence[VideoSegments], true: Sequence[VideoSegments]) -> list[float]:
    return [
        theirs.duration_seconds
        or ours.duration_seconds
        or max((segment.end_seconds for segment in theirs.segments), default=0.0)
        for ours, theirs in zip(predicted, true, strict=True)
    ]


def _checked_rate(frames_per_second: float) -> float:
    if not 0 < frames_per_second < float("inf"):
        raise UsageError(f"frames per second must be a positive number, got {frames_per_second}")
    return frames_per_second


def _count_frames(
    predicted: _Segments, true: _Segments, durations: Sequence[float], rate: float
) -> _FrameCounts:
    if not sum(durations) * rate <= MAX_FRAMES:
        raise InvalidInputError(
            f"videos of {sum(durations):g} s at {rate:g} frames/s are more than {MAX_FRAMES} moments; "
            "give the right durations, or a lower rate"
        )
    # The last to be painted is seen: that of the highest score, of equal ones the latest.
    painted = predicted[
        np.lexsort((predicted.label, predicted.end, predicted.start, predicted.score, predicted.video))
    ]
    wanted = true[np.lexsort((true.video,))]
    counts = _FrameCounts()
    for number, duration in enumerate(durations):
        ours, theirs = (
            segments[slice(*np.searchsorted(segments.video, [number, number + 1]))]
            for segments in (painted, wanted)
        )
        _add_frames(counts, ours, theirs, duration, rate)
    return counts


def _add_frames(
    counts: _FrameCounts, predicted: _Segments, true: _Segments, duration: float, rate: float
) -> None:
    """Count the moments of one video; predictions are in the order in which they are painted."""
    total = max(0, int(np.ceil(duration * rate - 0.5)))
    answer = np.full(total, -1, np.int32)
    action, right = np.zeros(total, np.bool_), np.zeros(total, np.bool_)
    for label, first, stop in _frame_ranges(predicted, total, rate):
        answer[first:stop] = label
    for label, first, stop in _frame_ranges(true, total, rate):
        action[first:stop] = True
        right[first:stop] |= answer[first:stop] == label
    nothing = ~action
    counts.all += total
    counts.right += int((right | (nothing & (answer < 0))).sum())
    counts.background += int(nothing.sum())
    counts.called += int((nothing & (answer >= 0)).sum())


def _frame_ranges(segments: _Segments, total: int, rate: float) -> Iterator[tuple[int, int, int]]:
    """Yield (label, first frame, frame after the last) of each segment [start, end)."""
    first, stop = (
        np.clip(np.ceil(times * rate - 0.5), 0, total).astype(np.int64)
        for times in (segments.start, segments.end)
    )
    return zip(segments.label.tolist(), first.tolist(), stop.tolist(), strict=True)


def _share(count: int, total: int) -> float | None:
    return count / total if total else None
