"""Every method of the video service answers what the recognizer answers."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serving.lifecycle import VideoServer
from sfavivit import Recognition, Recognizer, WindowScores
from sfavivit.errors import HeadNotFoundError, InvalidInputError, VideoNotFoundError
from sfavivit.inference.options import ClassifyOptions
from sfavivit.inference.streaming import FrameStream
from sfavivit.protocol.answers import Query, ServedRecognition, ServedWindow
from sfavivit.protocol.client import AsyncVideoRecognitionClient, VideoRecognitionClient
from sfavivit.video.reader import VideoReader
from sfavivit.video.source import VideoSegment
from tests.conftest import SIDE, random_frames
from tests.serving.support import address_of, arriving, assert_same, pieces

# The same answers


def test_classify(client: VideoRecognitionClient, local: Recognizer, videos: list[Path]) -> None:
    seen: list[tuple[int, int]] = []
    answer = client.classify(videos[0], progress=lambda sent, size: seen.append((sent, size)))
    assert_same(answer, local.classify(videos[0]))
    assert answer.video == str(videos[0])
    size = videos[0].stat().st_size
    assert seen[-1] == (size, size)
    timings = answer.timings
    assert 0 < timings.spatial_seconds + timings.temporal_seconds < timings.total_seconds
    assert timings.device == local.model.engine.device
    assert timings.decode_seconds > 0 and answer.queue_seconds >= 0
    assert answer.model_digests["sfavivit_spatial"] == local.manifest.spatial.weights_sha256


def test_options_arrive(client: VideoRecognitionClient, local: Recognizer, videos: list[Path]) -> None:
    answer = client.classify(
        videos[1].read_bytes(), Query(("long",), 2, stride_seconds=0.32, start_seconds=1.2, end_seconds=3.0)
    )
    expected = local.classify(
        VideoSegment(videos[1], start_seconds=1.2, end_seconds=3.0),
        ClassifyOptions(heads=("long",), top_k=2, stride_seconds=0.32),
    )
    assert_same(answer, expected)
    verb = answer.heads["long"]["verb"]
    assert verb.timeline[0].start_seconds == 1.2
    assert verb.timeline[-1].end_seconds == pytest.approx(3.0, abs=0.08)


def test_min_confidence_leaves_out_the_unsure(client: VideoRecognitionClient, videos: list[Path]) -> None:
    everything = client.classify(videos[0], Query(("default",), top_k=7)).heads["default"][""]
    threshold = everything.labels[2].confidence
    sure = client.classify(videos[0], Query(("default",), 7, min_confidence=threshold)).heads["default"][""]
    assert sure.labels == everything.labels[:3]
    assert sure.timeline == tuple(s for s in everything.timeline if s.confidence >= threshold)


def test_streamed_bytes(client: VideoRecognitionClient, local: Recognizer, videos: list[Path]) -> None:
    *windows, summary = client.stream(pieces(videos[2]))
    assert isinstance(summary, ServedRecognition)
    assert_same(summary, local.classify(videos[2]))
    with VideoReader(videos[2], local.manifest.sampling, chunk_frames=local.model.chunk_frames) as reader:
        expected = list(local.stream(reader))
    counted = [w for w in windows if isinstance(w, ServedWindow) and not w.provisional]
    assert [describe(w) for w in counted] == [describe(w) for w in expected]


def describe(window: WindowScores) -> tuple[Any, ...]:
    times = (round(window.start_seconds, 6), round(window.end_seconds, 6))
    logits = {name: value.tobytes() for name, value in window.logits.items()}
    return window.head, times, window.frames_used, logits


def test_streamed_frames(client: VideoRecognitionClient, local: Recognizer) -> None:
    frames = random_frames(61, seed=9)
    *_, summary = client.stream(frames[at : at + 7] for at in range(0, 61, 7))
    stream = FrameStream(local.model)
    stream.push(frames)
    stream.finish()
    assert isinstance(summary, ServedRecognition)
    assert_same(summary, stream.session.result("x", summary.timings))


def test_answers_come_while_the_video_is_still_being_sent(client: VideoRecognitionClient) -> None:
    """The rest of the frames is sent only after answers to the first have come."""
    answered = threading.Event()
    frames = random_frames(96)

    def chunks() -> Iterator[Any]:
        yield frames[:48]
        assert answered.wait(10)
        yield frames[48:]

    windows = []
    for answer in client.stream(chunks(), Query(("default",))):
        windows.append(answer)
        if isinstance(answer, ServedWindow) and not answer.provisional:
            answered.set()
    assert isinstance(windows[-1], ServedRecognition) and windows[-1].frames_used == 96


def test_anytime_answers(client: VideoRecognitionClient, local: Recognizer) -> None:
    """Before the first window of 24 frames is full there is an answer from the first 16."""
    frames = random_frames(64)
    windows = [w for w in client.stream([frames], Query(("long",))) if isinstance(w, ServedWindow)]
    first = windows[0]
    assert (first.provisional, first.frames_used, first.start_seconds) == (True, 16, 0)
    assert first.end_seconds == pytest.approx(16 / 12.5)
    expected = local.logits(local.features(frames[:16]), "long")
    assert {name: v.tobytes() for name, v in first.logits.items()} == {
        name: v.tobytes() for name, v in expected.items()
    }
    assert not any(w.provisional for w in windows[1:])
    by_interval = client.stream([frames], Query(("long",)), provisional_seconds=2.5)
    times = [w.end_seconds for w in by_interval if isinstance(w, ServedWindow) and w.provisional]
    assert times == pytest.approx([32 / 12.5, 64 / 12.5])


def test_features_and_their_scores(
    client: VideoRecognitionClient, local: Recognizer, videos: list[Path]
) -> None:
    for segment in (VideoSegment(videos[3]), VideoSegment(videos[3], 0.8, 3.1)):
        query = Query(start_seconds=segment.start_seconds, end_seconds=segment.end_seconds)
        features = client.extract_features(videos[3], query)
        expected = local.classify(segment)
        with VideoReader(segment, local.manifest.sampling, chunk_frames=8) as reader:
            frames = np.concatenate(list(reader))
        assert features.features.tobytes() == local.features(frames).tobytes()
        assert features.frames_used == len(frames)
        assert_same(client.score_features(features), expected)
    bare = client.score_features(local.features(random_frames(16)), Query(("default",)))
    want = local.logits(local.features(random_frames(16)), "default")[""]
    assert bare.heads["default"][""].logits.tobytes() == want.tobytes()


def test_list_heads(client: VideoRecognitionClient, local: Recognizer) -> None:
    info = client.list_heads()
    assert list(info.heads) == ["default", "long"]
    assert info.heads["long"].outputs == local.model.labels["long"]
    assert info.heads["long"].window_frames == 24
    assert info.heads["long"].window_seconds == pytest.approx(24 / 12.5)
    frames = info.frame_format
    assert (frames.fps, frames.height, frames.width, frames.tubelet_frames) == (12.5, SIDE, SIDE, 2)


def test_asyncio_client(server: VideoServer, local: Recognizer, videos: list[Path]) -> None:
    async def main() -> None:
        async with AsyncVideoRecognitionClient(address_of(server), timeout_seconds=30) as client:
            answers = await asyncio.gather(*(client.classify(video) for video in videos))
            for answer, video in zip(answers, videos, strict=True):
                assert_same(answer, local.classify(video))
            summary = [answer async for answer in client.stream(arriving(pieces(videos[0])))][-1]
            assert isinstance(summary, ServedRecognition)
            assert_same(summary, answers[0])
            features = await client.extract_features(videos[1])
            assert_same(await client.score_features(features), answers[1])
            assert list((await client.list_heads()).heads) == ["default", "long"]
            with pytest.raises(HeadNotFoundError, match="no head 'nope'"):
                await client.classify(videos[0], Query(("nope",)))
            with pytest.raises(VideoNotFoundError, match="no such file"):
                await client.classify("/nowhere.mp4")
            wrong: list[Any] = [np.zeros((2, 2))]
            with pytest.raises(InvalidInputError, match=r"send uint8 \[n, H, W, 3\]"):
                _ = [answer async for answer in client.stream(arriving(wrong))]

    asyncio.run(main())


def test_sixteen_streams_do_not_mix(
    client: VideoRecognitionClient, local: Recognizer, videos: list[Path]
) -> None:
    expected = [local.classify(video) for video in videos]
    assert len({e.heads["default"][""].logits.tobytes() for e in expected}) == len(videos)
    together = threading.Barrier(16)

    def one(number: int) -> Recognition:
        together.wait()
        video = videos[number % len(videos)]
        if number % 2:
            return client.classify(video)
        *_, summary = client.stream(pieces(video, 512))
        assert isinstance(summary, ServedRecognition)
        return summary

    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(one, range(16)))
    for number, answer in enumerate(answers):
        assert_same(answer, expected[number % len(videos)])
    assert any(a.queue_seconds > 0 for a in answers if isinstance(a, ServedRecognition))
