"""Metrics of localisation: worked by hand, and against definitions written out plainly."""

from __future__ import annotations

from fractions import Fraction
from functools import lru_cache
from random import Random

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sfavivit.errors import InvalidInputError, UsageError
from sfavivit.evaluation.localisation import (
    ACTIVITYNET_THRESHOLDS,
    OVERLAPS,
    THRESHOLDS,
    THUMOS_THRESHOLDS,
    LabelledSegment,
    Localisation,
    VideoSegments,
    evaluate_localisation,
    levenshtein,
)

Video = list[tuple[float, float, str, float]]
Videos = dict[str, Video]


def videos_of(plain: Videos, duration: float | None = None) -> dict[str, VideoSegments]:
    return {
        name: VideoSegments(tuple(LabelledSegment(*one) for one in segments), duration)
        for name, segments in plain.items()
    }


def evaluated(
    predicted: Videos, true: Videos, duration: float | None = None, **options: float
) -> Localisation:
    return evaluate_localisation(videos_of(predicted), videos_of(true, duration), **options)


def test_two_classes_by_hand() -> None:
    """Truth a [0, 10), b [10, 20), a [30, 40); 40 s, of which 10 are background."""
    true: Videos = {"v": [(0, 10, "a", 1), (10, 20, "b", 1), (30, 40, "a", 1)]}
    predicted: Videos = {
        "v": [
            (0, 10, "a", 0.9),  # tIoU 1
            (1, 10, "a", 0.8),  # the same again: a false positive, and the best on no other
            (32, 40, "a", 0.7),  # tIoU 0.8
            (14, 24, "b", 0.6),  # 6 of 14 s: tIoU 0.43
        ]
    }
    found = evaluated(predicted, true)
    # a at 0.5: right, wrong, right: precision 1 at recall 1/2, 2/3 at recall 1.
    ap = dict(zip(THRESHOLDS, found.classes["a"].average_precision, strict=True))
    assert ap[0.5] == ap[0.8] == pytest.approx((1 + 2 / 3) / 2)
    assert ap[0.85] == ap[0.95] == pytest.approx(1 / 2)
    assert found.classes["b"].average_precision[:3] == (1.0, 1.0, 0.0)
    assert found.mean_average_precision(0.3) == pytest.approx((5 / 6 + 1) / 2)
    assert found.mean_average_precision(*THUMOS_THRESHOLDS) == pytest.approx((5 / 6 + 2 / 5) / 2)
    assert found.mean_average_precision(*ACTIVITYNET_THRESHOLDS) == pytest.approx((7 * 5 / 6 + 3 / 2) / 20)
    # 3 of 4 predictions go with a true segment of their own at 10% and 25%, two at 50%, of 3.
    assert found.f1 == pytest.approx((6 / 7, 6 / 7, 4 / 7))
    assert found.edit == pytest.approx(1 - 1 / 4)  # a a b a for a b a
    # Wrong: [10, 14) and [30, 32) missed, [20, 24) called b.
    assert found.frame_accuracy == pytest.approx(30 / 40)
    assert found.background_as_action == pytest.approx(4 / 10)


def test_classes_that_one_side_lacks() -> None:
    """The mean is over the classes of the truth; other labels count against the answer as a whole."""
    found = evaluated({"v": [(0, 5, "a", 1), (0, 5, "other", 1)]}, {"v": [(0, 5, "a", 1), (5, 10, "b", 1)]})
    assert found.mean_average_precision(0.5) == 0.5
    assert found.unknown_labels == {"other": 1}
    assert found.f1[0] == 0.5
    assert found.classes["b"].predicted_segments == 0


def test_background_only() -> None:
    found = evaluated({"v": [(2, 4, "a", 1)]}, {"v": []}, duration=10)
    assert found.mean_average_precision(0.5) is None
    assert (found.frame_accuracy, found.background_as_action) == (0.8, 0.2)
    assert evaluated({}, {"v": []}, duration=10).edit == 1
    nothing = evaluated({}, {})
    assert (nothing.edit, nothing.frame_accuracy, nothing.f1) == (None, None, (None, None, None))


def test_low_scores_count_in_the_map_alone() -> None:
    true: Videos = {"v": [(0, 5, "a", 1)]}
    predicted: Videos = {"v": [(0, 5, "a", 0.9), (5, 9, "a", 0.2)]}
    found = evaluated(predicted, true, 10, min_score=0.5)
    assert (found.f1[0], found.edit, found.frame_accuracy) == (1, 1, 1)
    assert found.classes["a"].predicted_segments == 2


