"""The ffmpeg executable, and its command line that turns a video into square rgb24 frames."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from pathlib import Path

from imageio_ffmpeg import get_ffmpeg_exe  # type: ignore[attr-defined]

from sfavivit.config import CENTER, Crop, Sampling
from sfavivit.errors import DecodeError
from sfavivit.video.sandbox import confined_command

# Containers that hold their own media. Demuxers that open other files or addresses (hls, dash, concat,
# image2, sdp, rtsp, imf, vobsub, lavfi, ...) are absent on purpose. The audio containers distinguish an audio
# file from one that is no media at all.
CONTAINERS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,flv,asf,ogg,mxf,nut,ivf,dv,gif,yuv4mpegpipe,"
    "h263,h264,hevc,vvc,av1,obu,m4v,mpegvideo,vc1,mp3,wav,flac,aac,amr,aiff"
)

# Each decoding thread keeps whole pictures, and more than a few wait for each other.
DECODER_THREADS = 4

# glibc reserves 64 MiB of address space for each thread's arena, which RLIMIT_AS counts. Of the caller's
# environment only the library path is kept: FFREPORT, for one, would make ffmpeg write a file.
_ENVIRONMENT = {"LC_ALL": "C", "MALLOC_ARENA_MAX": "2"}
_KEPT_VARIABLES = ("LD_LIBRARY_PATH",)

# Pictures are cropped to this ratio of long to short side before they are scaled, so that a hostile file of
# 10000x2 pixels does not become 1280000x256. No real video is longer.
_MAX_ASPECT_RATIO = 4

# Containers store times in milliseconds (Matroska, FLV) or finer: a picture up to 2 ms late is on time.
_LATENESS_MICROSECONDS = 2000

# The duration of a picture does not pass from one graph to the next: the last one would have none.
_HOLD_LAST = "tpad=stop=1:stop_mode=clone"


@dataclass(frozen=True)
class FfmpegProgram:
    """An ffmpeg executable, its environment, and the ``files`` that it opens: itself and its libraries."""

    path: str
    files: tuple[str, ...]
    environment: dict[str, str]


def decode_command(
    path: str,
    sampling: Sampling,
    *,
    pixels: int,
    offset_microseconds: int = 0,
    crops: Sequence[Crop] = CENTER,
) -> list[str]:
    """Return the ffmpeg command that reads descriptor 0 and writes frames to descriptor 1, its log to 2.

    A frame is uint8 [crops * crop size, crop size, 3] RGB: the crops of one picture, one below the other.

    Frame k is the picture on display at ``offset_microseconds`` + k / fps seconds, or the first picture
    if none is on display yet. That is ``round=up`` of the ``fps`` filter; its default, ``near``, would show
    pictures of up to half a period later: 50 fps sampled at 12.5 would be pictures 1, 5, 9, not 0, 4, 8.

    The command chains two filter graphs. ffmpeg rebuilds a graph when the size, shape or colours of the
    picture change in mid-stream, and the state of its ``fps`` filter is lost. The first graph therefore only
    drops the pictures that no frame needs, before they are scaled. The second sees nothing but equal squares,
    so it is never rebuilt, and keeps the timeline from 0 on without a gap; at such a change one frame may
    show the picture before it.
    """
    rate = exact_rate(sampling.fps)
    fps_filter = f"fps={rate.numerator}/{rate.denominator}"
    pictures = f"{_scale_filter(sampling.shortest_side)},{_crop_filter(sampling.crop_size, crops)}"
    timed = (
        f"[0:V:0]{_shift_filter(offset_microseconds)},{fps_filter}:round=up,{pictures},{_HOLD_LAST}[timed]"
    )
    threads = min(DECODER_THREADS, os.cpu_count() or 1)
    return [
        *(path, "-hide_banner", "-nostdin", "-nostats", "-loglevel", "level+info"),
        *("-filter_complex_threads", "1", "-filter_complex", timed),
        *("-filter_complex", f"[timed]{fps_filter}:start_time=0[frames]"),
        *("-protocol_whitelist", "fd", "-format_whitelist", CONTAINERS, "-max_pixels", str(pixels)),
        *("-threads", str(threads), "-an", "-sn", "-dn", "-fd", "0", "-i", "fd:"),
        *("-map", "[frames]", "-f", "rawvideo", "-pix_fmt", "rgb24", "-fps_mode", "passthrough"),
        *("-threads", "1", "pipe:1"),
    ]


def exact_rate(fps: float) -> Fraction:
    """Return a decimal frame rate as the fraction that ffmpeg makes of it."""
    return Fraction(fps).limit_denominator(1001000)


def _shift_filter(microseconds: int) -> str:
    return f"settb=AVTB,setpts=PTS-{_LATENESS_MICROSECONDS + microseconds}"


def _scale_filter(shortest_side: int) -> str:
    """Scale the shortest side of the picture *as displayed* to ``shortest_side``.

    ffmpeg has applied the rotation before. ``sar`` is the aspect ratio of a pixel, clipped where it is
    absurd. ``exact`` keeps the last column of odd sizes.
    """
    shape = "clip(sar,0.1,10)"
    longest = _MAX_ASPECT_RATIO
    return (
        f"crop=w='max(1,min(iw,{longest}*ih/{shape}))':h='max(1,min(ih,{longest}*iw*{shape}))':exact=1,"
        f"scale=w='if(gt(iw*{shape},ih),round({shortest_side}*iw*{shape}/ih),{shortest_side})'"
        f":h='if(gt(iw*{shape},ih),{shortest_side},round({shortest_side}*ih/iw/{shape}))'"
        ":flags=bilinear+accurate_rnd+full_chroma_int+bitexact,format=rgb24,setsar=1"
    )


def _crop_filter(size: int, crops: Sequence[Crop]) -> str:
    """Cut the crops out of the scaled picture and stack them."""
    cuts = [
        f"crop={size}:{size}:x='(iw-ow)*if(gte(iw,ih),{crop.along},{crop.across})'"
        f":y='(ih-oh)*if(gte(iw,ih),{crop.across},{crop.along})'" + (",hflip" if crop.flip else "")
        for crop in crops
    ]
    if len(cuts) == 1:
        return cuts[0]
    copies = "".join(f"[whole{k}]" for k in range(len(cuts)))
    branches = ";".join(f"[whole{k}]{cut}[square{k}]" for k, cut in enumerate(cuts))
    squares = copies.replace("whole", "square")
    return f"split={len(cuts)}{copies};{branches};{squares}vstack=inputs={len(cuts)}"


@lru_cache(maxsize=1)
def find_ffmpeg() -> FfmpegProgram:
    """Return the ``ffmpeg`` on PATH if it passes a trial run, else the one that imageio-ffmpeg bundles.

    Raises:
        DecodeError: no ffmpeg is installed.
    """
    candidates = list(_candidates())
    for program in candidates[:-1]:
        if _works(program):
            return program
    if not candidates:
        raise DecodeError("no ffmpeg found: install ffmpeg 7.1 or later, or the package imageio-ffmpeg")
    return candidates[-1]


def _candidates() -> Iterator[FfmpegProgram]:
    if on_path := shutil.which("ffmpeg"):
        yield _program(on_path)
    try:
        yield _program(get_ffmpeg_exe())  # type: ignore[no-untyped-call]
    except RuntimeError:  # raised on platforms without a binary
        return


def _program(path: str) -> FfmpegProgram:
    """Find the shared libraries of an executable by the loader's trace mode (ld.so(8))."""
    real = str(Path(path).resolve())
    environment = _ENVIRONMENT | {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ}
    try:
        traced = subprocess.run(
            [real],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env=environment | {"LD_TRACE_LOADED_OBJECTS": "1"},
            timeout=20,
            check=False,
        )
        libraries = re.findall(r"(?:=> |^\s*)(/\S+)", traced.stdout.decode(errors="replace"), re.MULTILINE)
    except (OSError, subprocess.TimeoutExpired):
        libraries = []
    return FfmpegProgram(real, (real, "/etc/ld.so.cache", *libraries), environment)


def _works(program: FfmpegProgram) -> bool:
    """Try to decode a video of one picture with the command and the sandbox of real use.

    A version number would say less: this needs the fd protocol (6.0), chained filter graphs (7.1), the
    filters' options, and a program that starts with nothing but its libraries.
    """
    command = decode_command(program.path, Sampling(fps=1.0, shortest_side=8, crop_size=8), pixels=64)
    with tempfile.TemporaryFile() as video:
        video.write(b"YUV4MPEG2 W8 H8 F1:1 Ip A1:1 C420jpeg\nFRAME\n" + bytes(96))
        video.seek(0)
        try:
            result = subprocess.run(
                confined_command(command, memory_bytes=1 << 30, readable=program.files),
                stdin=video,
                capture_output=True,
                env=program.environment,
                timeout=20,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired):
            return False
    return result.returncode == 0 and len(result.stdout) == 8 * 8 * 3
