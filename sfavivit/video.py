"""A video file becomes chunks of uint8 frames at a steady rate, through a confined ffmpeg."""

from __future__ import annotations

import math
import os
import threading
import time
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Annotated, Self

import numpy as np
import pydantic.dataclasses
from numpy.typing import NDArray
from pydantic import Field, model_validator

from sfavivit.decoder_process import DecoderProcess, StalledError
from sfavivit.dimensions import STRICT
from sfavivit.errors import (
    DecodeError,
    UsageError,
    VideoLimitError,
)
from sfavivit.ffmpeg_log import FfmpegLog
from sfavivit.ffmpeg_program import decode_command, find_ffmpeg
from sfavivit.sandbox import confined_command
from sfavivit.video_source import Source, display_name, open_source

__all__ = ["Frames", "Limits", "Sampling", "Source", "VideoReader"]

Frames = NDArray[np.uint8]

PixelCount = Annotated[int, Field(gt=0, le=4096)]


@pydantic.dataclasses.dataclass(frozen=True, config=STRICT)
class Sampling:
    """How pictures become frames: ``fps`` a second of video, the centre of the shortest side scaled.

    It travels in the manifest, so that a model always gets frames as it was trained on.
    """

    fps: Annotated[float, Field(ge=1e-3, le=240, allow_inf_nan=False)]
    shortest_side: PixelCount
    crop_size: PixelCount

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.crop_size > self.shortest_side:
            raise ValueError(
                f"crop size {self.crop_size} is more than the shortest side {self.shortest_side}"
            )
        return self


@dataclass(frozen=True)
class Limits:
    """What a video may cost. Beyond any of them: :class:`VideoLimitError`.

    ``stall_seconds``: wall time without a frame while one is waited for. ``pixels``: of one picture.
    ``duration_seconds``: of the video, by its header or, failing that, by its frames. ``memory_bytes``:
    address space of the decoder.
    """

    stall_seconds: float = 30.0
    pixels: int = 8192 * 4320
    duration_seconds: float = 12 * 3600.0
    memory_bytes: int = 4 << 30

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not value > 0:
                raise UsageError(f"limit {name} must be more than 0, got {value}")
        if self.memory_bytes < _LEAST_MEMORY_BYTES:
            raise UsageError(
                f"limit memory_bytes must be at least {_LEAST_MEMORY_BYTES}, got {self.memory_bytes}"
            )


# What ffmpeg may write ahead. No more, since its log is dated by the frames that have been read.
_FRAMES_AHEAD = 4

_LEAST_MEMORY_BYTES = 512 << 20  # what ffmpeg maps to start at all, and some


