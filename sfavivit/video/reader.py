"""Video as chunks of uint8 frames at a steady rate, decoded by a confined ffmpeg."""

from __future__ import annotations

import math
import os
import threading
import time
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from sfavivit.arguments import check_fields, checked
from sfavivit.config import CENTER, Crop, Sampling
from sfavivit.errors import DecodeError, InvalidInputError, UsageError, VideoLimitError
from sfavivit.types import Frames
from sfavivit.video.ffmpeg import decode_command, exact_rate, find_ffmpeg
from sfavivit.video.ffmpeg_log import FfmpegLog
from sfavivit.video.process import DecoderProcess, StalledError
from sfavivit.video.sandbox import confined_command
from sfavivit.video.source import Source, VideoSegment, display_name, open_source
from sfavivit.video.timebase import FrameRange

_PIPE_FRAMES = 4  # ffmpeg's lead over the reader; no more, since errors say how many frames had been read
_MIN_MEMORY_BYTES = 512 << 20  # the address space that ffmpeg maps to start, and some


@dataclass(frozen=True)
class Limits:
    """Limits on the cost of decoding one video; :class:`VideoLimitError` beyond any of them.

    ``stall_seconds``: wall time without a frame while one is waited for. ``pixels`` of one picture.
    ``duration_seconds`` of the video, by its header or, failing that, by its frames. ``memory_bytes``:
    address space of the decoder.

    Raises:
        UsageError: a limit that is not positive, or less memory than the decoder needs to start.
    """

    stall_seconds: float = 30.0
    pixels: int = 8192 * 4320
    duration_seconds: float = 12 * 3600.0
    memory_bytes: int = 4 << 30

    def __post_init__(self) -> None:
        check_fields(self)
        for name, value in vars(self).items():
            if not value > 0:
                raise UsageError(f"limit {name} must be more than 0, got {value}")
        if self.memory_bytes < _MIN_MEMORY_BYTES:
            raise UsageError(
                f"limit memory_bytes must be at least {_MIN_MEMORY_BYTES}, got {self.memory_bytes}"
            )


