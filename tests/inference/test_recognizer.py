"""The pipeline: each tubelet once, the same numbers however frames arrive, real videos, wrong input."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from sfavivit import Limits, Recognizer, Repository, Timings, VideoReader, WindowScores
from sfavivit.engines import load_engine
from sfavivit.errors import (
    EngineError,
    HeadNotFoundError,
    InvalidInputError,
    TruncatedVideoError,
    UsageError,
    VideoLimitError,
)
from sfavivit.features.extractor import FeatureExtractor
from sfavivit.inference.options import ClassifyOptions
from sfavivit.inference.results import Recognition, softmax
from sfavivit.inference.streaming import Session
from sfavivit.inference.windows import PADDING, all_windows
from sfavivit.types import Features, Frames
from tests.conftest import SIDE, WINDOW_FRAMES, build_model, noise_video, random_frames
from tests.counting_engine import CountingEngine

TUBELET_SECONDS = 2 / 12.5


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """6 s at 25 fps: 75 frames at 12.5 fps, not a whole number of tubelets."""
    return noise_video(tmp_path_factory.mktemp("video") / "six seconds.mp4", 150, seed=3)


def portions(frames: Frames, sizes: list[int]) -> Iterator[Frames]:
    start = 0
    for size in sizes:
        yield frames[start : start + size]
        start += size
    yield frames[start:]


@pytest.mark.parametrize("stride_seconds", [TUBELET_SECONDS, 3 * TUBELET_SECONDS, None])
def test_each_tubelet_goes_through_the_spatial_engine_once(
    counting: tuple[Recognizer, CountingEngine], stride_seconds: float | None
) -> None:
    recognizer, engine = counting
    frames = random_frames(75)
    list(recognizer.stream([frames], ClassifyOptions(stride_seconds=stride_seconds)))
    seen = np.concatenate(engine.frames)
    assert np.array_equal(seen[:75], frames)
    # 38 tubelets in calls of exactly 4: ten calls, the last one filled up with the last frame.
    assert [len(call) for call in engine.frames] == [8] * 10
    assert (seen[75:] == frames[-1]).all()


def test_every_head_shares_the_one_spatial_pass(counting: tuple[Recognizer, CountingEngine]) -> None:
    recognizer, engine = counting
    list(recognizer.stream([random_frames(64)], ClassifyOptions(heads=("default",))))
    one_head = len(engine.frames)
    list(recognizer.stream([random_frames(64)], ClassifyOptions(heads=("default", "long"))))
    assert len(engine.frames) == 2 * one_head


def naive(recognizer: Recognizer, frames: Frames, head: str, stride: int) -> list[NDArray[np.float32]]:
    """Logits of every window, recomputed window by window with the PyTorch engine from its own frames."""
    entry = recognizer.manifest.head(head)
    padded = frames[np.minimum(np.arange(-(-len(frames) // 2) * 2), len(frames) - 1)]
    torch_engine = load_engine("torch", cast(Repository, recognizer.model.catalog))
    out = []
    for start, stop in all_windows(len(padded) // 2, entry.dimensions.max_tubelets, stride):
        features = torch_engine.spatial(padded[None, start * 2 : stop * 2])[0]
        if len(features) < entry.dimensions.max_tubelets:
            features = PADDING[entry.padding](features, entry.dimensions.max_tubelets)
        out.append(np.concatenate(list(torch_engine.temporal(head, features[None]).values()), axis=1)[0])
    return out


@pytest.mark.parametrize("count", [1, 2, 7, 16, 17, 24, 61])
@pytest.mark.parametrize("head", ["default", "long"])
def test_windows_equal_recomputing_each_one_in_pytorch(recognizer: Recognizer, head: str, count: int) -> None:
    frames = random_frames(count, seed=count)
    options = ClassifyOptions(heads=(head,), stride_seconds=2 * TUBELET_SECONDS)
    windows = list(recognizer.stream([frames], options))
    found = [np.concatenate(list(window.logits.values())) for window in windows]
    np.testing.assert_allclose(found, naive(recognizer, frames, head, stride=2), atol=1e-4)


@settings(max_examples=40)
@given(count=st.integers(1, 70), sizes=st.lists(st.integers(0, 40), max_size=12))
def test_chunking_never_changes_a_bit(recognizer: Recognizer, count: int, sizes: list[int]) -> None:
    frames = random_frames(count)
    whole = list(recognizer.stream([frames]))
    split = list(recognizer.stream(portions(frames, sizes)))
    assert describe(split) == describe(whole)


def describe(windows: list[WindowScores]) -> list[Any]:
    """Everything in them, logits as bytes."""
    return [vars(w) | {"logits": [v.tobytes() for v in w.logits.values()]} for w in windows]


def test_stream_and_classify_agree_to_the_last_bit(recognizer: Recognizer, video: Path) -> None:
    answer = recognizer.classify(video)
    with VideoReader(video, recognizer.manifest.sampling, chunk_frames=11) as reader:
        windows = list(recognizer.stream(reader))
    for head, outputs in answer.heads.items():
        for output, result in outputs.items():
            logits = [window.logits[output].astype(np.float64) for window in windows if window.head == head]
            assert np.mean(logits, axis=0).astype(np.float32).tobytes() == result.logits.tobytes()
    assert answer.frames_used == 75
    assert answer.duration_seconds == 6


def test_bytes_and_path_agree(recognizer: Recognizer, video: Path) -> None:
    by_path, by_bytes = recognizer.classify(video), recognizer.classify(video.read_bytes())
    assert by_bytes.to_json()["heads"] == by_path.to_json()["heads"]
    assert (by_path.video, by_bytes.video) == (str(video), "<bytes>")


def test_labels_and_timeline_follow_from_the_logits(recognizer: Recognizer, video: Path) -> None:
    answer = recognizer.classify(video, ClassifyOptions(heads=("long",), top_k=2))
    assert list(answer.heads) == ["long"]
    for output, result in answer.heads["long"].items():
        labels = recognizer.model.labels["long"][output]
        probabilities = softmax(result.logits)
        assert [score.label for score in result.labels] == [labels[i] for i in np.argsort(-probabilities)[:2]]
        assert result.labels[0].confidence == pytest.approx(probabilities.max(), abs=1e-6)
        assert (result.timeline[0].start_seconds, result.timeline[-1].end_seconds) == (0, 6)
        assert all(0 < segment.confidence <= 1 for segment in result.timeline)


def test_timings_add_up(recognizer: Recognizer, video: Path) -> None:
    timings = recognizer.classify(video).timings
    assert 0 < timings.spatial_seconds + timings.temporal_seconds < timings.total_seconds
    assert 0 < timings.decode_seconds < timings.total_seconds


def test_progress_reports_seconds_and_duration(recognizer: Recognizer, video: Path) -> None:
    seen: list[tuple[float, float | None]] = []
    recognizer.classify(video, on_progress=lambda done, total: seen.append((done, total)))
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    done, total = seen[-1]
    assert done == 6
    assert total == pytest.approx(6)


def test_a_damaged_file_answers_with_a_warning(recognizer: Recognizer, tmp_path: Path) -> None:
    whole = noise_video(tmp_path / "whole.mkv", 200, seed=5)
    part = tmp_path / "part.mkv"
    part.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    answer = recognizer.classify(part)
    assert 0 < answer.frames_used < 100
    assert answer.warning
    assert answer.to_json()["warning"] == answer.warning


def test_errors_of_the_decoder_reach_the_caller(recognizer: Recognizer, video: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(video.read_bytes()[:2000])
    with pytest.raises(TruncatedVideoError, match=r"cut\.mp4"):
        recognizer.classify(cut)
    with pytest.raises(VideoLimitError):
        recognizer.classify(video, limits=Limits(duration_seconds=2))


def test_an_engine_that_fails_stops_the_decoder(repository: Path, video: Path) -> None:
    class Failing(CountingEngine):
        def spatial(self, frames: Frames) -> Features:
            raise EngineError("the engine is gone")

    recognizer, _ = Failing.recognizer(repository)
    before = psutil.Process().children()
    with pytest.raises(EngineError, match="gone"):
        recognizer.classify(video)
    assert psutil.Process().children() == before


def test_features_of_a_clip_are_those_of_its_tubelets(recognizer: Recognizer) -> None:
    frames = random_frames(22)
    whole = recognizer.features(frames)
    assert whole.shape == (11, 32)
    assert whole.dtype == np.float32
    by_hand = [recognizer.model.engine.spatial(frames[None, i : i + 2])[0, 0] for i in range(0, 22, 2)]
    np.testing.assert_allclose(whole, by_hand, atol=1e-5)


def test_torch_and_onnxruntime_agree(repository: Path, recognizer: Recognizer, video: Path) -> None:
    reference = Recognizer.load(repository, engine="torch", threads=1).classify(video)
    answer = recognizer.classify(video)
    for head, outputs in answer.heads.items():
        for output, result in outputs.items():
            np.testing.assert_allclose(result.logits, reference.heads[head][output].logits, atol=1e-4)


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        (np.zeros((4, SIDE, SIDE, 3), np.float32), r"float32 \[4, 16, 16, 3\]"),
        (np.zeros((4, SIDE, SIDE + 1, 3), np.uint8), r"\[4, 16, 17, 3\].*takes uint8 \[n, 16, 16, 3\]"),
        (np.zeros((SIDE, SIDE, 3), np.uint8), r"\[16, 16, 3\]"),
        (np.zeros((0, SIDE, SIDE, 3), np.uint8), "no frames"),
    ],
)
def test_wrong_frames_are_refused(recognizer: Recognizer, frames: Any, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        recognizer.features(frames)


@pytest.mark.parametrize(
    "features",
    [
        np.zeros((0, 32), np.float32),
        np.zeros((WINDOW_FRAMES // 2 + 1, 32), np.float32),
        np.zeros((4, 31), np.float32),
        np.zeros((4, 32), np.float64),
        np.full((4, 32), np.nan, np.float32),
    ],
)
def test_wrong_features_are_refused(recognizer: Recognizer, features: Any) -> None:
    with pytest.raises(InvalidInputError, match="NaN or infinity" if np.isnan(features).any() else "takes"):
        recognizer.logits(features)


def test_one_tubelet_is_already_an_answer(recognizer: Recognizer) -> None:
    logits = recognizer.logits(recognizer.features(random_frames(2)), "long")
    assert {name: value.shape for name, value in logits.items()} == {"verb": (5,), "noun": (3,)}


def test_wrong_options_are_refused_before_any_work(recognizer: Recognizer, repository: Path) -> None:
    with pytest.raises(HeadNotFoundError, match="no head 'nope'.*default, long"):
        Session(recognizer.model, ClassifyOptions(heads=("nope",)))
    for stride in (0.0, -1.0, 0.07, 1.4, float("nan"), float("inf")):
        with pytest.raises(UsageError, match="stride"):
            Session(recognizer.model, ClassifyOptions(heads=("default",), stride_seconds=stride))
    with pytest.raises(UsageError, match="top-k"):
        Session(recognizer.model, ClassifyOptions(top_k=0))
    with pytest.raises(UsageError, match="unknown engine 'abacus'"):
        Recognizer.load(repository, engine="abacus")


def test_a_session_without_frames_has_no_answer(recognizer: Recognizer) -> None:
    session = Session(recognizer.model)
    assert session.finish() == []
    with pytest.raises(InvalidInputError, match="no frames"):
        session.result("empty", Timings(0, 0, 0, 0))


def test_json_has_the_documented_keys(recognizer: Recognizer, video: Path) -> None:
    answer: Recognition = recognizer.classify(video)
    fields = answer.to_json()
    assert list(fields) == ["video", "duration_seconds", "frames_used", "heads", "timings"]
    assert set(fields["heads"]["long"]) == {"verb", "noun"}
    result = fields["heads"]["default"][""]
    assert set(result["labels"][0]) == {"label", "confidence"}
    assert set(result["timeline"][0]) == {"start_seconds", "end_seconds", "label", "confidence"}
    stages = {"decode_seconds", "spatial_seconds", "temporal_seconds", "total_seconds"}
    assert set(fields["timings"]) == stages | {"device"}
    assert fields["timings"]["device"] == recognizer.model.engine.device


def test_build_model_halves_are_independent() -> None:
    """The fixtures stand on it: one spatial half under two heads."""
    a, b = build_model(seed=1), build_model(seed=2)
    assert (a.spatial.encoder.pos == b.spatial.encoder.pos).all()
    assert (a.temporal.encoder.pos != b.temporal.encoder.pos).any()


def test_what_stands_still_is_computed_once(counting: tuple[Recognizer, CountingEngine]) -> None:
    """In calls of 4 tubelets: none while nothing has moved since the call before, and the bits stay."""
    recognizer, engine = counting
    moving = random_frames(12)
    still = np.repeat(moving[-1:], 40, axis=0)
    frames = np.concatenate([moving, still, moving, still])
    features = recognizer.features(frames)
    # Of 13 calls, the third to the sixth and the last four; the ninth follows a tubelet that moves.
    assert len(engine.frames) == 5
    every = [engine.engine.spatial(frames[None, at : at + 8])[0] for at in range(0, len(frames), 8)]
    np.testing.assert_array_equal(features, np.concatenate(every))


@given(st.lists(st.integers(0, 2), min_size=1, max_size=40), st.lists(st.integers(0, 20), max_size=4))
def test_still_or_not_the_bits_are_those_of_every_chunk_computed(
    recognizer: Recognizer, numbers: list[int], sizes: list[int]
) -> None:
    pictures = random_frames(3, seed=9)
    frames = pictures[np.repeat(numbers, 3)]
    extractor = FeatureExtractor(recognizer.model)
    found = [chunk for portion in portions(frames, sizes) for chunk in extractor.push(portion)]
    found += extractor.finish()
    size = recognizer.model.chunk_frames
    last = np.repeat(frames[-1:], -len(frames) % size, axis=0)
    padded = np.concatenate([frames, last])
    every = [
        recognizer.model.engine.spatial(padded[None, at : at + size])[0] for at in range(0, len(padded), size)
    ]
    features = np.concatenate([chunk.features for chunk in found])
    np.testing.assert_array_equal(features, np.concatenate(every)[: -(-len(frames) // 2)])
