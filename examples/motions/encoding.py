"""Encoding of frames as H.264 in MP4."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable
from contextlib import suppress
from itertools import chain
from pathlib import Path
from tempfile import TemporaryFile

import ffmpeg

from examples.motions.rendering import Frames
from sfavivit.utils.atomic import atomic_path
from sfavivit.video.ffmpeg import find_ffmpeg


def write_video(path: Path, chunks: Iterable[Frames], *, fps: float, crf: int = 23) -> None:
    """Encode chunks of uint8 [n, H, W, 3] RGB frames, all of the same even height and width.

    ``crf``: x264's quality, 0 (lossless) to 51. The file is written whole or not at all.

    Raises:
        RuntimeError: ffmpeg failed.
    """
    iterator = iter(chunks)
    first = next(iterator)
    _, height, width, _ = first.shape
    with atomic_path(path) as part, TemporaryFile() as log:
        command = (
            ffmpeg.input("pipe:0", format="rawvideo", pix_fmt="rgb24", s=f"{width}x{height}", framerate=fps)  # type: ignore[no-untyped-call]
            .output(
                str(part), format="mp4", vcodec="libx264", pix_fmt="yuv420p", crf=crf, movflags="+faststart"
            )
            .global_args("-loglevel", "error", "-nostats")
            .compile(cmd=find_ffmpeg().path)
        )
        with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=log) as encoder:
            assert encoder.stdin is not None
            with suppress(BrokenPipeError), encoder.stdin:  # when ffmpeg gives up, its log says why
                for chunk in chain([first], iterator):
                    encoder.stdin.write(chunk.tobytes())
        if encoder.returncode:
            log.seek(0)
            reason = log.read().decode(errors="replace").strip().splitlines()
            raise RuntimeError(f"{path}: ffmpeg could not encode: {reason[0] if reason else 'no reason'}")
