"""Classes of a list, and held-out videos."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sfavivit.config import Sampling
from sfavivit.datasets import VideoItem
from sfavivit.errors import AnnotationError
from sfavivit.features.entry import FeatureKey
from tests.conftest import SIDE
from training.head.features import StoredVideo
from training.head.lists import head_classes, hold_out

SAMPLING = Sampling(12.5, SIDE, SIDE)


LABELS = st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 9)), min_size=1, max_size=40)


@given(LABELS, st.floats(0, 0.9), st.integers(0, 5))
def test_what_is_held_out(drawn: list[tuple[str, int]], share: float, seed: int) -> None:
    """Every class keeps a video, no video is on both sides, and no more than the share is taken."""
    videos = [
        StoredVideo(VideoItem(str(k), "", {"": label}), (FeatureKey(f"{content}{label}", "", SAMPLING),))
        for k, (label, content) in enumerate(drawn)
    ]
    training, held = hold_out(videos, share, seed)
    assert (training, held) == hold_out(videos, share, seed)
    assert sorted(video.item.id for video in training + held) == sorted(video.item.id for video in videos)
    assert {video.item.labels[""] for video in training} == {label for label, _ in drawn}
    assert not {video.keys for video in training} & {video.keys for video in held}
    assert len(held) <= round(share * len(videos))


def test_held_out_is_in_proportion() -> None:
    labels = ["common"] * 40 + ["rare"] * 10 + ["single"]
    videos = [
        StoredVideo(VideoItem(str(k), "", {"": label}), (FeatureKey(str(k), "", SAMPLING),))
        for k, label in enumerate(labels)
    ]
    held = [video.item.labels[""] for video in hold_out(videos, 0.2, 0)[1]]
    assert (held.count("common"), held.count("rare"), held.count("single")) == (8, 2, 0)
    assert {video.item.id for video in hold_out(videos, 0.2, 1)[1]} != {
        video.item.id for video in hold_out(videos, 0.2, 0)[1]
    }


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([{}], "no labelled videos"),
        ([{"": "a"}, {"": "a"}], "all labels are 'a'; a head needs two classes or more"),
        ([{"": "a"}, {"": 3}], "some labels are numbers and some are names"),
        ([{"": "a"}, {}, {"": "b"}], "'1' has no label; training needs one"),
        ([{"verb": "a", "noun": "b"}, {"verb": "c"}], "all labels of 'noun' are 'b'"),
        ([{"": "a"}, {"": "b\nc"}], r"the label 'b\nc'; a class is one line of text"),
        ([{"": 1}, {"": 10**9}], "a number below 100000"),
        ([{"": 1}, {"": -1}], "the label -1"),
    ],
)
def test_labels_that_make_no_head(labels: list[dict[str, str | int]], message: str) -> None:
    items = [VideoItem(str(k), "", each) for k, each in enumerate(labels)]
    with pytest.raises(AnnotationError) as caught:
        head_classes(items, "list.csv")
    assert message in str(caught.value)
    assert "list.csv" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_numbers_are_classes_up_to_the_largest() -> None:
    items = [VideoItem(str(k), "", {"verb": k, "noun": f"n{-k}"}) for k in (0, 3)]
    assert head_classes(items, "l") == {"verb": ["0", "1", "2", "3"], "noun": ["n-3", "n0"]}
