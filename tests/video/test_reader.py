"""Reading video: codecs, time, geometry and damage, always with the real ffmpeg."""

from __future__ import annotations

import re
import tempfile
import time
from fractions import Fraction
from functools import cache
from math import ceil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sfavivit.config import Sampling
from sfavivit.errors import VideoError
from sfavivit.types import Frames
from sfavivit.video.limits import Limits
from sfavivit.video.reader import VideoReader
from sfavivit.video.source import Source, VideoSegment
from tests.video_files import H264, SIDE, disc, encode, ffmpeg, numbered, numbers_shown, quadrants, sampling

TOLERANCE = 0.002  # a picture this late is on time
VP9 = ("-c:v", "libvpx-vp9", "-deadline", "realtime", "-cpu-used", "8")
LOSSLESS = ("-c:v", "ffv1")


def read(source: Source, how: Sampling | None = None, *, chunk_frames: int = 16) -> tuple[Frames, str | None]:
    """All frames [F, crop, crop, 3] and the damage."""
    how = how or sampling()
    with VideoReader(source, how, chunk_frames=chunk_frames) as reader:
        chunks = list(reader)
    assert reader.frames_read == sum(map(len, chunks))
    assert all(len(chunk) == chunk_frames for chunk in chunks[:-1])
    return np.concatenate(chunks), reader.warning


def read_whole(source: Source, how: Sampling | None = None) -> Frames:
    frames, damage = read(source, how)
    assert damage is None
    return frames


def on_display(times: list[float], end: float, fps: float) -> list[int]:
    """Numbers of the pictures on display at each k / ``fps`` before ``end``, by definition."""
    instants = [k / fps + TOLERANCE for k in range(ceil((end - TOLERANCE) * fps - 1e-9))]
    return [max((n for n, t in enumerate(times) if t <= at + 1e-9), default=0) for at in instants]


# Codecs and containers


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("h264.mp4", H264),
        ("hevc10.mp4", ("-c:v", "libx265", "-x265-params", "log-level=none", "-pix_fmt", "yuv420p10le")),
        ("vp9.webm", VP9),
        ("av1.mkv", ("-c:v", "libsvtav1", "-preset", "12", "-svtav1-params", "film-grain=0")),
        ("mpeg4.avi", ("-c:v", "mpeg4")),
        ("h264.ts", H264),
        ("bframes.mp4", ("-c:v", "libx264", "-bf", "3", "-pix_fmt", "yuv420p")),
        ("fragmented.mp4", (*H264, "-movflags", "frag_keyframe+empty_moov", "-g", "10")),
        ("gif.gif", ()),
    ],
)
def test_every_codec_gives_the_pictures_in_order(tmp_path: Path, name: str, options: tuple[str, ...]) -> None:
    frames = read_whole(encode(tmp_path / name, numbered(60), options=options))
    assert frames.dtype == np.uint8
    assert frames.shape == (30, SIDE, SIDE, 3)
    assert numbers_shown(frames) == list(range(0, 60, 2))


def test_sound_beside_the_pictures_does_not_matter(tmp_path: Path) -> None:
    sound = ("-f", "lavfi", "-i", "sine=d=3", "-map", "0:v", "-map", "1:a")
    path = encode(tmp_path / "sound.mp4", numbered(50), options=(*sound, *H264))
    assert numbers_shown(read_whole(path)) == list(range(0, 50, 2))


@pytest.mark.parametrize(
    ("name", "options"), [("raw.h264", ()), ("live.mkv", ("-f", "matroska", "-live", "1"))]
)
def test_a_header_without_duration_is_no_obstacle(
    tmp_path: Path, name: str, options: tuple[str, ...]
) -> None:
    path = encode(tmp_path / name, numbered(50), options=(*H264, *options))
    assert numbers_shown(read_whole(path)) == list(range(0, 50, 2))


def test_the_duration_of_the_header_is_known_with_the_first_chunk(tmp_path: Path) -> None:
    path = encode(tmp_path / "a.mp4", numbered(50))
    with VideoReader(path, sampling(), chunk_frames=1) as reader:
        next(reader)
        assert reader.container_duration_seconds == pytest.approx(2.0)
    with VideoReader(encode(tmp_path / "a.h264", numbered(50)), sampling(), chunk_frames=1) as reader:
        next(reader)
        assert reader.container_duration_seconds is None


