"""Clips of videos, the order of examples, broken videos, and class names."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import fsspec
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sfavivit.datasets import VideoItem
from sfavivit.errors import AnnotationError, UsageError, VideoNotFoundError
from tests.training.support import toy_recipe
from tests.video_files import encode, numbered, numbers_shown, sampling
from training.batches import PADDING, Place, Share, training_micro_batches, validation_micro_batches
from training.classes import Example, class_names, number_labels, write_names
from training.clips import ClipBatch, TrainingClips, ValidationClips, read_clip
from training.config import Recipe


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Numbered pictures at 25 a second: 100 in a.mp4, 10 in b.mp4, 60 in a file without a length."""
    folder = tmp_path_factory.mktemp("videos")
    encode(folder / "a.mp4", numbered(100), fps=25)
    encode(folder / "b.mp4", numbered(10, first=200), fps=25)
    encode(folder / "endless.y4m", numbered(60), fps=25, options=("-pix_fmt", "yuv420p"))
    (folder / "broken.mp4").write_bytes(b"no video at all" * 99)
    return folder


@pytest.mark.parametrize(
    ("at", "first"), [(0.0, 0), (0.5, 42), (1.0, 84)]
)  # 50 frames of every second picture, of which 8 are wanted
def test_a_clip_lies_where_it_is_asked_for(videos: Path, at: float, first: int) -> None:
    item = VideoItem("a", str(videos / "a.mp4"), {})
    assert numbers_shown(read_clip(item, sampling(12.5), 8, at=at)) == list(range(first, first + 16, 2))


def test_a_clip_of_a_video_at_a_url(videos: Path) -> None:
    files = fsspec.filesystem("memory")  # type: ignore[no-untyped-call]
    files.pipe("/clips/a.mp4", (videos / "a.mp4").read_bytes())
    for url in ("memory://clips/a.mp4", f"file://{videos}/a.mp4"):
        item = VideoItem("a", url, {})
        assert numbers_shown(read_clip(item, sampling(12.5), 8, at=0.5)) == list(range(42, 58, 2))
    with pytest.raises(VideoNotFoundError, match="'memory://clips/b.mp4': no such file"):
        read_clip(VideoItem("b", "memory://clips/b.mp4", {}), sampling(12.5), 8, at=0.5)


@pytest.mark.parametrize(("at", "first"), [(0.0, 25), (1.0, 59)])
def test_a_clip_lies_in_the_part_that_the_list_names(videos: Path, at: float, first: int) -> None:
    item = VideoItem("a", str(videos / "a.mp4"), {}, start_seconds=1.0, end_seconds=3.0)
    shown = numbers_shown(read_clip(item, sampling(12.5), 8, at=at))
    assert shown == list(range(first, first + 16, 2))


def test_a_short_video_is_repeated(videos: Path) -> None:
    item = VideoItem("b", str(videos / "b.mp4"), {})
    assert numbers_shown(read_clip(item, sampling(25), 24, at=0.7)) == [200 + k % 10 for k in range(24)]


def test_a_video_of_unknown_length_gives_its_start(videos: Path) -> None:
    item = VideoItem("c", str(videos / "endless.y4m"), {})
    shown = numbers_shown(read_clip(item, sampling(25), 8, at=1.0))
    assert shown in ([*range(8)], [*range(52, 60)]), "the end, where ffmpeg can tell"


def examples(videos: Path, *names: str) -> list[Example]:
    return [Example(VideoItem(name, str(videos / name), {}), {"": k}) for k, name in enumerate(names)]


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    return toy_recipe(tmp_path_factory.mktemp("recipe"), "regularisation.mixup=0.3")


def test_a_training_clip_depends_on_its_place_alone(videos: Path, recipe: Recipe) -> None:
    clips = [TrainingClips(examples(videos, "a.mp4", "b.mp4"), recipe, 4) for _ in range(2)]
    first, other = clips[0][Place(3, 0)], clips[0][Place(4, 0)]
    again = clips[1][Place(3, 0)]
    assert torch.equal(first.frames, again.frames) and first.share == again.share
    assert not torch.equal(first.frames, other.frames) and first.share != other.share
    assert first.frames.shape == (4, 32, 32, 3) and first.frames.dtype == torch.uint8
    assert (first.valid, first.labels, first.broken) == (True, {"": 0}, ())
    reseeded = TrainingClips(examples(videos, "a.mp4"), recipe.model_copy(update={"seed": 1}), 4)
    assert not torch.equal(reseeded[Place(3, 0)].frames, first.frames)


def test_a_broken_video_gives_its_place_to_the_next_and_is_named(videos: Path, recipe: Recipe) -> None:
    clips = TrainingClips(examples(videos, "b.mp4", "a.mp4", "broken.mp4", "absent.mp4"), recipe, 4)
    clip = clips[Place(0, 2)]
    assert (clip.valid, clip.labels) == (True, {"": 0})
    assert [broken.id for broken in clip.broken] == ["broken.mp4", "absent.mp4"]
    assert "broken.mp4" in clip.broken[0].reason and "\n" not in clip.broken[0].reason
    batch = ClipBatch([clip, clips[Place(0, 1)]])
    assert batch.frames.shape == (2, 4, 32, 32, 3)
    assert (batch.labels[""].tolist(), batch.valid.tolist(), len(batch.broken)) == ([0, 1], [True, True], 2)


def test_when_nothing_can_be_read_the_clip_says_so(videos: Path, recipe: Recipe) -> None:
    clips = TrainingClips(examples(videos, "broken.mp4", "absent.mp4"), recipe, 4)
    clip = clips[Place(0, 1)]
    assert not clip.valid
    assert [broken.id for broken in clip.broken] == ["absent.mp4", "broken.mp4"]


