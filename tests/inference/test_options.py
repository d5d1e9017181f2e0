"""Options are checked against the model; results of one head are read without naming it."""

from __future__ import annotations

from pathlib import Path

import pytest

from sfavivit import ClassifyOptions, InvalidInputError, Recognizer, UsageError, Views
from sfavivit.config import CENTER
from sfavivit.features.reader import FeatureReader
from sfavivit.inference.streaming import Session
from tests.conftest import noise_video, random_frames


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return noise_video(tmp_path_factory.mktemp("video") / "video.mp4", 75)


def test_strides_in_tubelets_of_every_head_asked_for(recognizer: Recognizer) -> None:
    """``default`` has windows of 8 tubelets, ``long`` of 12; a tubelet is 0.16 s."""
    manifest = recognizer.manifest
    assert ClassifyOptions().resolve(manifest) == {"default": 1, "long": 1}
    assert ClassifyOptions(("long",), stride_seconds=0.5).resolve(manifest) == {"long": 3}
    assert ClassifyOptions(("long", "default", "long")).resolve(manifest) == {"long": 1, "default": 1}


def test_views_say_which_crops_are_needed() -> None:
    assert ClassifyOptions().crops == CENTER
    assert ClassifyOptions(views=Views(2, 1)).crops == CENTER
    assert len(ClassifyOptions(views=Views(2, 3)).crops) == 3


def test_a_reader_of_other_crops_is_refused(recognizer: Recognizer, video: Path) -> None:
    """One crop after another would be taken for a longer video."""
    for made, asked in ((3, None), (1, 3), (3, 1)):
        crops = ClassifyOptions(views=Views(2, made)).crops
        options = ClassifyOptions(views=Views(2, asked) if asked else None)
        with (
            FeatureReader(recognizer.model, video, crops=crops) as reader,
            pytest.raises(UsageError, match="crops=options.crops"),
        ):
            recognizer.recognize(reader, options)


def test_a_stream_has_no_views(recognizer: Recognizer) -> None:
    with pytest.raises(UsageError, match="views"):
        list(recognizer.stream([random_frames(16)], ClassifyOptions(views=Views(2, 1))))


def test_a_number_of_frames_must_fit_the_tubelets(recognizer: Recognizer) -> None:
    session = Session(recognizer.model)
    for frames in (-1, 1):
        with pytest.raises(InvalidInputError, match=f"{frames} frames do not make 0 tubelets"):
            session.set_frame_count(frames)


def test_one_head_with_one_output_needs_no_name(recognizer: Recognizer, video: Path) -> None:
    answer = recognizer.classify(video, ClassifyOptions(("default",)))
    result = answer.heads["default"][""]
    assert answer.labels is result.labels
    assert answer.timeline is result.timeline
    assert answer.only_result is result


@pytest.mark.parametrize("heads", [(), ("long",)])
def test_several_results_must_be_named(recognizer: Recognizer, video: Path, heads: tuple[str, ...]) -> None:
    answer = recognizer.classify(video, ClassifyOptions(heads))
    for read in (lambda: answer.labels, lambda: answer.timeline):
        with pytest.raises(UsageError, match=r"\('long', 'verb'\).*answer\.heads\[head\]\[output\]"):
            read()
