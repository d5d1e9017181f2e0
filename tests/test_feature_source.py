"""Features from the store or from the frames: the same scores, no work done twice, nothing wrong kept."""

from __future__ import annotations

import gc
import logging
import os
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sfavivit import Recognizer, Repository, video_digest
from sfavivit import decoder_process as decoder
from sfavivit.engines import load_engine
from sfavivit.engines.base import Features, Frames
from sfavivit.errors import (
    EngineError,
    FeatureStoreError,
    InvalidInputError,
    NotAFileError,
    UsageError,
    VideoNotFoundError,
)
from sfavivit.feature_store import FeatureKey, FeatureStore, StoredFeatures
from sfavivit.read_ahead import ReadAhead
from sfavivit.results import Recognition
from sfavivit.video import Limits, OpenSource
from sfavivit.views import Views
from tests.conftest import random_frames
from tests.test_feature_store import DAMAGES
from tests.test_recognizer import CountingEngine
from tests.video_files import encode

ROOT = Path(__file__).parent.parent


def wide_video(path: Path, frames: int, seed: int = 3) -> Path:
    """25 fps, twice as wide as high: its three crops differ."""
    pictures = np.concatenate([random_frames(frames, seed), random_frames(frames, seed + 1)], axis=2)
    return encode(path, pictures.repeat(3, 1).repeat(3, 2))


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """6 s: 75 frames at 12.5 fps, 38 tubelets, the last one not full."""
    return wide_video(tmp_path_factory.mktemp("video") / "six seconds.mp4", 150)


@pytest.fixture(scope="module")
def damaged_video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    whole = wide_video(tmp_path_factory.mktemp("video") / "whole.mkv", 200)
    part = whole.with_name("part.mkv")
    part.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    return part


@pytest.fixture
def engine(repository: Path) -> CountingEngine:
    return CountingEngine(load_engine("onnxruntime", Repository.load(repository)))


@pytest.fixture
def recognizer(repository: Path, engine: CountingEngine) -> Recognizer:
    return Recognizer(Repository.load(repository), engine, chunk_tubelets=4)


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    return FeatureStore(tmp_path / "store")


def essence(answer: Recognition, *, warned: bool = True) -> Any:
    """Everything but the timings, and the warning unless ``warned``; logits as bytes."""
    results = [
        (head, output, result.labels, result.timeline, result.logits.tobytes())
        for head, outputs in answer.heads.items()
        for output, result in outputs.items()
    ]
    warning = answer.warning if warned else None
    return results, answer.video, answer.duration_seconds, answer.frames_used, warning


def entries(store: FeatureStore) -> list[Path]:
    return sorted(store.root.glob("??/*.safetensors"))


def forbid_decoders(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(*_: object) -> None:
        pytest.fail("a decoder was started")

    monkeypatch.setattr(decoder, "_start", start)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"heads": ["long"]},
        {"start_seconds": 1.1, "end_seconds": 4.0},
        {"end_seconds": 0.1},
        {"views": Views(4, 3)},
        {"views": Views(2, 1)},
    ],
    ids=str,
)
@pytest.mark.parametrize("name", ["video", "damaged_video"])
def test_scores_from_the_store_are_those_from_the_video_bit_for_bit(
    recognizer: Recognizer,
    engine: CountingEngine,
    store: FeatureStore,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
    name: str,
    options: dict[str, Any],
) -> None:
    path = request.getfixturevalue(name)
    whole = "end_seconds" not in options  # whether a decoder that is cut short has met damage is chance
    without = recognizer.classify(path, **options)
    first = recognizer.classify(path, store=store, **options)
    assert essence(first, warned=whole) == essence(without, warned=whole)
    assert len(entries(store)) == (options["views"].crops if "views" in options else 1)
    calls = len(engine.frames)
    forbid_decoders(monkeypatch)
    second = recognizer.classify(path, store=FeatureStore(store.root), **options)
    assert essence(second) == essence(first)
    if whole:
        assert bool(second.warning) == (name == "damaged_video")
    assert len(engine.frames) == calls
    assert (second.timings.decode_seconds, second.timings.spatial_seconds) == (0, 0)


