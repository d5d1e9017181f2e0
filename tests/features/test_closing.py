"""Sources that end early, late or never: no thread, descriptor or process is left, nothing waits for ever."""

from __future__ import annotations

import gc
import os
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path

import psutil
import pytest

from sfavivit import Recognizer
from sfavivit.errors import NotAFileError, UsageError
from sfavivit.features.entry import FeatureKey, StoredFeatures
from sfavivit.features.reader import FeatureReader
from sfavivit.features.store import FeatureStore
from sfavivit.inference.results import Recognition
from sfavivit.utils.prefetch import Prefetcher
from sfavivit.video.source import OpenSource
from tests.counting_engine import CountingEngine
from tests.features.videos import entries
from tests.waiting import eventually


def test_pipes_cannot_be_looked_up(recognizer: Recognizer, store: FeatureStore, tmp_path: Path) -> None:
    before = Counter(open_files().values())
    read, write = os.pipe()
    with pytest.raises(UsageError, match="'pipe': a stream cannot be looked up"):
        recognizer.classify(OpenSource(read, "'pipe'"), store=store)
    os.close(write)
    assert eventually(lambda: not Counter(open_files().values()) - before), open_files()
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(NotAFileError):
        recognizer.classify(tmp_path / "fifo", store=store)


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
    # The threads of other tests' gRPC channels open files for a moment now and then.
    assert eventually(lambda: not Counter(open_files().values()) - files), open_files()
    assert not set(threading.enumerate()) - threads
    assert not set(decoders()) - set(processes)


@pytest.mark.usefixtures("nothing_left")
@pytest.mark.parametrize("stored", [False, True])
def test_a_source_that_is_closed_early_keeps_and_leaves_nothing(
    recognizer: Recognizer, store: FeatureStore, video: Path, stored: bool
) -> None:
    for chunks in range(10):
        with FeatureReader(recognizer.model, video, store=store if stored else None) as source:
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
    source = FeatureReader(recognizer.model, video, store=store if stored else None)
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
    """A terabyte takes minutes to hash. A thread that waits for its features is let go."""
    path = tmp_path / "big.mp4"
    path.touch()
    os.truncate(path, 1 << 40)
    source = FeatureReader(recognizer.model, path, store=store)
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
    source = FeatureReader(recognizer.model, video, store=store)

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
            FeatureReader(recognizer.model, tmp_path / name, store=stored) as source,
        ):
            list(source)
        errors.append((type(raised.value), str(raised.value)))
    assert errors[0] == errors[1]
    assert not entries(store)


def test_a_prefetcher_gives_items_then_the_error() -> None:
    def items() -> Iterator[int]:
        yield from range(5)
        raise KeyError("end")

    prefetched = Prefetcher(items(), lambda: None)
    assert [next(prefetched) for _ in range(5)] == list(range(5))
    with pytest.raises(KeyError):
        next(prefetched)
    assert not list(prefetched)
    prefetched.close()


@pytest.mark.usefixtures("nothing_left")
def test_a_source_works_before_it_is_used(recognizer: Recognizer, tmp_path: Path, video: Path) -> None:
    asked = threading.Event()

    class Store(FeatureStore):
        def get(self, key: FeatureKey) -> StoredFeatures | None:
            asked.set()
            return super().get(key)

    with FeatureReader(recognizer.model, video, store=Store(tmp_path / "store")):
        assert asked.wait(60)
