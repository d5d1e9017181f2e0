"""Which ffmpeg to run, and the command line that turns descriptor 0 into square rgb24 frames."""

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

import ffmpeg
from imageio_ffmpeg import get_ffmpeg_exe  # type: ignore[attr-defined]

from sfavivit.config import CENTER, Crop
from sfavivit.errors import DecodeError
from sfavivit.video.sandbox import confined_command

# Containers that hold their own media. Every demuxer that opens other files or addresses (hls, dash,
# concat, image2, sdp, rtsp, imf, vobsub, lavfi, ...) is absent on purpose. The pure audio containers are
# here so that an audio file is told apart from a file that is no media at all.
CONTAINERS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,flv,asf,ogg,mxf,nut,ivf,dv,gif,yuv4mpegpipe,"
    "h263,h264,hevc,vvc,av1,obu,m4v,mpegvideo,vc1,mp3,wav,flac,aac,amr,aiff"
)

# Each decoding thread keeps whole pictures, and beyond a few the frames of one video wait for each other.
DECODER_THREADS = 4

# glibc reserves 64 MiB of address space for each thread's arena, which RLIMIT_AS counts. Of the caller's
# environment only the library path stays: FFREPORT, for one, would make ffmpeg write a file.
_ENVIRONMENT = {"LC_ALL": "C", "MALLOC_ARENA_MAX": "2"}
_KEPT = ("LD_LIBRARY_PATH",)

# A display is taken for at most this many times longer than wide; the centre is cut out of anything
# longer before it is scaled. No real video is: it keeps a 10000x2 one from becoming 1280000x256.
_MAX_ELONGATION = 4

# Containers store times in milliseconds (Matroska, FLV) or finer: a picture up to 2 ms late is on time.
_LATENESS_MICROSECONDS = 2000

# How long a picture lasts is not told from one graph to the next, so the last one would last no time.
_LAST = "tpad=stop=1:stop_mode=clone"


@dataclass(frozen=True)
class FfmpegProgram:
    """An ffmpeg executable, the files it needs to start (itself, the loader, libraries), its environment."""

    path: str
    files: tuple[str, ...]
    environment: dict[str, str]


def decode_command(
    path: str,
    *,
    fps: float,
    shortest_side: int,
    crop_size: int,
    pixels: int,
    offset_microseconds: int = 0,
    crops: Sequence[Crop] = CENTER,
) -> list[str]:
    """The ffmpeg command: descriptor 0 in, rgb24 frames on descriptor 1, its log on 2.

    A frame is [crops * crop_size, crop_size, 3]: the squares of one picture, one below the other.

    Frame k is the picture on display at ``offset_microseconds`` + k / ``fps`` seconds, or the first such if
    none is yet. The first ``fps`` filter says so by ``round=up``; its default, ``near``, would show pictures
    of up to half an output period later: 50 fps sampled at 12.5 would be pictures 1, 5, 9, not 0, 4, 8.

    Two filter graphs, one behind the other. ffmpeg rebuilds a graph when the size, shape or colours of the
    picture change in mid-stream, and then loses what its ``fps`` filter knew. The first graph therefore
    only drops the pictures that no frame needs, before they are scaled; the second sees nothing but equal
    squares, so it is never rebuilt, and keeps the timeline from 0 on without a gap: at such a change one
    frame may show the picture before it.
    """
    rate = exact_rate(fps)
    squares = f"{_scaled(shortest_side)},{_squares(crop_size, crops)}"
    fps_filter = f"fps={rate.numerator}/{rate.denominator}"
    source = ffmpeg.input(  # type: ignore[no-untyped-call]
        "fd:",
        fd=0,
        protocol_whitelist="fd",
        format_whitelist=CONTAINERS,
        max_pixels=pixels,
        threads=min(DECODER_THREADS, os.cpu_count() or 1),
        an=None,
        sn=None,
        dn=None,
    )
    frames = source.output(
        "pipe:1",
        format="rawvideo",
        pix_fmt="rgb24",
        fps_mode="passthrough",
        threads=1,
        filter_complex=f"[0:V:0]{_shifted(offset_microseconds)},{fps_filter}:round=up,{squares},{_LAST}[timed]",
        map="[frames]",
    )
    frames = frames.global_args("-filter_complex", f"[timed]{fps_filter}:start_time=0[frames]")
    options = "-hide_banner -nostdin -nostats -loglevel level+info -filter_complex_threads 1"
    return list(frames.compile(cmd=[path, *options.split()]))


def exact_rate(fps: float) -> Fraction:
    """The fraction that ffmpeg itself makes of a decimal rate."""
    return Fraction(fps).limit_denominator(1001000)


def _shifted(microseconds: int) -> str:
    return f"settb=AVTB,setpts=PTS-{_LATENESS_MICROSECONDS + microseconds}"


def _scaled(shortest_side: int) -> str:
    """Shortest side of the picture *as displayed* to ``shortest_side``.

    ffmpeg has applied the rotation before. ``sar`` is the shape of a pixel, width over height; absurd ones
    are taken for ten. ``exact`` keeps the last column of odd sizes.
    """
    shape = "clip(sar,0.1,10)"
    longest = _MAX_ELONGATION
    return (
        f"crop=w='max(1,min(iw,{longest}*ih/{shape}))':h='max(1,min(ih,{longest}*iw*{shape}))':exact=1,"
        f"scale=w='if(gt(iw*{shape},ih),round({shortest_side}*iw*{shape}/ih),{shortest_side})'"
        f":h='if(gt(iw*{shape},ih),{shortest_side},round({shortest_side}*ih/iw/{shape}))'"
        ":flags=bilinear+accurate_rnd+full_chroma_int+bitexact,format=rgb24,setsar=1"
    )


def _squares(size: int, crops: Sequence[Crop]) -> str:
    """The squares of the scaled picture, stacked."""
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
    """The ``ffmpeg`` on PATH if it can do what is asked of it, else the one of imageio-ffmpeg.

    Raises:
        DecodeError: there is neither.
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
    except RuntimeError:  # its way to say that this platform has no binary
        return


def _program(path: str) -> FfmpegProgram:
    """With the shared libraries that the loader names when asked to trace instead of to run (ld.so(8))."""
    real = str(Path(path).resolve())
    environment = _ENVIRONMENT | {name: os.environ[name] for name in _KEPT if name in os.environ}
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
    """Whether it decodes a video of one picture by the very command, and in the very sandbox, of real use.

    That covers what a version number would have to stand for: the fd protocol (6.0), filter graphs behind
    one another (7.1), the filters' options, and a program that can start with nothing but its libraries.
    """
    command = decode_command(program.path, fps=1.0, shortest_side=8, crop_size=8, pixels=64)
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