def test_a_part_after_the_end_of_a_video_counts_as_broken(videos: Path, recipe: Recipe) -> None:
    late = replace(examples(videos, "a.mp4")[0].item, start_seconds=60.0)
    clips = TrainingClips([Example(late, {"": 0}), *examples(videos, "b.mp4")], recipe, 4)
    assert [broken.id for broken in clips[Place(0, 0)].broken] == ["a.mp4"]


def test_validation_takes_the_middle_and_leaves_broken_videos_out(videos: Path) -> None:
    listed = examples(videos, "a.mp4", "broken.mp4")
    clips = ValidationClips(listed, sampling(12.5), 8)
    assert numbers_shown(clips[Place(0, 0)].frames.numpy()) == list(range(42, 58, 2))
    assert [clips[place].valid for place in (Place(0, 0), Place(0, 1), PADDING)] == [True, False, False]
    assert [broken.id for broken in clips[Place(0, 1)].broken] == ["broken.mp4"]
    assert not clips[PADDING].broken


SHARES = st.tuples(st.integers(1, 4), st.integers(1, 3), st.integers(1, 3), st.integers(1, 60))


@given(SHARES, st.integers(0, 9), st.integers(0, 5))
def test_all_processes_together_see_the_batches_of_one(
    shape: tuple[int, int, int, int], epoch: int, first_step: int
) -> None:
    part, processes, parts, count = shape
    size = part * processes * parts
    whole = list(training_micro_batches(count, Share(size), seed=7, epoch=epoch))
    assert len(whole) == count // size
    seen = [place.example for batch in whole for place in batch]
    assert len(set(seen)) == len(seen) and set(seen) <= set(range(count))
    shared = [
        list(
            training_micro_batches(
                count, Share(size, processes, process, parts), seed=7, epoch=epoch, first_step=first_step
            )
        )
        for process in range(processes)
    ]
    rebuilt = [
        [place for mine in shared for part_of in mine[step * parts : (step + 1) * parts] for place in part_of]
        for step in range(len(shared[0]) // parts)
    ]
    assert rebuilt == whole[first_step:]


def test_the_order_is_another_in_every_epoch_and_of_every_seed() -> None:
    orders = [
        tuple(place.example for place in next(training_micro_batches(50, Share(50), seed=seed, epoch=epoch)))
        for seed, epoch in ((0, 0), (0, 1), (1, 0))
    ]
    assert len(set(orders)) == 3
    assert all(sorted(order) == list(range(50)) for order in orders)


@given(SHARES)
def test_validation_sees_every_example_once_in_as_many_parts(shape: tuple[int, int, int, int]) -> None:
    part, processes, parts, count = shape
    size = part * processes * parts
    shared = [
        list(validation_micro_batches(count, Share(size, processes, p, parts))) for p in range(processes)
    ]
    assert len({len(mine) for mine in shared}) == 1, "collective calls need company"
    seen = [place.example for mine in shared for places in mine for place in places if place != PADDING]
    assert sorted(seen) == list(range(count))
    assert all(len(places) == part for mine in shared for places in mine)


def test_a_batch_that_cannot_be_shared_is_refused() -> None:
    with pytest.raises(UsageError, match="batch size 10 cannot be shared by 2 processes .* 2 parts"):
        Share(10, processes=2, micro_batches=2)


def items(*labels: dict[str, str | int]) -> list[VideoItem]:
    return [VideoItem(f"v{k}", f"v{k}.mp4", each) for k, each in enumerate(labels)]


def test_names_become_numbers_in_sorted_order(tmp_path: Path) -> None:
    listed = items({"": "run"}, {"": "eat"}, {"": "run"})
    names = class_names(listed, {"": 2}, "list.csv")
    assert names == {"": ["eat", "run"]}
    assert [example.labels for example in number_labels(listed, names, "list.csv")] == [
        {"": 1},
        {"": 0},
        {"": 1},
    ]
    write_names(names | {"verb": ["a"]}, tmp_path)
    assert (tmp_path / "labels.txt").read_text() == "eat\nrun\n"
    assert (tmp_path / "labels_verb.txt").read_text() == "a\n"


def test_numbers_of_classes_stay_as_they_are() -> None:
    listed = items({"verb": 3, "noun": 0}, {"verb": 0, "noun": 9})
    names = class_names(listed, {"verb": 4, "noun": 10}, "epic.csv")
    assert [example.labels for example in number_labels(listed, names, "epic.csv")] == [
        item.labels for item in listed
    ]


@pytest.mark.parametrize(
    ("listed", "outputs", "message"),
    [
        (items(), {"": 0}, "lists no videos"),
        (items({}), {"": 1}, "'v0' has no label; training needs one"),
        (items({"verb": 1}), {"verb": 2, "noun": 2}, "'v0' has no label of 'noun'"),
        (items({"": "a"}), {"": 2}, "names 1 classes, the recipe has 2"),
        (items({"": 2}), {"": 2}, "the label 2, which is none of the 2 classes"),
        (items({"": -1}), {"": 2}, "the label -1"),
    ],
)
def test_a_list_that_does_not_fit_is_one_line(
    listed: list[VideoItem], outputs: dict[str, int], message: str
) -> None:
    with pytest.raises(AnnotationError, match=message) as caught:
        number_labels(listed, class_names(listed, outputs, "list.csv"), "list.csv")
    assert "list.csv" in str(caught.value) and "\n" not in str(caught.value)


def test_a_label_of_the_validation_list_must_be_known() -> None:
    with pytest.raises(AnnotationError, match="'fly', which is none of the 2 classes"):
        number_labels(items({"": "fly"}), {"": ["eat", "run"]}, "validation.csv")
