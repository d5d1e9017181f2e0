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

import ffmpeg
from imageio_ffmpeg import get_ffmpeg_exe  # type: ignore[attr-defined]

from sfavivit.config import CENTER, Crop, Sampling
from sfavivit.errors import DecodeError
from sfavivit.utils.cpus import available_cpus
from sfavivit.video.ffmpeg_log import FfmpegLog
from sfavivit.video.sandbox import confined_command
from sfavivit.video.timebase import FrameTicks

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
LATENESS_MICROSECONDS = 2000

# Packets keep one time. With both, a decoder that sees one presentation time out of order goes over to the
# decoding times, which are those of other pictures (libavcodec/decode.c, guess_correct_pts).
_ONE_TIME = r"setts=pts=PTS:dts=if(eq(PTS\,NOPTS)\,DTS\,NOPTS)"


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
    index_descriptor: int,
    origin_ticks: int = 0,
    crops: Sequence[Crop] = CENTER,
    track: int | None = None,
) -> list[str]:
    """Return the ffmpeg command that reads descriptor 0 and writes pictures to descriptor 1, its log to 2.

    A picture is uint8 [crops * crop size, crop size, 3] RGB: the crops, one below the other. Only those are
    written that are on display at ``origin_ticks`` + k periods for some k (in :class:`FrameTicks` of the
    sampling's rate), and those before and after a jump of the timestamps; all others are dropped before they
    are scaled. For each crop written, the number of its picture in the order of decoding goes to
    ``index_descriptor`` as a decimal line. The log has a line ``[Eval @ ...] [info] <ticks>`` with the time
    of every decoded picture in that order, and of the end. Repeating pictures is left to the reader: here it
    would cost memory.

    ``track``: number of the video track, from 0. None: the one that ffmpeg prefers.
    """
    source = ffmpeg.input(  # type: ignore[no-untyped-call]
        "fd:",
        fd=0,
        protocol_whitelist="fd",
        format_whitelist=CONTAINERS,
        max_pixels=pixels,
        threads=min(DECODER_THREADS, available_cpus()),
        an=None,
        sn=None,
        dn=None,
        **{"bsf:v": _ONE_TIME},
    )
    pictures = f"{_scale_filter(sampling.shortest_side)},{_crop_filter(sampling.crop_size, crops)}"
    output = source.output(
        "pipe:1",
        format="rawvideo",
        pix_fmt="rgb24",
        fps_mode="passthrough",
        threads=1,
        vf=f"{_sampling_filter(exact_rate(sampling.fps), origin_ticks)},{pictures}",
        map_metadata=-1,  # a language with line breaks would be in the log again
        stats_enc_pre=f"pipe:{index_descriptor}",
        stats_enc_pre_fmt="{ni}",
        **{"bsf:v": "setts=ts=N"},  # the muxer complains of times that are equal (crops) or jump back
        **({} if track is None else {"map": f"0:v:{track}"}),
    )
    # The timeline judges jumps of the timestamps; -copyts keeps ffmpeg from taking them out of MPEG-TS.
    quiet = "-hide_banner -nostdin -nostats -loglevel repeat+level+info"  # of equal lines, too, each counts
    command = [path, *quiet.split(), "-filter_threads", "1", "-copyts", "-start_at_zero"]
    return list(output.compile(cmd=command))


def _sampling_filter(rate: Fraction, origin_ticks: int) -> str:
    """Log the time of each picture, and drop those that are on display at no frame's time.

    The ``fps`` filter drops them, since it waits for the next picture before it decides. (Frame k is the
    picture on display with ``round=up``; the default, ``near``, shows pictures of up to half a period later.)
    It would also repeat pictures, and for ever after a wrong timestamp. So it sees a steady time instead: any
    step that is not between 0 and 2 periods is replaced by one of 1 to 2 periods with the same rest, so that
    a picture before such a step is always kept, and all others fall on frames as by their own times. The
    first picture, if it comes late, is on display from the first period on, so that it is kept. Where
    the size or format of the picture changes, ffmpeg makes the filters anew, and the picture before is lost.
    """
    ticks = FrameTicks.of_rate(rate)
    period = ticks.period
    step = f"if(between(ld(0),1,{2 * period}),ld(0),mod(ld(0),{period})+{period})"
    late = f"ld(1)-{origin_ticks}"
    first = f"if(gt({late},0),mod({late},{period}),{late})"
    # Register 1 is the picture's time, or the one before where it is beyond the ticks; 2 is that before.
    times = "st(2,ld(1));st(1,if(isnan(print(PTS)),ld(1),PTS));st(0,ld(1)-ld(2))"
    time = f"{times};if(isnan(PREV_OUTPTS),{first},PREV_OUTPTS+{step})"
    return (
        f"settb={ticks.time_base.numerator}/{ticks.time_base.denominator},setpts='{time}',"
        f"fps={rate.numerator}/{rate.denominator}:round=up:start_time=0"
    )


def exact_rate(fps: float) -> Fraction:
    """Return a decimal frame rate as the fraction that ffmpeg makes of it."""
    return Fraction(fps).limit_denominator(1001000)


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
    """Cut the crops out of the scaled picture, one after the other.

    They are pictures of their own, since a stack (``vstack``) would not know the number of its picture.
    """
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
    return f"split={len(cuts)}{copies};{branches};{squares}interleave=nb_inputs={len(cuts)}"


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

    A version number would say less: this needs the fd protocol and the numbers of pictures (6.0), packet
    filters on inputs (7.1), the filters' options, and a program that starts with nothing but its libraries.
    """
    sampling = Sampling(fps=1.0, shortest_side=8, crop_size=8)
    command = decode_command(program.path, sampling, pixels=64, index_descriptor=2)
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
    log = FfmpegLog()
    log.feed(result.stderr)
    times = list(log.picture_ticks)  # of the picture and of the end
    return result.returncode == 0 and len(result.stdout) == 8 * 8 * 3 and times == [0, 1_000_000]