# Time


@pytest.mark.parametrize("container", ["mp4", "mkv"])
@pytest.mark.parametrize(
    ("rate", "fps"),
    [
        ("25", 12.5),
        ("50", 12.5),
        ("60", 12.5),
        ("30", 15.0),
        ("10", 25.0),
        ("30000/1001", 12.5),
        ("30000/1001", 30000 / 1001),
        ("24000/1001", 29.97),
        ("25", 0.4),
    ],
)
def test_frame_k_is_the_picture_on_display_at_k_over_fps(
    tmp_path: Path, container: str, rate: str, fps: float
) -> None:
    count, picture = 90, float(1 / Fraction(rate))
    path = encode(tmp_path / f"a.{container}", numbered(count), fps=rate)
    decimals = 3 if container == "mkv" else 9  # Matroska stores milliseconds
    times = [round(n * picture, decimals) for n in range(count)]
    shown = numbers_shown(read_whole(path, sampling(fps)))
    assert shown == on_display(times, count * picture, fps)


def test_twelve_and_a_half_of_twenty_five_is_every_second_picture(tmp_path: Path) -> None:
    assert numbers_shown(read_whole(encode(tmp_path / "a.mp4", numbered(51)))) == list(range(0, 51, 2))


def test_variable_frame_rate(tmp_path: Path) -> None:
    timing = ("-vf", "settb=1/1000,setpts=4*N*N", "-fps_mode", "passthrough", "-enc_time_base", "1:1000")
    path = encode(tmp_path / "vfr.mkv", numbered(40), options=(*timing, *H264))
    times = [4 * n * n / 1000 for n in range(40)]
    expected = on_display(times, times[-1], 12.5)
    assert len(expected) > 70
    assert numbers_shown(read_whole(path))[: len(expected)] == expected


def test_a_late_picture_track_keeps_its_time_and_a_late_file_starts_at_once(tmp_path: Path) -> None:
    video = encode(tmp_path / "a.mp4", numbered(50))
    late = ("-f", "lavfi", "-i", "sine=d=3", "-itsoffset", "1", "-i", video, "-map", "0", "-map", "1")
    ffmpeg(*late, "-c:v", "copy", tmp_path / "late.mkv")
    shown = on_display([1 + n / 25 for n in range(50)], 3.0, 12.5)
    before = ceil(1.0 * 12.5)
    assert numbers_shown(read_whole(tmp_path / "late.mkv")) == [0] * before + shown[before:]
    ffmpeg("-i", video, "-c", "copy", "-output_ts_offset", "5", tmp_path / "offset.ts")
    assert numbers_shown(read_whole(tmp_path / "offset.ts")) == list(range(0, 50, 2))


def test_a_change_of_size_in_mid_stream_changes_neither_frame_size_nor_time(tmp_path: Path) -> None:
    options = (*H264, "-bf", "0", "-output_ts_offset")
    parts = [
        encode(tmp_path / "0.ts", numbered(50), options=(*options, "0")),
        encode(tmp_path / "1.ts", numbered(50, 50, side=128), options=(*options, "2")),
        encode(tmp_path / "2.ts", numbered(50, 100), options=("-vf", "scale=32:64,setsar=2", *options, "4")),
    ]
    frames, _ = read(b"".join(part.read_bytes() for part in parts))
    shown, expected = numbers_shown(frames), list(range(0, 150, 2))
    assert len(shown) == len(expected)
    wrong = [k for k, (got, want) in enumerate(zip(shown, expected, strict=True)) if got != want]
    assert all(k in (25, 50) and shown[k] == shown[k - 1] for k in wrong)


@settings(max_examples=8)
@given(chunk_frames=st.integers(1, 40))
def test_the_size_of_chunks_does_not_change_the_frames(chunk_frames: int) -> None:
    frames, _ = read(_contents()[0], chunk_frames=chunk_frames)
    assert numbers_shown(frames) == list(range(0, 50, 2))


def test_chunks_are_the_consumers_to_keep_and_to_change(tmp_path: Path) -> None:
    with VideoReader(encode(tmp_path / "a.mp4", numbered(50)), sampling(), chunk_frames=5) as reader:
        chunks = list(reader)
    kept = [chunk.copy() for chunk in chunks]
    chunks[0][:] = 0
    assert all(np.array_equal(a, b) for a, b in zip(chunks[1:], kept[1:], strict=True))
    assert all(chunk.flags.owndata for chunk in chunks)