@pytest.mark.parametrize(("second", "precision"), [((0, 2), 0.5), ((2, 4), 1)])
def test_of_equal_overlaps_the_earlier_one_is_taken(second: tuple[float, float], precision: float) -> None:
    true: Videos = {"v": [(2, 4, "a", 1), (0, 2, "a", 1)]}
    found = evaluated({"v": [(0, 4, "a", 1), (*second, "a", 0.5)]}, true)
    assert found.mean_average_precision(0.5) == precision
    assert evaluated({"v": [(0, 4, "a", 1)]}, true).f1[2] == pytest.approx(2 / 3), "half is enough"


def test_every_true_segment_needs_a_detection_of_its_own() -> None:
    true: Videos = {"v": [(0, 5, "a", 1)] * 2}
    once, twice = (evaluated({"v": [(0, 5, "a", 1)] * n}, true) for n in (1, 2))
    assert (once.mean_average_precision(0.5), twice.mean_average_precision(0.5)) == (0.5, 1)


@pytest.mark.parametrize(
    "segment",
    [
        (5, 4, "a", 1),
        (0, float("nan"), "a", 1),
        (0, float("inf"), "a", 1),
        (-1e300, 1e300, "a", 1),
        (0, 1, "a", float("nan")),
    ],
)
def test_impossible_segments(segment: tuple[float, float, str, float]) -> None:
    with pytest.raises(InvalidInputError, match=r"'v' .*finite"):
        evaluated({"v": [segment]}, {"v": []})


@pytest.mark.parametrize(("duration", "rate"), [(1e300, 10), (float("nan"), 10), (10, 0), (10, float("nan"))])
def test_impossible_times(duration: float, rate: float) -> None:
    with pytest.raises(InvalidInputError if rate == 10 else UsageError, match="moments|positive"):
        evaluated({}, {"v": []}, duration, frames_per_second=rate)


# The definitions again, a segment at a time, in exact arithmetic.


def exact_iou(one: tuple[float, ...], other: tuple[float, ...]) -> Fraction:
    cells = [set(range(int(start), int(end))) for start, end, *_ in (one, other)]
    union = cells[0] | cells[1]
    return Fraction(len(cells[0] & cells[1]), len(union)) if union else Fraction(0)


def plain_average_precision(predicted: Videos, true: Videos, label: str, threshold: str) -> float:
    ranked = [
        (-score, name, s, e) for name in true for s, e, of, score in predicted.get(name, []) if of == label
    ]
    free = {
        name: sorted((s, e) for s, e, of, _ in segments if of == label) for name, segments in true.items()
    }
    positives = sum(map(len, free.values()))
    points: list[tuple[Fraction, Fraction]] = []  # recall, precision
    right = 0
    for rank, (_, name, start, end) in enumerate(sorted(ranked), 1):
        found = max(free[name], key=lambda one: exact_iou((start, end), one), default=None)
        if found and exact_iou((start, end), found) >= Fraction(threshold):
            free[name].remove(found)
            right += 1
        points.append((Fraction(right, positives), Fraction(right, rank)))
    levels = [Fraction(level, positives) for level in range(1, positives + 1)]
    best = [
        max([precision for recall, precision in points if recall >= level], default=0) for level in levels
    ]
    return float(sum(best, Fraction(0)) / positives)


def plain_f1(predicted: Videos, true: Videos, overlap: float) -> float:
    right = 0
    for name, segments in true.items():
        taken = set()
        for start, end, label, _ in predicted.get(name, []):
            same = sorted(one[:2] for one in segments if one[2] == label)
            ious = [exact_iou((start, end), one) for one in same]
            if ious and max(ious) >= Fraction(str(overlap)):
                taken.add((label, ious.index(max(ious))))
        right += len(taken)
    count = sum(len(predicted.get(name, [])) for name in true)
    wrong, missed = count - right, sum(map(len, true.values())) - right
    return right / (right + (wrong + missed) / 2)


def plain_distance(one: tuple[str, ...], other: tuple[str, ...]) -> int:
    @lru_cache(None)
    def distance(i: int, j: int) -> int:
        if not i or not j:
            return i + j
        replaced = distance(i - 1, j - 1) + (one[i - 1] != other[j - 1])
        return min(replaced, distance(i - 1, j) + 1, distance(i, j - 1) + 1)

    return distance(len(one), len(other))