def test_another_head_and_other_views_need_no_decoder(
    recognizer: Recognizer, store: FeatureStore, monkeypatch: pytest.MonkeyPatch, video: Path
) -> None:
    expected = recognizer.classify(video, ["long"])
    views = recognizer.classify(video, ["long"], views=Views(3, 1))
    recognizer.classify(video, ["default"], store=store)
    recognizer.classify(video, ["default"], views=Views(4, 3), store=store)
    forbid_decoders(monkeypatch)
    assert essence(recognizer.classify(video, ["long"], store=store)) == essence(expected)
    assert essence(recognizer.classify(video, ["long"], views=Views(3, 1), store=store)) == essence(views)
    recognizer.classify(video, ["long"], views=Views(9, 3), store=store)


def test_the_same_content_under_another_name(
    recognizer: Recognizer, store: FeatureStore, monkeypatch: pytest.MonkeyPatch, video: Path, tmp_path: Path
) -> None:
    expected = recognizer.classify(video, store=store)
    copy = shutil.copy(video, tmp_path / "copy.bin")
    forbid_decoders(monkeypatch)
    answer = recognizer.classify(copy, store=store)
    assert essence(answer) == essence(replace(expected, video=str(copy)))
    assert recognizer.classify(video.read_bytes(), store=store).heads["long"].keys() == {"verb", "noun"}


def test_what_was_looked_at_counts(recognizer: Recognizer, store: FeatureStore, video: Path) -> None:
    recognizer.classify(video, store=store)
    parts: list[dict[str, Any]] = [{"start_seconds": 1.0}, {"end_seconds": 5.0}]
    for options in parts:
        answer = recognizer.classify(video, store=store, **options)
        assert essence(answer) == essence(recognizer.classify(video, **options))
    assert len(entries(store)) == 3


def test_timestamps_are_seconds_of_the_video(
    recognizer: Recognizer, store: FeatureStore, video: Path
) -> None:
    keys: list[FeatureKey] = []
    put = store.put

    def noting(key: FeatureKey, entry: StoredFeatures) -> None:
        keys.append(key)
        put(key, entry)

    store.put = noting  # type: ignore[method-assign]
    recognizer.classify(video, store=store, start_seconds=2.0)
    entry = store.get(keys[0])
    assert entry
    assert (len(entry.features), entry.frames_used) == (25, 50)
    np.testing.assert_allclose(entry.timestamps, 2 + 0.16 * np.arange(25))


@pytest.mark.parametrize("which", ["tests", "demo"])
def test_float16_features_give_nearly_the_same_logits(
    recognizer: Recognizer, tmp_path: Path, video: Path, which: str
) -> None:
    if which == "demo":
        recognizer, video = Recognizer.load(ROOT / "model_repository"), ROOT / "docs" / "motions.mp4"
    store = FeatureStore(tmp_path / "store", "float16")
    exact = recognizer.classify(video, store=store)
    rounded = recognizer.classify(video, store=store)
    assert rounded.timings.decode_seconds == 0
    for head, outputs in exact.heads.items():
        for output, result in outputs.items():
            a, b = result.logits, rounded.heads[head][output].logits
            assert a @ b / np.linalg.norm(a) / np.linalg.norm(b) >= 0.9999
            assert a.tobytes() != b.tobytes()