def test_bytes_give_the_frames_of_the_file(tmp_path: Path) -> None:
    path = encode(tmp_path / "a.mp4", numbered(50))
    assert np.array_equal(read_whole(path.read_bytes()), read_whole(str(path)))


# Geometry

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def corners(frame: Frames) -> list[tuple[int, ...]]:
    """The colours of the four quadrants, row by row, each channel rounded to 0 or 255."""
    at = (len(frame) // 4, len(frame) * 3 // 4)
    return [tuple(int(c > 127) * 255 for c in frame[y, x]) for y in at for x in at]


@pytest.mark.parametrize(
    ("degrees", "expected"),
    [
        (0, [RED, GREEN, BLUE, WHITE]),
        (90, [GREEN, WHITE, RED, BLUE]),
        (180, [WHITE, BLUE, GREEN, RED]),
        (270, [BLUE, RED, WHITE, GREEN]),
    ],
)
def test_rotation_metadata_is_applied(tmp_path: Path, degrees: int, expected: list[tuple[int, ...]]) -> None:
    upright = encode(tmp_path / "a.mp4", quadrants(96, 64))
    ffmpeg("-display_rotation", str(degrees), "-i", upright, "-c", "copy", tmp_path / "turned.mp4")
    assert corners(read_whole(tmp_path / "turned.mp4")[0]) == expected


@pytest.mark.parametrize(("width", "height"), [(67, 53), (53, 67), (65, 64), (33, 35)])
def test_odd_sizes(tmp_path: Path, width: int, height: int) -> None:
    path = encode(tmp_path / "a.webm", quadrants(width, height), options=(*VP9, "-pix_fmt", "yuv420p"))
    assert corners(read_whole(path)[0]) == [RED, GREEN, BLUE, WHITE]


def test_the_last_column_of_an_odd_size_is_kept(tmp_path: Path) -> None:
    ramp = np.broadcast_to(np.arange(33, dtype=np.uint8)[None, None, :, None] * 7, (1, 33, 33, 3))
    path = encode(tmp_path / "a.mkv", ramp, options=(*LOSSLESS, "-pix_fmt", "yuv420p"))
    frames = read_whole(path, sampling(side=33))
    assert np.abs(frames.astype(int) - ramp).max() <= 3


@pytest.mark.parametrize(
    ("width", "height", "shape"), [(192, 256, "4/3"), (256, 192, "3/4"), (240, 360, "2"), (256, 256, "1")]
)
def test_non_square_pixels_are_shown_square(tmp_path: Path, width: int, height: int, shape: str) -> None:
    diameter = 0.7 * min(width * float(Fraction(shape)), height)  # as displayed
    picture = disc(width, height, across=diameter / float(Fraction(shape)), down=diameter)
    path = encode(tmp_path / "a.mkv", picture, options=("-vf", f"setsar={shape}", *LOSSLESS))
    inside = read_whole(path)[0, :, :, 1] > 127
    across, down = inside.any(axis=0).sum(), inside.any(axis=1).sum()
    assert abs(int(across) - int(down)) <= 1
    assert down == pytest.approx(0.7 * SIDE, abs=1.5)


def test_the_crop_is_the_centre(tmp_path: Path) -> None:
    ramp = np.broadcast_to(np.arange(128, dtype=np.uint8)[None, None, :, None] * 2, (1, 64, 128, 3))
    path = encode(tmp_path / "a.mkv", ramp, options=(*LOSSLESS, "-pix_fmt", "bgr0"))
    assert np.array_equal(read_whole(path), ramp[:, :, 32:96])
    middle = read_whole(path, Sampling(fps=12.5, shortest_side=64, crop_size=32))
    assert np.array_equal(middle, ramp[:, 16:48, 48:80])


def test_scaling_down_averages(tmp_path: Path) -> None:
    ramp = np.broadcast_to(np.arange(256, dtype=np.uint8)[None, :, None, None], (1, 256, 256, 3))
    path = encode(tmp_path / "a.mkv", ramp, options=(*LOSSLESS, "-pix_fmt", "bgr0"))
    means = ramp.reshape(1, 64, 4, 64, 4, 3).mean(axis=(2, 4))
    assert np.abs(read_whole(path) - means)[:, 2:-2, 2:-2].max() <= 1


def test_an_absurdly_long_picture_costs_no_memory(tmp_path: Path) -> None:
    path = encode(tmp_path / "a.mkv", np.full((1, 2, 16000, 3), 255, np.uint8), options=LOSSLESS)
    limits = Limits(memory_bytes=1 << 30)  # scaled as it is, one picture would take 25 GB
    how = Sampling(fps=1.0, shortest_side=1024, crop_size=64)
    with VideoReader(path, how, chunk_frames=1, limits=limits) as reader:
        assert next(reader).min() > 250


@pytest.mark.parametrize(
    ("fps", "crop_size"),
    [(0.0, 64), (-1.0, 64), (float("nan"), 64), (float("inf"), 64), (241.0, 64), (25.0, 65)],
)
def test_impossible_sampling_is_refused(fps: float, crop_size: int) -> None:
    with pytest.raises(ValueError, match=r"fps|crop size"):
        Sampling(fps=fps, shortest_side=64, crop_size=crop_size)


# Damage


def test_a_file_that_breaks_gives_the_frames_before_and_says_so(tmp_path: Path) -> None:
    path = encode(tmp_path / "a.mp4", numbered(250), options=(*H264, "-movflags", "faststart"))
    content = path.read_bytes()
    frames, damage = read(content[: len(content) * 3 // 4])
    assert 30 < len(frames) < 110
    assert np.array_equal(frames[:-2], read_whole(path)[: len(frames) - 2])
    assert damage is not None
    assert "\n" not in damage
    assert (end := re.search(r"the frames end at second ([\d.]+) of 10$", damage))
    assert float(end[1]) == pytest.approx(len(frames) / 12.5, abs=0.1)


def test_errors_that_the_decoder_hides_are_damage_too(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (250, SIDE, SIDE, 3), dtype=np.uint8)
    content = bytearray(encode(tmp_path / "a.mp4", noise).read_bytes())
    middle = len(content) // 2
    content[middle : middle + 2000] = bytes(2000)
    frames, damage = read(bytes(content))
    assert len(frames) == 125
    assert damage is not None
    assert re.fullmatch(
        r"broken \(.+; [1-9]\d* errors in all\), the frames end at second 10\.0 of 10", damage
    )


@pytest.mark.parametrize("kind", ["mp4", "mkv", "ts"])
def test_damage_is_told_alike_each_time(tmp_path: Path, kind: str) -> None:
    """However fast the frames are taken, and also for a segment, whose decoder is stopped early."""
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 255, (250, SIDE, SIDE, 3), dtype=np.uint8)
    content = bytearray(encode(tmp_path / f"a.{kind}", noise).read_bytes())
    for place in rng.integers(len(content) // 4, len(content) * 9 // 10, 40):
        content[place] ^= 255
    for end in (None, 6.0):
        told = set()
        for pause in (0.0, 0.02, 0.0):
            segment = VideoSegment(bytes(content), end_seconds=end)
            with VideoReader(segment, sampling(), chunk_frames=5) as reader:
                for _ in reader:
                    time.sleep(pause)
            told.add(reader.warning)
        assert len(told) == 1 and None not in told


@cache
def _contents() -> list[bytes]:
    with tempfile.TemporaryDirectory() as folder:
        return [
            encode(Path(folder) / f"a.{kind}", numbered(50)).read_bytes() for kind in ("mp4", "mkv", "ts")
        ]


@settings(max_examples=25)
@given(st.data())
def test_whatever_is_broken_there_are_frames_or_one_error(data: st.DataObject) -> None:
    content = bytearray(data.draw(st.sampled_from(_contents())))
    for _ in range(data.draw(st.integers(1, 5))):
        start = data.draw(st.integers(0, len(content) - 1))
        content[start : start + 8] = data.draw(st.binary(max_size=16))
    try:
        limits = Limits(duration_seconds=60.0)  # a broken time stamp may make one picture last for hours
        with VideoReader(bytes(content), sampling(), chunk_frames=50, limits=limits) as reader:
            assert sum(map(len, reader)) > 0
    except VideoError as error:
        assert "\n" not in str(error)
        assert str(error).startswith(f"video of {len(content)} bytes: ")
    else:
        assert reader.warning is None or "\n" not in reader.warning