class VideoReader:
    """Iterator over the frames of a video in chunks uint8 [n, crop, crop, 3], RGB.

    n is ``chunk_frames`` except in the last chunk, and every chunk is a new array. With several ``crops`` a
    chunk is uint8 [n, crops, crop, crop, 3], out of one decoding. Frame k is the picture on display k / fps
    seconds after the segment's start, or the first picture of a track that begins later; the last frame lies
    before the segment's end. Memory does not depend on the video's length, and a video can be read once.

    What lies before the segment is decoded and dropped. Seeking would be faster, but lands where a
    container's index says, which is often not the right picture.

    A damaged file gives the frames that ffmpeg can make of it; afterwards ``damage`` describes a file that
    ends too early, or errors that the decoder hid by filling in from neighbouring pictures. It quotes one
    error and counts them (neither for a segment, whose errors may lie behind it). It does not say where they
    are: ffmpeg's log does not, and the moment at which a line of it arrives depends on the machine. None
    means that ffmpeg reported no error.

    ``frames_read``: frames given so far. ``decode_seconds``: time spent waiting for them. ``close`` may be
    called from another thread, and ends an iteration there; ``damage`` then says so.

    Raises:
        VideoError: the subclass says why there are no frames (see :mod:`sfavivit.errors`); at construction
            for the file itself, at the first chunk or later for errors that only the decoder finds.
        UsageError: ``chunk_frames`` is less than 1.
        InvalidInputError: the video ends before the segment starts.
    """

    @checked
    def __init__(
        self,
        video: VideoSegment | Source,
        sampling: Sampling,
        *,
        chunk_frames: int,
        limits: Limits | None = None,
        crops: Sequence[Crop] = CENTER,
    ) -> None:
        if chunk_frames < 1:
            raise UsageError(f"chunk_frames must be at least 1, got {chunk_frames}")
        segment = video if isinstance(video, VideoSegment) else VideoSegment(video)
        frames = FrameRange.of(segment.start_seconds, segment.end_seconds, exact_rate(sampling.fps))
        self._start_seconds = segment.start_seconds
        self._to_skip, self._remaining = frames.skip, frames.count
        self.frames_read = self._frames_skipped = 0
        self.decode_seconds = 0.0
        self.damage: str | None = None
        self._name = display_name(segment.source)
        self._sampling = sampling
        self._limits = limits or Limits()
        self._crops = tuple(crops)
        per_frame = (len(self._crops),) if len(self._crops) > 1 else ()
        self._shape = (chunk_frames, *per_frame, sampling.crop_size, sampling.crop_size, 3)
        self._frame_bytes = math.prod(self._shape[1:])
        self._log = FfmpegLog()
        self._iterating = threading.Lock()
        self._ended = self._closed = False
        descriptor = open_source(segment.source)
        try:
            self._process = self._start(descriptor, frames.offset_microseconds)
        finally:
            os.close(descriptor)
        weakref.finalize(self, self._process.close)  # for a reader that is never closed

    @property
    def container_duration_seconds(self) -> float | None:
        """Duration of the whole file by its header; None if it has none, and before the first chunk."""
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

    def __exit__(self, *_: object) -> None:
        self.close()

    def cancel(self) -> None:
        """Kill ffmpeg, which ends an iteration in any thread, and return at once."""
        self._closed = True
        self._process.kill()

    def close(self) -> None:
        """Kill ffmpeg and wait until it is gone. May be called again, and from any thread."""
        self.cancel()  # which also ends a wait for frames in another thread, and frees the lock
        with self._iterating:
            if not self._ended:
                self._ended = True
                self.damage = self._closed_early()
            self._process.close()

    def _start(self, descriptor: int, offset_microseconds: int) -> DecoderProcess:
        program = find_ffmpeg()
        command = decode_command(
            program.path,
            self._sampling,
            pixels=self._limits.pixels,
            offset_microseconds=offset_microseconds,
            crops=self._crops,
        )
        return DecoderProcess(
            confined_command(command, memory_bytes=self._limits.memory_bytes, readable=program.files),
            stdin=descriptor,
            environment=program.environment,
            on_log=self._log.feed,
            stall_seconds=self._limits.stall_seconds,
            pipe_bytes=_PIPE_FRAMES * self._frame_bytes,
        )

    def _next_chunk(self) -> Frames | None:
        frames = np.empty(self._shape, np.uint8)
        count, status = 0, None
        started = time.monotonic()
        try:
            while self._to_skip and status is None:
                skipped, status = self._read(frames[: self._to_skip])
                self._to_skip -= skipped
                self._frames_skipped += skipped
                self._check_duration()
            if status is None:
                count, status = self._read(frames[: self._remaining])
        except StalledError:
            raise self._limit_error(f"no frame in {self._limits.stall_seconds:g} s (limit)") from None
        finally:
            self.decode_seconds += time.monotonic() - started
        self.frames_read += count
        self._check_duration()
        if self._remaining is not None:
            self._remaining -= count
        if status is not None or self._remaining == 0:
            self._ended = True
            self._check_end(status)
            self._process.close()
            frames = frames[:count].copy()  # a view would keep the whole chunk alive
        return frames if count else None

    def _read(self, frames: Frames) -> tuple[int, int | None]:
        """Return the number of frames read, and ffmpeg's exit status if it has no more."""
        count = self._process.read_into(frames.data.cast("B")) // self._frame_bytes
        return count, self._process.finish() if count < len(frames) else None

    def _check_duration(self) -> None:
        """Raise ``VideoLimitError`` if the video is longer than the limit, by its header or its frames."""
        limit = self._limits.duration_seconds
        if (seconds := self._log.duration_seconds or 0.0) > limit:
            raise self._limit_error(f"{seconds:g} s long by its header, the limit is {limit:g} s")
        if self._frames_skipped + self.frames_read > math.ceil(limit * self._sampling.fps):
            raise self._limit_error(f"longer than the limit of {limit:g} s")

    def _check_end(self, status: int | None) -> None:
        """Raise an error if the decoder failed or gave no frames; note damage. Called after the last frame.

        ``status``: exit status of ffmpeg; None if it was not needed any further.
        """
        if self._closed:
            self.damage = self._closed_early()
        elif error := self._log.limit_error():
            raise type(error)(f"{self._name}: {error}, near second {self._second():.1f}")
        elif status is not None and status < 0:
            raise DecodeError(
                f"{self._name}: the decoder died of signal {-status} near second {self._second():.1f}"
            )
        elif not self.frames_read and self._frames_skipped:
            end = self._frames_skipped / self._sampling.fps
            raise InvalidInputError(
                f"{self._name}: ends at second {end:.1f}, before the start ({self._start_seconds:g} s)"
            )
        elif not self.frames_read:
            error = self._log.failure()
            raise type(error)(f"{self._name}: {error}")
        elif self._log.errors or status:
            self.damage = self._describe_damage(status)

    def _describe_damage(self, status: int | None) -> str:
        log = self._log
        whole = f" of {log.duration_seconds:g}" if log.duration_seconds else ""
        error = log.quotable_error or f"ffmpeg ended with status {status}"
        # How far a decoder that is stopped early has come, and which errors it has met, is chance.
        errors = "errors" if status is None else f"{error}; {log.errors} errors in all"
        return f"broken ({errors}), the frames end at second {self._second():.1f}{whole}"

    def _second(self) -> float:
        """Time in the file of the next frame."""
        return self._start_seconds + self.frames_read / self._sampling.fps

    def _closed_early(self) -> str:
        return f"closed before the end, after {self._second():.1f} s"

    def _limit_error(self, what: str) -> VideoLimitError:
        return VideoLimitError(f"{self._name}: {what}; raise the limit if this video is meant to be read")
