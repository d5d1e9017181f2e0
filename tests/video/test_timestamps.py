"""Files whose timestamps are wrong, jump or pause, and files of several tracks, with the real ffmpeg."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sfavivit.errors import NoVideoStreamError, VideoError, VideoLimitError
from sfavivit.video.limits import Limits
from sfavivit.video.pipe import VideoPipe
from sfavivit.video.reader import VideoReader
from sfavivit.video.source import OpenSource, Source, VideoSegment
from tests.video_files import H264, encode, ffmpeg, numbered, numbers_shown, retimed, sampling

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


@pytest.fixture(scope="module")
def regular(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight seconds of 25 pictures a second, with B-frames."""
    options = (*B_FRAMES, "-movflags", "+faststart")
    return encode(tmp_path_factory.mktemp("video") / "a.mp4", numbered(200), options=options)


@pytest.mark.parametrize("late", [40, 3600, 36000])
@pytest.mark.parametrize("kind", ["mp4", "mkv"])
def test_a_late_timestamp_costs_its_picture_only(regular: Path, tmp_path: Path, kind: str, late: int) -> None:
    glitch = retimed(regular, tmp_path / f"a.{kind}", f"PTS+if(between(N\\,60\\,61)\\,{late}/TB\\,0)")
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


@pytest.mark.parametrize("wrong", [1, 3])
def test_wrong_first_timestamps_cost_nothing(tmp_path: Path, wrong: int) -> None:
    """ffmpeg takes the first time for zero, so all others are negative."""
    plain = encode(tmp_path / "a.mkv", numbered(200))
    late = retimed(plain, tmp_path / "late.mkv", f"if(lt(N\\,{wrong})\\,PTS+500/TB\\,PTS)")
    numbers, warning = shown(late)
    assert len(numbers) in (100, 101) and set(range(4, 200, 2)) <= set(numbers)
    assert warning is not None and "near second 0." in warning


@pytest.mark.parametrize("fps", [12.5, 1.0, 0.4])
def test_a_track_that_begins_late_shows_its_first_picture_until_then(
    regular: Path, tmp_path: Path, fps: float
) -> None:
    sound, maps = ("-f", "lavfi", "-i", "sine=d=8"), ("-map", "0:v", "-map", "1:a", "-c:v", "copy")
    ffmpeg("-itsoffset", "0.1", "-i", regular, *sound, *maps, tmp_path / "late.mp4")
    with VideoReader(tmp_path / "late.mp4", sampling(fps), chunk_frames=200) as reader:
        assert numbers_shown(next(reader))[0] == 0
        assert reader.warning is None


def test_containers_whose_times_are_guessed_or_wrap_are_read(tmp_path: Path) -> None:
    """MPEG-PS has times for some pictures only; FLV's of before the start lie at 2**32 ms."""
    options = ("-c:v", "mpeg2video", "-bf", "2", "-q:v", "2")
    numbers, warning = shown(encode(tmp_path / "a.mpg", numbered(200), fps=30, options=options))
    assert (len(numbers), warning) == (84, None)
    whole = encode(tmp_path / "a.mkv", numbered(200))
    cut = ("-ss", "2.5", "-i", whole, "-c", "copy", "-t", "3", "-avoid_negative_ts", "disabled")
    ffmpeg(*cut, tmp_path / "a.flv")
    assert len(shown(tmp_path / "a.flv", limits=Limits())[0]) > 30


@pytest.mark.parametrize(
    "forged",
    [
        "x",
        "x\n[error] bad_alloc\n",
        f"x\n[Eval @ 0x1] [info] {'9' * 4400}.0\n",
        "x\n[Eval @ 0x1] [info] 3000000.0\n[info]   Stream #0:0: Video: h264, yuv420p, 64x64\n",
        "x\n[info] Stream mapping:\n[info]   Stream #0:77 -> #0:0 (h264)\n[Eval @ 0x1] [info] 7.0",
    ],
)
def test_a_language_that_looks_like_a_log_does_no_harm(regular: Path, tmp_path: Path, forged: str) -> None:
    """ffmpeg prints it as it is."""
    tag = ("-metadata:s:v", f"language=en\n{forged}")
    ffmpeg("-i", regular, "-c", "copy", *tag, tmp_path / "a.mkv")
    try:
        numbers, _ = shown(tmp_path / "a.mkv")
    except VideoError as error:
        assert "\n" not in str(error)
    else:
        assert len(numbers) in (100, 101)


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
    lost = kind == "ts"  # its size changes, too
    assert numbers == [*range(0, 100, 2), *[99 - lost] * 450000, *range(100, 200, 2)]
    assert warning == "a gap without a new picture of 36000.0 s, near second 4.0" + lost * (
        "; a picture was lost near second 4.0, where the size or format changes"
    )


def _paused(regular: Path, folder: Path, kind: str, seconds: int) -> Path:
    time = f"if(gte(PTS*TB\\,4)\\,{seconds}/TB\\,0)"
    path = folder / f"paused.{kind}"
    if kind != "ts":
        return retimed(regular, path, f"PTS+{time}")
    for n, cut in enumerate((("-t", "4"), ("-ss", "4", "-output_ts_offset", str(seconds + 4)))):
        ffmpeg(
            "-i",
            regular,
            *cut,
            *("-vf", "scale=128:64,setsar=1/2") * n,
            *H264,
            "-bf",
            "0",
            "-muxdelay",
            "0",
            folder / f"{n}.ts",
        )
    path.write_bytes(b"".join((folder / f"{n}.ts").read_bytes() for n in range(2)))
    return path


