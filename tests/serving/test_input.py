"""Whatever is sent to the video service: the right error, and it still serves."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import psutil
import pytest
from google.protobuf.duration_pb2 import Duration

from benchmarks.fuzz import FORBIDDEN, mutations, outcome
from serving.lifecycle import VideoServer
from sfavivit import Recognizer
from sfavivit.errors import (
    EmptyVideoError,
    ForbiddenFormatError,
    HeadNotFoundError,
    InvalidInputError,
    NotAVideoError,
    NotStreamableError,
    NoVideoStreamError,
    ServiceError,
    SfaVivitError,
    TruncatedVideoError,
    UsageError,
    VideoLimitError,
)
from sfavivit.protocol import messages
from sfavivit.protocol.answers import Query
from sfavivit.protocol.client import VideoRecognitionClient
from sfavivit.protocol.v1 import video_recognition_pb2 as pb
from tests.conftest import SIDE, random_frames
from tests.serving.support import FASTSTART, assert_same, pieces
from tests.video_files import encode, ffmpeg
from tests.waiting import eventually

SERVICE = pb.DESCRIPTOR.services_by_name["VideoRecognition"]

# Wrong input


@pytest.fixture(scope="module")
def wrong_files(tmp_path_factory: pytest.TempPathFactory, videos: list[Path]) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("wrong")
    ffmpeg("-f", "lavfi", "-i", "sine=duration=1", folder / "audio.m4a")
    ffmpeg("-i", videos[0], "-c", "copy", folder / "index_last.mp4")
    whole = (folder / "index_last.mp4").read_bytes()
    return {
        "empty": b"",
        "text": b"this is no video, " * 400,
        "short": b"no",
        "playlist": b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n",
        "audio": (folder / "audio.m4a").read_bytes(),
        "no_index": whole[: len(whole) // 2],
        "index_last": whole,
        "large": b"\0" * ((1 << 20) + 1),
    }


def raw_classify(
    client: VideoRecognitionClient, content: bytes, query: Query, size: int = 0
) -> pb.ClassifyResponse:
    """Bytes to the service as they are: the client class would refuse some of them."""
    config = pb.ClassifyRequest(config=messages.query_message(query, size))
    step = 100_000
    rest = [pb.ClassifyRequest(content=content[at : at + step]) for at in range(0, len(content), step)]
    with client._errors():
        return client._stub.Classify(iter([config, *rest]), timeout=30)  # type: ignore[no-any-return]


def raw_stream(client: VideoRecognitionClient, content: bytes, query: Query) -> list[Any]:
    return list(client.stream([content[at : at + 700] for at in range(0, len(content), 700)], query))


@pytest.mark.parametrize(
    ("send", "name", "error", "words"),
    [
        (raw_classify, "empty", EmptyVideoError, "no bytes were sent"),
        (raw_classify, "text", NotAVideoError, "not a known video container"),
        (raw_classify, "short", SfaVivitError, "video"),
        (raw_classify, "playlist", ForbiddenFormatError, "HLS or m3u playlist"),
        (raw_classify, "audio", NoVideoStreamError, "no video track"),
        (raw_classify, "no_index", TruncatedVideoError, "moov"),
        (raw_classify, "large", VideoLimitError, "the limit of this service is 1048576"),
        (raw_stream, "empty", EmptyVideoError, "empty"),
        (raw_stream, "text", NotAVideoError, "not a known video container"),
        (raw_stream, "playlist", ForbiddenFormatError, "HLS or m3u playlist"),
        (raw_stream, "audio", SfaVivitError, "no video track|faststart"),
        (raw_stream, "index_last", NotStreamableError, "faststart"),
    ],
)
def test_wrong_videos(
    client: VideoRecognitionClient,
    wrong_files: dict[str, bytes],
    send: Callable[[VideoRecognitionClient, bytes, Query], Any],
    name: str,
    error: type[SfaVivitError],
    words: str,
) -> None:
    with pytest.raises(error, match=words) as caught:
        send(client, wrong_files[name], Query())
    assert "\n" not in str(caught.value) and "/" + "proc" not in str(caught.value)


def test_a_broken_file_gives_what_is_before_the_break(
    client: VideoRecognitionClient, local: Recognizer, videos: list[Path]
) -> None:
    content = videos[4].read_bytes()
    cut = content[: len(content) * 2 // 3]
    answer = client.classify(cut)
    expected = local.classify(cut)
    assert answer.warning and "broken" in answer.warning
    assert answer.frames_used == expected.frames_used


@pytest.mark.parametrize(
    ("query", "error", "words"),
    [
        (Query(("nope",)), HeadNotFoundError, "no head 'nope'.*default, long"),
        (Query(("é" * 1_000_000,)), HeadNotFoundError, r"no head 'é+\.\.\.é+' in .*default, long"),
        (Query(top_k=-1), UsageError, "top-k must be at least 1"),
        (Query(stride_seconds=99.0), UsageError, "stride of 99 s"),
        (Query(min_confidence=1.5), InvalidInputError, "min_confidence"),
        (Query(min_confidence=float("nan")), InvalidInputError, "min_confidence"),
        (Query(start_seconds=-1.0), UsageError, "start must be"),
        (Query(start_seconds=2.0, end_seconds=1.0), UsageError, "end must be after the start"),
        (Query(start_seconds=60.0), InvalidInputError, "ends at second 3.2"),
    ],
)
def test_wrong_queries(
    client: VideoRecognitionClient, videos: list[Path], query: Query, error: type[SfaVivitError], words: str
) -> None:
    for ask in (
        lambda: client.classify(videos[0], query),
        lambda: list(client.stream(pieces(videos[0]), query)),
    ):
        with pytest.raises(error, match=words):
            ask()


def config(**fields: Any) -> pb.StreamingClassifyRequest:
    return pb.StreamingClassifyRequest(config=pb.StreamingClassifyConfig(**fields))


def content(data: bytes = b"x" * 5000) -> pb.StreamingClassifyRequest:
    return pb.StreamingClassifyRequest(content=data)


def frames(count: int = 1, side: int = SIDE, data: bytes | None = None) -> pb.StreamingClassifyRequest:
    data = bytes(count * side * side * 3) if data is None else data
    return pb.StreamingClassifyRequest(
        frames=pb.FrameChunk(frame_count=count, height=side, width=side, data=data)
    )


@pytest.mark.parametrize(
    ("requests", "words"),
    [
        ([], "no message came first"),
        ([content()], "content came first"),
        ([pb.StreamingClassifyRequest()], "an empty message came first"),
        ([config(), config()], "config came again"),
        ([config(), frames(), config()], "config came again"),
        ([config(), content(), frames()], "frames came after content"),
        ([config(), frames(), content()], "content came after frames"),
        ([config(), pb.StreamingClassifyRequest()], "a message is empty"),
        ([config(), frames(data=b"123")], r"\[1, 16, 16, 3\] take 768 bytes, but 3 came"),
        ([config(), frames(count=-1, data=b"")], "every size must be at least 1"),
        ([config(), frames(count=0)], "every size must be at least 1"),
        ([config(), frames(count=2**31 - 1, data=b"x")], "take"),
        ([config(), frames(side=8)], r"the model takes uint8 \[n, 16, 16, 3\]"),
        ([config(provisional_interval=Duration(seconds=-1)), frames()], "provisional_interval"),
        ([config(recognition={"start_offset": Duration(seconds=1)}), frames()], "only the frames that count"),
        ([config(recognition={"stride": Duration(seconds=2**62)}), frames()], "stride"),
    ],
)
def test_wrong_conversations(client: VideoRecognitionClient, requests: list[Any], words: str) -> None:
    with pytest.raises(grpc.RpcError, match=words) as caught:
        list(client._stub.StreamingClassify(iter(requests), timeout=20))
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize("declared", [-1, 1, 10**6, 10**12])
def test_uploads_that_lie_about_their_size(
    client: VideoRecognitionClient, videos: list[Path], declared: int
) -> None:
    with pytest.raises((InvalidInputError, VideoLimitError), match="content_size|limit of this service"):
        raw_classify(client, videos[0].read_bytes(), Query(), declared)


def test_wrong_features(client: VideoRecognitionClient, local: Recognizer) -> None:
    good = local.features(random_frames(16))
    nan = good.copy()
    nan[3, 5] = np.nan
    for features, words in (
        (good[:, :31], r"takes float32 \[n, 32\]"),
        (nan, "NaN or infinity"),
        (good[:0], "no frames"),
        (np.full_like(good, 3e38), "logits that are not finite"),
    ):
        with pytest.raises(InvalidInputError, match=words):
            client.score_features(features)
    lying = pb.FeatureChunk(tubelet_count=2**31 - 1, hidden_size=32, data=b"1234")
    requests = [pb.ScoreFeaturesRequest(config={}), pb.ScoreFeaturesRequest(features=lying)]
    with pytest.raises(grpc.RpcError, match="but 4 came"):
        client._stub.ScoreFeatures(iter(requests), timeout=20)
    for wrong, words in (
        ({"frames_used": 99}, "99 frames do not make 8"),
        ({"spatial_sha256": "abc"}, "extract them again"),
        ({"recognition": {"end_offset": Duration(seconds=1)}}, "end_offset does not apply to features"),
        ({"recognition": {"video_track": 0}}, "video_track does not apply to features"),
    ):
        requests = [
            pb.ScoreFeaturesRequest(config=wrong),
            pb.ScoreFeaturesRequest(features=messages.features_message(good)),
        ]
        with pytest.raises(grpc.RpcError, match=words):
            client._stub.ScoreFeatures(iter(requests), timeout=20)


@pytest.mark.parametrize("method", [method.name for method in SERVICE.methods])
def test_bytes_that_are_no_message(client: VideoRecognitionClient, method: str) -> None:
    described = SERVICE.methods_by_name[method]
    sides = (described.client_streaming, described.server_streaming)
    kind = "_".join("stream" if streaming else "unary" for streaming in sides)
    call = getattr(client._channel, kind)(f"/{SERVICE.full_name}/{method}")
    wrong = b"\xff" * 100
    with pytest.raises(grpc.RpcError, match="a message cannot be decoded") as caught:
        answers = call(iter([wrong]) if described.client_streaming else wrong, timeout=20)
        list(answers)
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT


def test_a_huge_message_is_refused_by_grpc(client: VideoRecognitionClient) -> None:
    with pytest.raises(grpc.RpcError, match="larger than max") as caught:
        list(client._stub.StreamingClassify(iter([config(), content(bytes(5 << 20))]), timeout=20))
    assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED


def test_mutated_videos_do_no_harm(client: VideoRecognitionClient, local: Recognizer, tmp_path: Path) -> None:
    """Every answer is an answer or an error of the tree; afterwards all is as before."""
    video = encode(tmp_path / "v.mp4", random_frames(20).repeat(4, 1).repeat(4, 2), options=FASTSTART)
    expected = client.classify(video)

    def one(number_and_data: tuple[int, bytes]) -> str:
        number, data = number_and_data
        return outcome(client, data, streaming=number % 2 == 1)

    attack = islice(enumerate(mutations(video.read_bytes())), 200)
    with ThreadPoolExecutor(4) as pool:
        outcomes = set(pool.map(one, attack))
    assert len(outcomes) > 1 and not outcomes & FORBIDDEN
    assert_same(client.classify(video), expected)


def test_a_bug_is_internal_and_tells_nothing(
    client: VideoRecognitionClient, server: VideoServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def current() -> None:
        raise ZeroDivisionError("a secret of the service")

    monkeypatch.setattr(server.servicer._source, "current", current)
    for ask in (client.list_heads, lambda: client.classify(b"x"), lambda: list(client.stream([b"x"]))):
        with pytest.raises(ServiceError, match="INTERNAL: internal error of the service") as caught:
            ask()
        assert "secret" not in str(caught.value)


def test_nothing_is_left_behind(client: VideoRecognitionClient, server: VideoServer) -> None:
    """After all of the tests above: no slot, no decoder, no file."""
    assert eventually(lambda: server.servicer.admission.running == 0)
    assert server.servicer.scheduler.waiting == 0
    process = psutil.Process()
    assert eventually(lambda: not [c for c in process.children() if "ffmpeg" in c.name()])
    links = [str(fd.readlink()) for fd in Path("/proc/self/fd").iterdir() if fd.is_symlink()]
    assert not [link for link in links if "/spool" in link]
