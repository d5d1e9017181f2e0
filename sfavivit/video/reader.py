"""A video file becomes chunks of uint8 frames at a steady rate, through a confined ffmpeg."""

from __future__ import annotations

import math
import os
import threading
import time
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import numpy as np

from sfavivit.config import CENTER, Crop, Sampling
from sfavivit.errors import DecodeError, InvalidInputError, UsageError, VideoLimitError
from sfavivit.types import Frames
from sfavivit.utils.prefetch import ReadAhead
from sfavivit.video.ffmpeg import decode_command, exact_rate, find_ffmpeg
from sfavivit.video.ffmpeg_log import FfmpegLog
from sfavivit.video.process import DecoderProcess, StalledError
from sfavivit.video.sandbox import confined_command
from sfavivit.video.source import Source, VideoSegment, display_name, open_source
from sfavivit.video.timebase import periods_in, to_microseconds


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


# What ffmpeg may write ahead. No more, since errors say how many frames had been read.
_FRAMES_AHEAD = 4

_LEAST_MEMORY_BYTES = 512 << 20  # what ffmpeg maps to start at all, and some


class VideoReader:
    """Iterate over the frames of a video in chunks: uint8 [n, crop, crop, 3], RGB.

    With several ``crops`` a chunk is uint8 [n, crops, crop, crop, 3]: one decoding for all of them.

    n is ``chunk_frames`` except in the last chunk. Every chunk is a new array. Frame k is the picture on
    display k / fps seconds after the segment's start (before there is one: the first frame that follows);
    frames are those before its end. What lies before the start is decoded and dropped:
    seeking would be faster, but lands where a container's index says, which is often not the right picture.
    A video can be read once; memory does not depend on its length.

    A file that breaks gives the frames that ffmpeg can make of it, and ``damage`` says so afterwards. This
    covers a file that ends too early as well as errors that the decoder hides by filling in from
    neighbouring pictures; None means that ffmpeg reported no error at all. It quotes one error and says how
    many there were (of a part, neither: they may lie behind it), not where: ffmpeg's log does not, and when a
    line of it comes depends on the machine.

    ``close`` may be called from another thread, and ends an iteration there; ``damage`` then says that.

    Raises:
        VideoError: the subclass says why there are no frames (see :mod:`sfavivit.errors`); what concerns
            the file itself at construction, what only the decoder finds out at the first chunk or later.
        UsageError: ``chunk_frames`` is less than 1.
        InvalidInputError: the video ends before the segment starts.
    """

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
        # Whole periods before the start are frames to drop; the rest of it is left to ffmpeg.
        rate, start = exact_rate(sampling.fps), to_microseconds(segment.start_seconds)
        self._skip, self._late_microseconds = periods_in(start, rate)
        self._start_seconds = segment.start_seconds
        self._wanted: int | None = None
        if segment.end_seconds is not None:
            # A start that is a frame's counts as just that, however it was rounded.
            begin = start if self._late_microseconds else 0
            whole, rest = periods_in(to_microseconds(segment.end_seconds) - begin, rate)
            self._wanted = max(1, whole + (rest > 0) - (0 if begin else self._skip))
        self.frames_read = 0
        self._skipped = 0
        self.decode_seconds = 0.0
        self.damage: str | None = None
        self._name = display_name(segment.source)
        self._sampling = sampling
        self._limits = limits or Limits()
        self._crops = tuple(crops)
        squares = (len(self._crops),) if len(self._crops) > 1 else ()
        self._shape = (chunk_frames, *squares, sampling.crop_size, sampling.crop_size, 3)
        self._frame_bytes = math.prod(self._shape[1:])
        self._log = FfmpegLog()
        self._iterating = threading.Lock()
        self._ended = self._closed = False
        descriptor = open_source(segment.source)
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

    def cancel(self) -> None:
        """Kill ffmpeg with its group, which ends an iteration in any thread; does not wait for that."""
        self._closed = True
        self._process.kill()

    def close(self) -> None:
        """Kill ffmpeg with its group and wait until it is gone. May be called again, from any thread."""
        self.cancel()  # which also ends a wait for frames in another thread, and frees the lock
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
            late_microseconds=self._late_microseconds,
            crops=self._crops,
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
        status = None
        started = time.monotonic()
        try:
            while self._skip and status is None:
                count, status = self._read(frames[: self._skip])
                self._skip -= count
                self._skipped += count
                self._check_duration()
            count = 0
            if status is None:
                wanted = len(frames) if self._wanted is None else min(len(frames), self._wanted)
                count, status = self._read(frames[:wanted])
        except StalledError:
            raise self._limit(f"no frame in {self._limits.stall_seconds:g} s (limit)") from None
        finally:
            self.decode_seconds += time.monotonic() - started
        self.frames_read += count
        self._check_duration()
        if self._wanted is not None:
            self._wanted -= count
        if status is not None or self._wanted == 0:
            self._ended = True
            self._judge(status)
            self._process.close()
            frames = frames[:count].copy()  # a view would keep the whole chunk alive
        return frames if count else None

    def _read(self, frames: Frames) -> tuple[int, int | None]:
        """How many frames there were, and ffmpeg's exit status if those were the last."""
        count = self._process.read_into(frames.data.cast("B")) // self._frame_bytes
        return count, self._process.finish() if count < len(frames) else None

    def _check_duration(self) -> None:
        limit = self._limits.duration_seconds
        if (seconds := self._log.duration_seconds or 0.0) > limit:
            raise self._limit(f"{seconds:g} s long by its header, the limit is {limit:g} s")
        if self._skipped + self.frames_read > math.ceil(limit * self._sampling.fps):
            raise self._limit(f"longer than the limit of {limit:g} s")

    def _judge(self, status: int | None) -> None:
        """At the end: a limit, no frames at all, or frames and possibly damage.

        ``status``: of ffmpeg; None when it has not ended, since all frames that are wanted are there.
        """
        log = self._log
        if self._closed:
            self.damage = self._closed_after()
        elif error := log.limit():
            raise type(error)(f"{self._name}: {error}, near second {self._seconds(self.frames_read):.1f}")
        elif status is not None and status < 0:
            where = f"near second {self._seconds(self.frames_read):.1f}"
            raise DecodeError(f"{self._name}: the decoder died of signal {-status} {where}")
        elif not self.frames_read and self._skipped:
            seconds = self._skipped / self._sampling.fps
            raise InvalidInputError(
                f"{self._name}: ends at second {seconds:.1f}, before the start ({self._start_seconds:g} s)"
            )
        elif not self.frames_read:
            error = log.failure()
            raise type(error)(f"{self._name}: {error}")
        elif log.errors or status:
            whole = f" of {log.duration_seconds:g}" if log.duration_seconds else ""
            # How far a decoder that is cut short has come, and which errors it has met, is chance.
            said = log.quotable_error or f"ffmpeg ended with status {status}"
            what = "errors" if status is None else f"{said}; {log.errors} errors in all"
            end = f"the frames end at second {self._seconds(self.frames_read):.1f}{whole}"
            self.damage = f"broken ({what}), {end}"

    def _seconds(self, frames: int) -> float:
        """Where in the file the frame of that number is, counted from the start asked for."""
        return self._start_seconds + frames / self._sampling.fps

    def _closed_after(self) -> str:
        return f"closed before the end, after {self._seconds(self.frames_read):.1f} s"

    def _limit(self, what: str) -> VideoLimitError:
        return VideoLimitError(f"{self._name}: {what}; raise the limit if this video is meant to be read")


def decoded_ahead(reader: VideoReader) -> ReadAhead[Frames]:
    """The reader's chunks, decoded in a thread of their own while the consumer works."""
    return ReadAhead(reader, reader.close)