@pytest.mark.parametrize(("which", "kept"), [("eq(N\\,100)", 99), ("not(mod(N\\,3))", 60)])
def test_times_beyond_any_are_out_of_order(regular: Path, tmp_path: Path, which: str, kept: int) -> None:
    plain = encode(tmp_path / "a.mkv", numbered(200))
    far = retimed(plain, tmp_path / "far.mkv", f"if({which}\\,PTS+pow(2\\,60)\\,PTS)")
    numbers, warning = shown(far)
    assert len(numbers) in (99, 100, 101)
    assert len(set(numbers) & set(range(0, 200, 2))) >= kept
    assert warning is not None and "out of order" in warning


def test_a_pause_beyond_the_limit_is_refused(regular: Path, tmp_path: Path) -> None:
    paused = _paused(regular, tmp_path, "mkv", 4000)
    with pytest.raises(VideoLimitError, match=r"no new picture for 4000\.0 s near second 4\.0, the limit is"):
        shown(paused, limits=Limits())


@settings(max_examples=15)
@given(st.lists(st.sampled_from([0.001, 0.04, 0.3, 1.0, 60.0, 1800.0]), min_size=2, max_size=30))
def test_uneven_pictures_are_shown_at_their_times_in_little_memory(
    tmp_path_factory: pytest.TempPathFactory, steps: list[float]
) -> None:
    """Slides, screen recordings and clips in one, each picture shown until the next."""
    folder = tmp_path_factory.mktemp("uneven")
    times = [sum(steps[:n]) for n in range(len(steps))]
    path = encode(
        folder / "a.mkv",
        numbered(len(times)),
        options=("-vf", f"settb=1/1000,setpts='{_table(times)}'", "-fps_mode", "passthrough", *UNEVEN),
    )
    numbers, _ = shown(path)
    instants = [k / 12.5 + 0.002 for k in range(len(numbers))]
    expected = [max((n for n, time in enumerate(times) if time <= at + 1e-9), default=0) for at in instants]
    assert numbers == expected
    assert len(numbers) > times[-1] * 12.5


UNEVEN = ("-enc_time_base", "1:1000", "-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p")


def _table(times: list[float]) -> str:
    """Expression of ffmpeg's that gives picture N its time in milliseconds."""
    return "+".join(f"eq(N,{n})*{round(1000 * time)}" for n, time in enumerate(times))


@pytest.mark.parametrize(("codec", "late"), [("libx264", 2), ("mpeg4", 1), ("mjpeg", 0)])
def test_a_container_without_presentation_times_loses_nothing(tmp_path: Path, codec: str, late: int) -> None:
    """AVI has decoding times only, which begin ``late`` pictures early."""
    options = ("-c:v", codec, "-q:v", "1", "-pix_fmt", "yuvj420p" if codec == "mjpeg" else "yuv420p")
    b_frames = () if codec == "mjpeg" else ("-bf", "2")
    numbers, warning = shown(encode(tmp_path / "a.avi", numbered(100), options=(*options, *b_frames)))
    assert warning is None
    assert numbers == [max(0, 2 * k - late) for k in range(50 + (late + 1) // 2)]


def test_the_default_track_is_read_and_the_others_are_told(regular: Path, tmp_path: Path) -> None:
    still = encode(tmp_path / "still.mp4", numbered(1, 9, side=128))
    tracks = ("-i", still, "-i", regular, "-map", "0", "-map", "1", "-c", "copy")
    ffmpeg(*tracks, "-disposition:v:0", "0", "-disposition:v:1", "default", tmp_path / "default.mp4")
    ffmpeg(*tracks, "-disposition:v:0", "0", "-disposition:v:1", "0", tmp_path / "larger.mkv")
    numbers, warning = shown(tmp_path / "default.mp4")
    assert numbers == list(range(0, 200, 2))
    assert warning == (
        "2 video tracks, of which track 1 (64x64, the default) was read; --video-track N reads another"
    )
    assert shown(tmp_path / "default.mp4", video_track=1) == (numbers, None)
    assert shown(tmp_path / "default.mp4", video_track=0) == ([9], None)
    numbers, warning = shown(tmp_path / "larger.mkv")
    assert (numbers, (warning or "")[:51]) == ([9], "2 video tracks, of which track 0 (128x128) was read")
    with pytest.raises(NoVideoStreamError, match="no video track 2, only 0 to 1"):
        shown(tmp_path / "default.mp4", video_track=2)


def test_a_cover_picture_is_no_video(regular: Path, tmp_path: Path) -> None:
    cover = encode(tmp_path / "cover.png", numbered(1), options=())
    sound = ("-f", "lavfi", "-i", "sine=d=2", "-i", cover)
    as_cover = ("-disposition:v:0", "attached_pic", "-c:v", "copy")
    ffmpeg(*sound, "-map", "0", "-map", "1", *as_cover, tmp_path / "song.mp4")
    with pytest.raises(NoVideoStreamError, match="no video track, only a cover picture"):
        shown(tmp_path / "song.mp4")
    ffmpeg(*sound, "-i", regular, "-map", "1", "-map", "2", *as_cover, tmp_path / "video.mp4")
    assert shown(tmp_path / "video.mp4") == (list(range(0, 200, 2)), None)
