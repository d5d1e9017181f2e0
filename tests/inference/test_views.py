"""Multi-view testing: the mean of clips and crops, each tubelet of a crop computed once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sfavivit import Recognizer, Repository, VideoReader
from sfavivit.config import Crop
from sfavivit.errors import UsageError
from sfavivit.inference.options import CROPS, ClassifyOptions, Views
from sfavivit.inference.windows import PADDING, view_windows
from tests import conftest
from tests.conftest import WINDOW_FRAMES, noise_video
from tests.counting_engine import CountingEngine

WINDOW = WINDOW_FRAMES // 2


@pytest.fixture(scope="module")
def wide_video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return conftest.wide_video(tmp_path_factory.mktemp("video") / "wide.mp4", 150)


@given(st.integers(1, 300), st.integers(1, 64), st.integers(1, 20))
def test_clips_are_spread_over_the_video(total: int, length: int, clips: int) -> None:
    windows = view_windows(total, length, clips)
    assert len(windows) == clips
    assert all(0 <= start < stop <= total and stop - start == min(length, total) for start, stop in windows)
    assert windows == sorted(windows)
    if clips > 1:
        assert windows[0].start == 0
        assert windows[-1].stop == total
        gaps = np.diff([window.start for window in windows])
        assert gaps.max() - gaps.min() <= 1


def test_crops_are_squares_of_one_decoding(repository: Path, wide_video: Path) -> None:
    sampling = Repository.load(repository).manifest.sampling
    crops = (*CROPS[3], Crop(along=0.25, flip=True))
    together = np.concatenate(list(VideoReader(wide_video, sampling, chunk_frames=7, crops=crops)))
    for k, crop in enumerate(crops):
        alone = np.concatenate(list(VideoReader(wide_video, sampling, chunk_frames=7, crops=[crop])))
        assert np.array_equal(together[:, k], alone)
    plain = np.concatenate(list(VideoReader(wide_video, sampling, chunk_frames=7)))
    assert np.array_equal(together[:, 1], plain)
    assert not np.array_equal(together[:, 0], together[:, 2])
    mirrored = np.concatenate(list(VideoReader(wide_video, sampling, chunk_frames=7, crops=[Crop(0.25)])))
    assert np.array_equal(together[:, 3], mirrored[:, :, ::-1])


def test_views_are_the_mean_of_each_on_its_own(recognizer: Recognizer, wide_video: Path) -> None:
    answer = recognizer.classify(wide_video, ClassifyOptions(views=Views(4, 3))).heads["default"][""]
    logits = []
    for crop in CROPS[3]:
        reader = VideoReader(wide_video, recognizer.manifest.sampling, chunk_frames=16, crops=[crop])
        features = recognizer.features(np.concatenate(list(reader)))
        for start, stop in view_windows(len(features), WINDOW, 4):
            logits.append(recognizer.logits(features[start:stop])[""])
    assert len({tuple(row) for row in logits}) == 12
    assert np.allclose(answer.logits, np.mean(logits, axis=0), atol=1e-6)
    assert answer.timeline == ()


def test_a_short_video_is_one_clip(recognizer: Recognizer, tmp_path: Path) -> None:
    video = noise_video(tmp_path / "short.mp4", 25)
    answer = recognizer.classify(video, ClassifyOptions(views=Views(4, 1))).heads["default"][""]
    reader = VideoReader(video, recognizer.manifest.sampling, chunk_frames=16)
    features = recognizer.features(np.concatenate(list(reader)))
    policy = PADDING[recognizer.manifest.head("default").padding]
    assert np.array_equal(answer.logits, recognizer.logits(policy(features, WINDOW))[""])


def test_overlapping_clips_share_their_tubelets(
    counting: tuple[Recognizer, CountingEngine], wide_video: Path
) -> None:
    recognizer, engine = counting
    recognizer.classify(wide_video, ClassifyOptions(views=Views(10, 3)))
    assert len(engine.frames) == 3 * -(-38 // 4)  # 75 frames are 38 tubelets; 10 clips are 10 windows of them
    assert engine.temporal_calls == 3 * 10 * len(recognizer.heads)


@pytest.mark.parametrize("text", ["4", "4x2", "0x3", "x3", "4x3x1", "-1x3", "1000x3", "4X3 "])
def test_views_that_cannot_be(text: str) -> None:
    with pytest.raises(UsageError, match="views"):
        Views.parse(text)


def test_views_by_their_name() -> None:
    assert Views.parse("4x3") == Views(4, 3)
    assert str(Views.parse("10x1")) == "10x1"
    with pytest.raises(UsageError, match="0 to 1"):
        Crop(along=1.5)