def plain_frames(predicted: Videos, true: Videos) -> tuple[list[bool], list[bool]]:
    """Whether each second has a right answer; whether each second of background has none."""
    right, quiet = [], []
    for name, segments in true.items():
        for second in range(int(max((end for _, end, *_ in segments), default=0))):
            wanted = {label for start, end, label, _ in segments if start <= second < end}
            said = [
                (score, start, end, label)
                for start, end, label, score in predicted.get(name, [])
                if start <= second < end
            ]
            answer = max(said)[3] if said else None
            right.append(answer in wanted if wanted else answer is None)
            if not wanted:
                quiet.append(answer is None)
    return right, quiet


@st.composite
def many_videos(draw: st.DrawFn, labels: str) -> Videos:
    """Segments on a grid of seconds, with few scores, so that there are ties of every kind."""
    times = st.tuples(st.integers(0, 5), st.integers(0, 4)).map(lambda pair: (pair[0], sum(pair)))
    one = st.builds(
        lambda t, label, score: (float(t[0]), float(t[1]), label, score / 2),
        times,
        st.sampled_from(labels),
        st.integers(0, 2),
    )
    some = st.lists(one, max_size=5)
    return draw(st.fixed_dictionaries({"u": some, "v": some}, optional={"w": some}))


@given(many_videos("abx"), many_videos("ab"))
@example({"u": [(0, 1, "a", 1), (0, 1, "b", 1)]}, {"u": [(0, 1, "b", 1)]})
def test_the_definitions_written_out_give_the_same(predicted: Videos, true: Videos) -> None:
    found = evaluated(predicted, true, frames_per_second=1)
    for label, per_class in found.classes.items():
        expected = [
            plain_average_precision(predicted, true, label, str(threshold)) for threshold in THRESHOLDS
        ]
        assert per_class.average_precision == pytest.approx(expected)
    if any(true.values()) or any(predicted.get(name) for name in true):
        assert found.f1 == pytest.approx([plain_f1(predicted, true, overlap) for overlap in OVERLAPS])
    orders = [
        [tuple(one[2] for one in sorted(videos.get(name, []), key=lambda one: one[:3])) for name in true]
        for videos in (predicted, true)
    ]
    scores = [1 - plain_distance(*pair) / max(1, *map(len, pair)) for pair in zip(*orders, strict=True)]
    assert found.edit == pytest.approx(sum(scores) / len(scores))
    right, quiet = plain_frames(predicted, true)
    assert found.frame_accuracy == (pytest.approx(sum(right) / len(right)) if right else None)
    assert found.background_as_action == (pytest.approx(1 - sum(quiet) / len(quiet)) if quiet else None)


@given(many_videos("abx"), many_videos("ab"), st.randoms(use_true_random=False))
def test_the_order_of_segments_and_videos_does_not_matter(
    predicted: Videos, true: Videos, random: Random
) -> None:
    def shuffled(videos: Videos) -> Videos:
        names = random.sample(sorted(videos), len(videos))
        return {name: random.sample(videos[name], len(videos[name])) for name in names}

    assert evaluated(shuffled(predicted), shuffled(true)) == evaluated(predicted, true)


@given(st.lists(st.sampled_from("abc"), max_size=9), st.lists(st.sampled_from("abc"), max_size=9))
def test_the_distance_of_sequences(one: list[str], other: list[str]) -> None:
    numbers = [[ord(label) for label in labels] for labels in (one, other)]
    assert levenshtein(*numbers) == plain_distance(tuple(one), tuple(other))


def test_a_hundred_thousand_segments_of_one_video() -> None:
    """They take seconds: there is neither a table of all pairs nor a loop over them."""
    true = tuple(LabelledSegment(t, t + 6, "abcd"[t % 4]) for t in range(0, 3000, 7))
    draw = np.random.default_rng(0)
    some = tuple(
        LabelledSegment(start, start + 6, "abcd"[k % 4], score)
        for k, (start, score) in enumerate(draw.uniform((0, 0), (2990, 1), (100_000, 2)).tolist())
    )
    found = evaluate_localisation({"v": VideoSegments(some)}, {"v": VideoSegments(true)})
    assert 0 < (found.mean_average_precision(0.5) or 0) < 1