def check_mended(
    recognizer: Recognizer, store: FeatureStore, video: Path, expected: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """A damaged entry is reported, changes no score, and is replaced."""
    caplog.clear()
    with caplog.at_level(logging.WARNING, logger="sfavivit"):
        assert essence(recognizer.classify(video, store=store)) == expected
        assert len(caplog.records) == 1
        with recognizer.source(video, store=store) as source:
            list(source)
        assert source.from_store
        assert essence(recognizer.classify(video, store=store)) == expected
        assert len(caplog.records) == 1


@pytest.mark.parametrize("name", ["half", "text", "folder with content", "fifo", "link to a copy"])
def test_a_damaged_entry_never_changes_a_score(
    recognizer: Recognizer,
    store: FeatureStore,
    video: Path,
    caplog: pytest.LogCaptureFixture,
    name: str,
) -> None:
    expected = essence(recognizer.classify(video, store=store))
    DAMAGES[name](entries(store)[0])
    check_mended(recognizer, store, video, expected, caplog)


@given(data=st.data())
@settings(
    deadline=None,
    max_examples=10,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    derandomize=True,
)
def test_a_flipped_bit_never_changes_a_score(
    recognizer: Recognizer,
    store: FeatureStore,
    damaged_video: Path,
    caplog: pytest.LogCaptureFixture,
    data: st.DataObject,
) -> None:
    expected = essence(recognizer.classify(damaged_video, store=store))
    [path] = entries(store)
    content = bytearray(path.read_bytes())
    position = data.draw(st.integers(0, 8 * len(content) - 1))
    content[position // 8] ^= 1 << position % 8
    path.write_bytes(content)
    check_mended(recognizer, store, damaged_video, expected, caplog)


def test_an_entry_of_another_video_never_changes_a_score(
    recognizer: Recognizer, store: FeatureStore, video: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    expected = essence(recognizer.classify(video, store=store))
    [mine] = entries(store)
    recognizer.classify(wide_video(tmp_path / "other.mp4", 150, seed=8), store=store)
    [other] = set(entries(store)) - {mine}
    shutil.copy(other, mine)
    check_mended(recognizer, store, video, expected, caplog)


def test_one_crop_that_is_missing(recognizer: Recognizer, store: FeatureStore, video: Path) -> None:
    expected = essence(recognizer.classify(video, views=Views(4, 3), store=store))
    paths = entries(store)
    paths[1].unlink()
    assert essence(recognizer.classify(video, views=Views(4, 3), store=store)) == expected
    assert entries(store) == paths


def write_again(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        last = file.read(1)
        file.seek(-1, os.SEEK_END)
        file.write(last)


def write_and_hide(path: Path) -> None:
    """As some programs do: the time of modification is put back."""
    status = path.stat()
    write_again(path)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def append(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"\0" * 100)


@pytest.mark.parametrize(
    "change", [write_again, write_and_hide, append, lambda path: os.truncate(path, 5000)]
)
def test_a_video_that_changes_while_it_is_read_is_not_kept(
    recognizer: Recognizer, store: FeatureStore, video: Path, tmp_path: Path, change: Callable[[Path], None]
) -> None:
    path = Path(shutil.copy(video, tmp_path / "changing.mp4"))
    with recognizer.source(path, store=store) as source:
        for count, _ in enumerate(source):
            if count == 0:
                change(path)  # the decoder is a few chunks ahead at most, of ten
    assert not entries(store)
    assert not source.from_store


def test_a_change_that_the_clock_does_not_show_is_found_in_the_content(
    recognizer: Recognizer,
    store: FeatureStore,
    video: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = video_digest._Version(1, 2, 3, 4, time.time_ns() + 3600 * 10**9)
    monkeypatch.setattr(video_digest._Version, "of", lambda _: now)
    path = Path(shutil.copy(video, tmp_path / "changing.mp4"))
    with recognizer.source(path, store=store) as source:
        for count, _ in enumerate(source):
            if count == 0:
                append(path)
    assert not entries(store)
    recognizer.classify(path, store=store)
    assert len(entries(store)) == 1


def test_a_file_that_stays_as_it_is_is_hashed_once(
    recognizer: Recognizer, store: FeatureStore, video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lists name many parts of one video. A file written to just now is not trusted to stay."""
    path = Path(shutil.copy(video, tmp_path / "video.mp4"))
    read: list[object] = []
    real = video_digest.VideoDigest._read

    def noting(digest: video_digest.VideoDigest) -> str | None:
        read.append(digest)
        return real(digest)

    monkeypatch.setattr(video_digest.VideoDigest, "_read", noting)
    for count in (2, 3):  # both before and after decoding, then before
        recognizer.classify(path, store=store)
        assert len(read) == count
    monkeypatch.setattr(video_digest, "RECENT_SECONDS", -3600.0)
    for _ in range(3):
        recognizer.classify(path, store=store)
        assert len(read) == 4
    write_and_hide(path)
    recognizer.classify(path, store=store)
    assert len(read) == 5


def test_no_more_digests_are_remembered_than_memory_is_for(
    recognizer: Recognizer, store: FeatureStore, video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(video_digest, "RECENT_SECONDS", -3600.0)
    monkeypatch.setattr(video_digest, "_MOST_REMEMBERED", 3)
    monkeypatch.setattr(video_digest, "_remembered", {})
    for number in range(5):
        recognizer.classify(shutil.copy(video, tmp_path / f"{number}.mp4"), store=store)
    assert len(video_digest._remembered) == 3


@pytest.mark.parametrize("what", ["replaced", "deleted"])
def test_a_video_that_goes_between_hashing_and_decoding(
    recognizer: Recognizer, tmp_path: Path, video: Path, what: str
) -> None:
    path = Path(shutil.copy(video, tmp_path / "video.mp4"))
    new = wide_video(tmp_path / "new.mp4", 120, seed=8)
    expected, of_new = (recognizer.classify(p) for p in (path, new))

    class Store(FeatureStore):
        def get(self, key: FeatureKey) -> StoredFeatures | None:
            if what == "deleted":
                path.unlink()
            elif new.exists():
                new.replace(path)
            return super().get(key)

    store = Store(tmp_path / "store")
    assert essence(recognizer.classify(path, store=store)) == essence(expected)
    if what == "deleted":
        with pytest.raises(VideoNotFoundError):
            recognizer.classify(path, store=store)
    else:
        for _ in range(2):
            answer = recognizer.classify(path, store=store)
            assert essence(answer) == essence(replace(of_new, video=str(path)))


def test_pipes_cannot_be_looked_up(recognizer: Recognizer, store: FeatureStore, tmp_path: Path) -> None:
    before = open_files()
    read, write = os.pipe()
    with pytest.raises(UsageError, match="'pipe': a stream cannot be looked up"):
        recognizer.classify(OpenSource(read, "'pipe'"), store=store)
    os.close(write)
    assert open_files() == before
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(NotAFileError):
        recognizer.classify(tmp_path / "fifo", store=store)


def test_a_store_that_cannot_be_written(
    recognizer: Recognizer, store: FeatureStore, video: Path, tmp_path: Path
) -> None:
    recognizer.classify(video, store=store)
    [path] = entries(store)
    path.unlink()
    path.parent.rmdir()
    path.parent.touch()
    with pytest.raises(FeatureStoreError, match="cannot be written") as raised:
        recognizer.classify(video, store=store)
    assert "\n" not in str(raised.value)


class FailingEngine(CountingEngine):
    """Breaks at the third call, in one way or another."""

    fails = True

    def spatial(self, frames: Frames) -> Features:
        features = super().spatial(frames)
        if len(self.frames) != 3:
            return features
        if self.fails:
            raise EngineError("the engine failed")
        return features * np.float32(np.nan)


@pytest.mark.parametrize("fails", [True, False])
def test_what_an_engine_did_not_finish_is_not_kept(
    repository: Path, store: FeatureStore, video: Path, fails: bool
) -> None:
    loaded = Repository.load(repository)
    engine = FailingEngine(load_engine("onnxruntime", loaded))
    engine.fails = fails
    recognizer = Recognizer(loaded, engine, chunk_tubelets=4)
    with pytest.raises((EngineError, InvalidInputError)):
        recognizer.classify(video, store=store)
    engine.frames.clear()
    with pytest.raises((EngineError, FeatureStoreError)), recognizer.source(video, store=store) as source:
        list(source)
    assert not entries(store)


def open_files() -> dict[str, str]:
    """Descriptors of this process, and what they are of."""
    found = {}
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208 - whose own descriptor is closed again
        with suppress(FileNotFoundError):
            found[name] = str(Path("/proc/self/fd", name).readlink())
    return found


def decoders() -> list[psutil.Process]:
    return psutil.Process().children(recursive=True)


@pytest.fixture
def nothing_left(recognizer: Recognizer, video: Path) -> Iterator[None]:
    """No thread, descriptor or process more than before."""
    recognizer.classify(video)  # starts the thread that starts decoders, which stays
    gc.collect()  # what tests before this one left open
    files, threads, processes = Counter(open_files().values()), set(threading.enumerate()), decoders()
    yield
    assert not Counter(open_files().values()) - files
    assert not set(threading.enumerate()) - threads
    assert not set(decoders()) - set(processes)


@pytest.mark.usefixtures("nothing_left")
@pytest.mark.parametrize("stored", [False, True])
def test_a_source_that_is_closed_early_keeps_and_leaves_nothing(
    recognizer: Recognizer, store: FeatureStore, video: Path, stored: bool
) -> None:
    for chunks in range(10):
        with recognizer.source(video, store=store if stored else None) as source:
            found: list[object] = []
            iterator = iter(source)
            while len(found) < chunks:
                found.append(next(iterator))
            source.close()
            found += iterator
        source.close()
        assert len(found) == chunks
        assert "closed before the end" in (source.warning or "")
        assert not list(source)
    assert not entries(store)


@pytest.mark.usefixtures("nothing_left")
@pytest.mark.parametrize("chunks", [0, 1])
@pytest.mark.parametrize("stored", [False, True])
def test_a_source_that_is_forgotten_leaves_nothing(
    recognizer: Recognizer, store: FeatureStore, video: Path, stored: bool, chunks: int
) -> None:
    """Its thread, which would wait for ever for somebody to take its frames, ends; and nobody calls close."""
    others = set(threading.enumerate())
    source = recognizer.source(video, store=store if stored else None)
    (thread,) = set(threading.enumerate()) - others
    taken = list(islice(source, chunks))
    assert len(taken) == chunks and thread.is_alive()
    del source
    gc.collect()
    thread.join(60)
    assert not thread.is_alive()
    assert not entries(store)


@pytest.mark.usefixtures("nothing_left")
def test_closing_does_not_wait_for_a_big_file(
    recognizer: Recognizer, store: FeatureStore, tmp_path: Path
) -> None:
    """Of a terabyte, which takes minutes to hash; and whoever waits for its features is let go."""
    path = tmp_path / "big.mp4"
    path.touch()
    os.truncate(path, 1 << 40)
    source = recognizer.source(path, store=store)
    found: list[object] = []
    waiting = threading.Thread(target=lambda: found.extend(source))
    waiting.start()
    source.close()
    waiting.join()
    assert not found
    assert not entries(store)


@pytest.mark.usefixtures("nothing_left")
def test_closing_from_another_thread_ends_a_recognition(
    recognizer: Recognizer, engine: CountingEngine, store: FeatureStore, video: Path
) -> None:
    arrived, go_on = threading.Event(), threading.Event()
    source = recognizer.source(video, store=store)

    def at_a_window(_: object) -> None:
        arrived.set()
        go_on.wait()

    answers: list[Recognition] = []
    working = threading.Thread(
        target=lambda: answers.append(recognizer.recognize(source, on_window=at_a_window))
    )
    working.start()
    arrived.wait()
    source.close()
    go_on.set()
    working.join()
    [answer] = answers
    assert "closed before the end" in (answer.warning or "")
    assert 0 < answer.frames_used < 75
    assert not entries(store)


@pytest.mark.usefixtures("nothing_left")
@pytest.mark.parametrize("name", ["missing.mp4", "broken.mp4", "empty.mp4", "."])
def test_bad_videos_leave_nothing(
    recognizer: Recognizer, store: FeatureStore, tmp_path: Path, name: str
) -> None:
    (tmp_path / "broken.mp4").write_text("this is no video")
    (tmp_path / "empty.mp4").touch()
    errors = []
    for stored in (None, store):
        with (
            pytest.raises(Exception, match=name) as raised,
            recognizer.source(tmp_path / name, store=stored) as source,
        ):
            list(source)
        errors.append((type(raised.value), str(raised.value)))
    assert errors[0] == errors[1]
    assert not entries(store)


@pytest.mark.usefixtures("nothing_left")
def test_a_source_works_before_it_is_used(recognizer: Recognizer, tmp_path: Path, video: Path) -> None:
    asked = threading.Event()

    class Store(FeatureStore):
        def get(self, key: FeatureKey) -> StoredFeatures | None:
            asked.set()
            return super().get(key)

    with recognizer.source(video, store=Store(tmp_path / "store")):
        assert asked.wait(60)


def test_limits_hold_for_what_is_decoded(recognizer: Recognizer, store: FeatureStore, video: Path) -> None:
    with pytest.raises(Exception, match="the limit is 1 s"):
        recognizer.classify(video, store=store, limits=Limits(duration_seconds=1))
    assert not entries(store)


def test_read_ahead_gives_items_then_the_error() -> None:
    def items() -> Iterator[int]:
        yield from range(5)
        raise KeyError("end")

    ahead = ReadAhead(items(), lambda: None)
    assert [next(ahead) for _ in range(5)] == list(range(5))
    with pytest.raises(KeyError):
        next(ahead)
    assert not list(ahead)
    ahead.close()
