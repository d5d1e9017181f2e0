"""Training and validation videos of one list or two."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sfavivit.datasets import read_splits
from sfavivit.datasets.item import VideoItem
from sfavivit.errors import AnnotationError
from training.splits import read_lists

# As lists write them.
NAMES = {"train": ["train", "Training"], "val": ["val", "validation", "validate"], "test": ["test", " TEST "]}


def listed(folder: Path, name: str, *splits: str) -> str:
    """A list of videos 0, 1, ... of these splits."""
    rows = [f"{number}.mp4,{split},a" for number, split in enumerate(splits)]
    path = folder / name
    path.write_text("\n".join(["video,split,label", *rows]))
    return str(path)


def plain(folder: Path, name: str, videos: int) -> str:
    path = folder / name
    path.write_text("\n".join(["video,label", *(f"p{number}.mp4,a" for number in range(videos))]))
    return str(path)


@given(drawn=st.lists(st.sampled_from([(split, name) for split in NAMES for name in NAMES[split]])))
def test_one_list_with_splits(drawn: list[tuple[str, str]], tmp_path_factory: pytest.TempPathFactory) -> None:
    drawn = [("train", "train"), *drawn]
    source = listed(tmp_path_factory.mktemp("lists"), "l.csv", *(name for _, name in drawn))
    training, validation = read_lists(source)
    expected = {
        wanted: [f"{k}.mp4" for k, (split, _) in enumerate(drawn) if split == wanted] for wanted in NAMES
    }
    assert [item.id for item in training] == expected["train"]
    assert [item.id for item in validation or ()] == expected["val"]
    assert (validation is None) == (not expected["val"])


def ids(items: object) -> list[str]:
    assert isinstance(items, list)
    return [item.id for item in items]


def test_two_lists(tmp_path: Path) -> None:
    train, whole = listed(tmp_path, "train.csv", "train", "test"), plain(tmp_path, "whole.csv", 2)
    both, test = listed(tmp_path, "both.csv", "train", "val", "test"), listed(tmp_path, "test.csv", "test")
    assert [ids(each) for each in read_lists(train, both)] == [["0.mp4"], ["1.mp4"]]
    assert [ids(each) for each in read_lists(whole, test)] == [["p0.mp4", "p1.mp4"], ["0.mp4"]]
    assert [ids(each) for each in read_lists(train, train)] == [["0.mp4"], ["1.mp4"]], "asked for by name"
    assert [ids(each) for each in read_lists(both, both)] == [["0.mp4"], ["1.mp4"]]
    assert [ids(each) for each in read_lists(whole, whole)] == [["p0.mp4", "p1.mp4"]] * 2
    assert read_lists(whole).validation is None


@pytest.mark.parametrize(
    ("lists", "message"),
    [
        (("val",), "has no videos of split 'train', only of 'val'"),
        (("train", "trian"), "'1.mp4' is of split 'trian'; write train, validation or test"),
        (("train", ""), "'1.mp4' is of split ''"),
        (
            ("train", "val", "/", "val"),
            "1 videos of split validation, and '.*second.csv' is given to measure on",
        ),
        (("train", "/", "train"), "second.csv' has no videos of split 'val', only of 'train'"),
        (("train", "/", "dev"), "second.csv': '0.mp4' is of split 'dev'"),
    ],
)
def test_contradictions_are_one_line(tmp_path: Path, lists: tuple[str, ...], message: str) -> None:
    end = lists.index("/") if "/" in lists else len(lists)
    second = listed(tmp_path, "second.csv", *lists[end + 1 :]) if end < len(lists) else None
    with pytest.raises(AnnotationError, match=message) as caught:
        read_lists(listed(tmp_path, "first.csv", *lists[:end]), second)
    assert "\n" not in str(caught.value)


def test_a_video_is_in_one_split(tmp_path: Path) -> None:
    source = tmp_path / "l.csv"
    source.write_text("video,split\na.mp4,train\na.mp4,test\n")
    with pytest.raises(AnnotationError, match="line 3 has the id of line 2, 'a.mp4'"):
        read_lists(str(source))
    source.write_text("video,split,start_seconds,end_seconds\na.mp4,train,0,5\na.mp4,val,5,9\n")
    assert read_splits(str(source), root=Path("/r")) == {
        "train": [VideoItem("a.mp4@0-5", "/r/a.mp4", {}, 0.0, 5.0)],
        "val": [VideoItem("a.mp4@5-9", "/r/a.mp4", {}, 5.0, 9.0)],
    }
