"""Files whose timestamps are wrong, jump or pause, and files of several tracks, with the real ffmpeg."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sfavivit.errors import NoVideoStreamError, VideoLimitError
from sfavivit.video.limits import Limits
from sfavivit.video.pipe import VideoPipe
from sfavivit.video.reader import VideoReader
from sfavivit.video.source import OpenSource, Source, VideoSegment
from tests.video_files import H264, encode, ffmpeg, numbered, numbers_shown, quadrants, sampling

B_FRAMES = ("-c:v", "libx264", "-bf", "2", "-g", "50", "-pix_fmt", "yuv420p")
SMALL = Limits(memory_bytes=512 << 20, gap_seconds=1e6, duration_seconds=1e6)  # the least that can be asked


def shown(
    source: Source, *, limits: Limits = SMALL, start: float = 0.0, end: float | None = None, **track: int
) -> tuple[list[int], str | None]:
    """Numbers of the pictures, and the warning."""
    segment = VideoSegment(source, start, end, **track)
    with VideoReader(segment, sampling(), chunk_frames=16, limits=limits) as reader:
        numbers = [number for chunk in reader for number in numbers_shown(chunk)]
    return numbers, reader.warning


def retimed(path: Path, to: Path, pts: str) -> Path:
    """Copy a video with other presentation times; ``pts`` in the terms of ffmpeg's filter setts."""
    ffmpeg("-i", path, "-c", "copy", "-bsf:v", f"setts=pts='{pts}':dts=DTS", to)
    return to


@pytest.fixture(scope="module")
def regular(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight seconds of 25 pictures a second, with B-frames."""
    options = (*B_FRAMES, "-movflags", "+faststart")
    return encode(tmp_path_factory.mktemp("video") / "a.mp4", numbered(200), options=options)


@pytest.mark.parametrize("late", [40, 3600, 36000])
@pytest.mark.parametrize("kind", ["mp4", "mkv"])
def test_a_late_timestamp_costs_its_picture_only(regular: Path, tmp_path: Path, kind: str, late: int) -> None:
    glitch = retimed(
        regular, tmp_path / f"a.{kind}", f"PTS+if(between(N\\,60\\,61)\\,{late}/TB\\,0)"
    )
    numbers, warning = shown(glitch)
    assert len(numbers) == 100
    wrong = {k for k, number in enumerate(numbers) if number != 2 * k}
    assert len(wrong) <= 2 and all(numbers[k] in (2 * k - 1, 2 * k - 2) for k in wrong)
    assert warning is not None
    assert warning.startswith("2 timestamps were out of order near second 2.")
    part, _ = shown(glitch, start=2.0, end=4.0)
    assert part == numbers[25:50]
    assert kind == "mp4" or _through_a_pipe(glitch) == (numbers, warning)  # its index comes last


def _through_a_pipe(path: Path) -> tuple[list[int], str | None]:
    with VideoPipe("upload") as pipe:
        source: OpenSource = pipe.source

        def write() -> None:
            pipe.write(path.read_bytes())
            pipe.finish()

        writer = threading.Thread(target=write)
        writer.start()
        try:
            return shown(source)
        finally:
            writer.join()


def test_a_recorder_that_starts_again_goes_on(regular: Path, tmp_path: Path) -> None:
    ffmpeg("-i", regular, "-c", "copy", tmp_path / "a.ts")
    once = (tmp_path / "a.ts").read_bytes()
    numbers, warning = shown(once + once)
    assert numbers == [*range(0, 200, 2), *range(0, 200, 2)]
    assert warning == "the timestamps start again near second 8.0, where the video goes on"


@pytest.mark.parametrize("kind", ["mkv", "ts", "mp4"])
def test_a_pause_is_a_still_and_costs_no_memory(regular: Path, tmp_path: Path, kind: str) -> None:
    """Ten hours within the memory that ffmpeg needs to start."""
    numbers, warning = shown(_paused(regular, tmp_path, kind, 36000))
    assert numbers == [*range(0, 100, 2), *[99] * 450000, *range(100, 200, 2)]
    assert warning == "a gap without a new picture of 36000.0 s, near second 4.0"


def _paused(regular: Path, folder: Path, kind: str, seconds: int) -> Path:
    time = f"if(gte(PTS*TB\\,4)\\,{seconds}/TB\\,0)"
    path = folder / f"paused.{kind}"
    if kind != "ts":
        return retimed(regular, path, f"PTS+{time}")
    for n, cut in enumerate((("-t", "4"), ("-ss", "4", "-output_ts_offset", str(seconds + 4)))):
        ffmpeg("-i", regular, *cut, *H264, "-bf", "0", "-muxdelay", "0", folder / f"{n}.ts")
    path.write_bytes(b"".join((folder / f"{n}.ts").read_bytes() for n in range(2)))
    return path


def test_a_pause_beyond_the_limit_is_refused(regular: Path, tmp_path: Path) -> None:
    paused = _paused(regular, tmp_path, "mkv", 4000)
    with pytest.raises(VideoLimitError, match=r"no new picture for 4000\.0 s near second 4\.0, the limit is"):
        shown(paused, limits=Limits())