class VideoReader:
    """Iterate over the frames of a video in chunks: uint8 [n, crop, crop, 3], RGB.

    n is ``chunk_frames`` except in the last chunk. Every chunk is a new array. Frame k is the picture on
    display k / fps seconds after the start of the file (before there is one: the first frame that follows).
    A video can be read once; memory does not depend on its length.

    A file that breaks gives the frames that ffmpeg can make of it, and ``damage`` says so afterwards. This
    covers a file that ends too early as well as errors that the decoder hides by filling in from
    neighbouring pictures; None means that ffmpeg reported no error at all.

    ``close`` may be called from another thread, and ends an iteration there; ``damage`` then says that.

    Raises:
        VideoError: the subclass says why there are no frames (see :mod:`sfavivit.errors`); what concerns
            the file itself at construction, what only the decoder finds out at the first chunk or later.
    """

    def __init__(
        self, source: Source, sampling: Sampling, *, chunk_frames: int, limits: Limits | None = None
    ) -> None:
        if chunk_frames < 1:
            raise UsageError(f"chunk_frames must be at least 1, got {chunk_frames}")
        self.frames_read = 0
        self.decode_seconds = 0.0
        self.damage: str | None = None
        self._name = display_name(source)
        self._sampling = sampling
        self._limits = limits or Limits()
        self._shape = (chunk_frames, sampling.crop_size, sampling.crop_size, 3)
        self._frame_bytes = math.prod(self._shape[1:])
        self._log = FfmpegLog()
        self._iterating = threading.Lock()
        self._ended = self._closed = False
        descriptor = open_source(source)
        try:
            self._process = self._start(descriptor)
        finally:
            os.close(descriptor)
        weakref.finalize(self, self._process.close)  # for a reader that is forgotten

    @property
    def container_duration_seconds(self) -> float | None:
        """Of the whole file by its header; None when it does not say, or before the first chunk."""
        return self._log.duration_seconds

    def __iter__(self) -> Iterator[Frames]:
        return self

    def __next__(self) -> Frames:
        with self._iterating:
            if self._ended:
                raise StopIteration
            try:
                frames = self._next_chunk()
            except BaseException:
                self._ended = True
                self._process.close()
                raise
            if frames is None:
                raise StopIteration
            return frames

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Kill ffmpeg with its group and wait until it is gone. May be called again, from any thread."""
        self._closed = True
        self._process.kill()  # which also ends a wait for frames in another thread, and frees the lock
        with self._iterating:
            if not self._ended:
                self._ended = True
                self.damage = self._closed_after()
            self._process.close()

    def _start(self, descriptor: int) -> DecoderProcess:
        program = find_ffmpeg()
        command = decode_command(
            program.path,
            fps=self._sampling.fps,
            shortest_side=self._sampling.shortest_side,
            crop_size=self._sampling.crop_size,
            pixels=self._limits.pixels,
        )
        return DecoderProcess(
            confined_command(command, memory_bytes=self._limits.memory_bytes, readable=program.files),
            stdin=descriptor,
            environment=program.environment,
            on_log=self._log.feed,
            stall_seconds=self._limits.stall_seconds,
            pipe_bytes=_FRAMES_AHEAD * self._frame_bytes,
        )

    def _next_chunk(self) -> Frames | None:
        frames = np.empty(self._shape, np.uint8)
        started = time.monotonic()
        try:
            count = self._process.read_into(frames.data.cast("B")) // self._frame_bytes
            if count < len(frames):
                self._ended = True
                status = self._process.finish()
        except StalledError:
            raise self._limit(f"no frame in {self._limits.stall_seconds:g} s (limit)") from None
        finally:
            self.decode_seconds += time.monotonic() - started
        self.frames_read += count
        self._check_duration()
        if self._ended:
            self._judge(status)
            self._process.close()
            frames = frames[:count].copy()  # a view would keep the whole chunk alive
        return frames if count else None

    def _check_duration(self) -> None:
        limit = self._limits.duration_seconds
        if (seconds := self._log.duration_seconds or 0.0) > limit:
            raise self._limit(f"{seconds:g} s long by its header, the limit is {limit:g} s")
        if self.frames_read > math.ceil(limit * self._sampling.fps):
            raise self._limit(f"longer than the limit of {limit:g} s")

    def _judge(self, status: int) -> None:
        """At the end: a limit, no frames at all, or frames and possibly damage."""
        log = self._log
        if self._closed:
            self.damage = self._closed_after()
        elif error := log.limit():
            raise type(error)(f"{self._name}: {error}, near second {self._seconds(self.frames_read):.1f}")
        elif status < 0:
            where = f"near second {self._seconds(self.frames_read):.1f}"
            raise DecodeError(f"{self._name}: the decoder died of signal {-status} {where}")
        elif not self.frames_read:
            error = log.failure()
            raise type(error)(f"{self._name}: {error}")
        elif log.errors or status:
            broken = self._seconds(log.first_error_at // self._frame_bytes)
            whole = f" of {log.duration_seconds:g}" if log.duration_seconds else ""
            self.damage = (
                f"broken near second {broken:.1f} ({log.first_error}; {log.errors} errors in all), "
                f"the frames end at second {self._seconds(self.frames_read):.1f}{whole}"
            )

    def _seconds(self, frames: int) -> float:
        return frames / self._sampling.fps

    def _closed_after(self) -> str:
        return f"closed before the end, after {self._seconds(self.frames_read):.1f} s"

    def _limit(self, what: str) -> VideoLimitError:
        return VideoLimitError(f"{self._name}: {what}; raise the limit if this video is meant to be read")
