"""The decoder as a process: limits, cancelling, dying with its parent, and what is left behind."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sfavivit.errors import DecodeError, NotAVideoError, VideoLimitError
from sfavivit.video.limits import Limits
from sfavivit.video.process import DecoderProcess, StalledError
from sfavivit.video.reader import VideoReader
from tests.video_files import H264, encode, ffmpeg, numbered, numbers_shown, sampling
from tests.waiting import eventually


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty seconds: far more than fits between the decoder and its reader."""
    return encode(tmp_path_factory.mktemp("video") / "a.mp4", numbered(1000))


def status_of(pid: int) -> tuple[str, int]:
    """(state, parent) of a process by proc(5); state Z is a zombie, X one that is no more."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return "X", 0
    return fields[0], int(fields[1])


def all_children() -> list[int]:
    """Children of this process, zombies included."""
    pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdecimal()]
    return [pid for pid in pids if status_of(pid)[1] == os.getpid()]


@pytest.fixture(autouse=True, scope="module")
def _servers_of_other_tests() -> None:
    _others.update(all_children())


_others: set[int] = set()


def children() -> list[int]:
    """Children of this process, zombies included, without the servers kept for other tests."""
    return [pid for pid in all_children() if pid not in _others]


def limit_error(source: Path, **limits: float) -> str:
    with (
        VideoReader(source, sampling(), chunk_frames=16, limits=Limits(**limits)) as reader,  # type: ignore[arg-type]
        pytest.raises(VideoLimitError) as caught,
    ):
        list(reader)
    assert "\n" not in str(caught.value)
    assert children() == []
    return str(caught.value)


# Limits


def test_pixels(video: Path) -> None:
    assert "pictures of 64x64, the limit is 4095 pixels" in limit_error(video, pixels=64 * 64 - 1)
    with VideoReader(video, sampling(), chunk_frames=1, limits=Limits(pixels=64 * 64)) as reader:
        next(reader)


def test_duration_by_the_header(video: Path) -> None:
    assert "40 s long by its header, the limit is 39.5 s" in limit_error(video, duration_seconds=39.5)


def test_duration_by_the_frames_when_the_header_is_silent(tmp_path: Path) -> None:
    path = encode(tmp_path / "a.h264", numbered(100))
    assert "longer than the limit of 3.5 s" in limit_error(path, duration_seconds=3.5)
    with VideoReader(path, sampling(), chunk_frames=7, limits=Limits(duration_seconds=4.0)) as reader:
        assert sum(map(len, reader)) == 50


def test_memory(tmp_path: Path) -> None:
    picture = ("-f", "lavfi", "-i", "color=s=8000x4300:r=1:d=1", *H264, "-pix_fmt", "yuv444p")
    ffmpeg(*picture, tmp_path / "one.mkv")
    ffmpeg("-stream_loop", "7", "-i", tmp_path / "one.mkv", "-c", "copy", tmp_path / "eight.mkv")
    assert "more memory than the limit" in limit_error(tmp_path / "eight.mkv", memory_bytes=512 << 20)


def test_a_stalled_decoder(video: Path) -> None:
    limits = Limits(stall_seconds=1.5)
    with VideoReader(video, sampling(), chunk_frames=100, limits=limits) as reader:
        next(reader)
        (child,) = children()
        os.kill(child, signal.SIGSTOP)
        started = time.monotonic()
        with pytest.raises(VideoLimitError, match=r"no frame in 1\.5 s"):
            list(reader)
        assert time.monotonic() - started < 5
        assert children() == []


@pytest.mark.parametrize("script", ["while :; do echo x >&2; done", "exec >&-; while :; do echo x >&2; done"])
def test_an_endless_log_is_no_progress(script: str) -> None:
    taken = 0

    def take(data: bytes) -> bool:
        nonlocal taken
        taken += len(data)
        return False

    command = ["/bin/sh", "-c", script]
    options: dict[str, Any] = {"environment": {}, "stall_seconds": 0.5, "pipe_bytes": 4096}
    process = DecoderProcess(lambda _: command, stdin=0, on_log=take, on_index=take, **options)
    with pytest.raises(StalledError):
        process.read_into(memoryview(bytearray(10)))
        process.finish()
    process.close()
    assert taken > 0
    assert children() == []


def test_a_slow_consumer_is_not_a_stalled_decoder(video: Path) -> None:
    with VideoReader(video, sampling(), chunk_frames=200, limits=Limits(stall_seconds=1.0)) as reader:
        next(reader)
        waited = reader.decode_seconds
        time.sleep(1.2)
        assert reader.decode_seconds == waited
        assert sum(map(len, reader)) == 300


def test_a_decoder_that_dies(video: Path) -> None:
    with VideoReader(video, sampling(), chunk_frames=100) as reader:
        next(reader)
        os.kill(children()[0], signal.SIGSEGV)
        with pytest.raises(DecodeError, match="signal 11 near second"):
            list(reader)


# Ends


def test_close_ends_the_child_and_the_iteration(video: Path) -> None:
    reader = VideoReader(video, sampling(), chunk_frames=10)
    next(reader)
    assert len(children()) == 1
    reader.close()
    reader.close()
    assert children() == []
    assert list(reader) == []
    assert reader.warning == "closed before the end, after 0.8 s"


def test_close_from_another_thread_ends_a_wait(video: Path) -> None:
    reader = VideoReader(video, sampling(), chunk_frames=100)
    os.kill(children()[0], signal.SIGSTOP)
    chunks: list[object] = []
    iterating = threading.Thread(target=lambda: chunks.extend(reader))
    iterating.start()
    time.sleep(0.2)
    assert iterating.is_alive()
    reader.close()
    iterating.join(5)
    assert not iterating.is_alive()
    assert children() == []
    assert reader.warning is not None
    assert "closed before the end" in reader.warning


def test_a_reader_outlives_the_thread_that_opened_it(video: Path) -> None:
    readers: list[VideoReader] = []

    def open_one() -> None:
        readers.append(VideoReader(video, sampling(), chunk_frames=64))
        next(readers[0])  # by now the child has asked for its death signal

    opening = threading.Thread(target=open_one)
    opening.start()
    opening.join()
    time.sleep(0.2)  # the kernel tells children when the thread that started them has ended
    with readers[0] as reader:
        assert numbers_shown(np.concatenate(list(reader))) == list(range(128, 1000, 2))


def test_the_child_dies_when_the_parent_is_killed(video: Path) -> None:
    script = (
        "import os, sys, time\n"
        "from tests.video.test_process import children\n"
        "from sfavivit.video.reader import Sampling, VideoReader\n"
        "reader = VideoReader(sys.argv[1], Sampling(12.5, 64, 64), chunk_frames=1)\n"
        "next(reader)\n"
        "print(children()[0], flush=True)\n"
        "time.sleep(60)\n"
    )
    root = Path(__file__).parents[2]
    with subprocess.Popen([sys.executable, "-c", script, video], stdout=subprocess.PIPE, cwd=root) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        os.kill(child, signal.SIGSTOP)  # so that it cannot die of its broken pipe
        parent.kill()
    assert eventually(lambda: status_of(child)[0] in "XZ")


def test_a_forked_process_neither_ends_a_reader_nor_lacks_one(video: Path) -> None:
    script = (
        "import os, sys\n"
        "from sfavivit.video.reader import Sampling, VideoReader\n"
        "def opened(): return VideoReader(sys.argv[1], Sampling(12.5, 64, 64), chunk_frames=64)\n"
        "reader = opened()\n"
        "next(reader)\n"
        "if not (pid := os.fork()):\n"
        "    reader.close()\n"
        "    os._exit(sum(map(len, opened())) % 251)\n"
        "status = os.waitpid(pid, 0)[1]\n"
        "print(os.waitstatus_to_exitcode(status), 64 + sum(map(len, reader)), reader.warning)\n"
    )
    printed = subprocess.check_output([sys.executable, "-W", "ignore", "-c", script, video], text=True)
    assert printed.split() == [str(500 % 251), "500", "None"]


def test_nothing_is_left_behind(video: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"not a video")

    def use(turn: int) -> None:
        reader = VideoReader(video if turn % 4 else broken, sampling(), chunk_frames=50)
        if turn % 4 == 0:
            with pytest.raises(NotAVideoError):
                next(reader)
        elif turn % 4 == 1:
            list(reader)
        elif turn % 4 == 2:
            next(reader)
            reader.close()
        else:
            next(reader)  # and forgotten

    use(1)
    gc.collect()  # what earlier tests forgot
    before = len(list(Path("/proc/self/fd").iterdir()))
    for turn in range(50):
        use(turn)
    gc.collect()
    assert children() == []
    assert len(list(Path("/proc/self/fd").iterdir())) <= before  # other tests may have closed theirs


def test_memory_does_not_depend_on_length(tmp_path: Path) -> None:
    script = (
        "import resource, sys\n"
        "from sfavivit.video.reader import Sampling, VideoReader\n"
        "with VideoReader(sys.argv[1], Sampling(12.5, 64, 64), chunk_frames=32) as reader:\n"
        "    frames = sum(map(len, reader))\n"
        "peak = [resource.getrusage(w).ru_maxrss for w in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]\n"
        "print(frames, *peak)\n"
    )
    short = encode(tmp_path / "short.mp4", numbered(100), options=H264)
    ffmpeg("-stream_loop", "49", "-i", short, "-c", "copy", tmp_path / "long.mp4")
    (few, *small), (many, *large) = (
        map(int, subprocess.check_output([sys.executable, "-c", script, path]).split())
        for path in (short, tmp_path / "long.mp4")
    )
    assert (few, many) == (50, 2500)
    assert all(b <= 1.1 * a for a, b in zip(small, large, strict=True))
