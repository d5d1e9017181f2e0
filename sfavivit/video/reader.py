"""Video as chunks of uint8 frames at a steady rate, decoded by a confined ffmpeg."""

from __future__ import annotations

import math
import os
import threading
import time
import weakref
from collections.abc import Iterator, Sequence
from typing import Self

import numpy as np

from sfavivit.arguments import checked
from sfavivit.config import CENTER, Crop, Sampling
from sfavivit.errors import (
    DecodeError,
    InvalidInputError,
    NoVideoStreamError,
    UsageError,
    VideoError,
    VideoLimitError,
)
from sfavivit.types import Frames
from sfavivit.video.ffmpeg import LATENESS_MICROSECONDS, exact_rate
from sfavivit.video.limits import DEFAULT_LIMITS, Limits
from sfavivit.video.pictures import PictureDecoder
from sfavivit.video.process import StalledError
from sfavivit.video.source import Source, VideoSegment, display_name, open_source
from sfavivit.video.timebase import FrameRange, FrameTicks, in_seconds
from sfavivit.video.timeline import Run, Timeline

# Containers whose timestamps jump where one recording follows another (AVFMT_TS_DISCONT in libavformat).
_RESTARTING_CONTAINERS = frozenset({"mpegts", "mpeg", "flv"})  # FLV's wrap after 2**24 or 2**32 ms
_ESTIMATING_CONTAINERS = frozenset({"mpeg"})


class VideoReader:
    """Iterator over the frames of a video in chunks uint8 [n, crop, crop, 3], RGB.

    n is ``chunk_frames`` except in the last chunk, and every chunk is a new array. With several ``crops`` a
    chunk is uint8 [n, crops, crop, crop, 3], out of one decoding. Frame k is the picture on display k / fps
    seconds after the segment's start, or the first picture of a track that begins later; the last frame lies
    before the segment's end. Memory does not depend on the video's length, and a video can be read once.

    What lies before the segment is decoded and dropped. Seeking would be faster, but lands where a
    container's index says, which is often not the right picture.

    Afterwards ``warning`` says what was irregular, or is None:

    - damage, of which ffmpeg makes what frames it can: a file that ends too early, or errors that the decoder
      hid by filling in from neighbouring pictures. One error is quoted and all are counted (neither for a
      segment, whose errors may lie behind it). Where they are is not known: ffmpeg's log does not say, and
      the moment at which a line of it arrives depends on the machine.
    - timestamps out of order, that start again, or that leave a gap (:class:`Timeline`);
    - other video tracks than the one that was read.

    ``frames_read``: frames given so far. ``decode_seconds``: time spent waiting for them. ``close`` may be
    called from another thread, and ends an iteration there; ``warning`` then says so.

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
        limits: Limits = DEFAULT_LIMITS,
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
        self.warning: str | None = None
        self._name = display_name(segment.source)
        self._fps = sampling.fps
        self._limits = limits
        self._track = segment.video_track
        per_frame = (len(crops),) if len(crops) > 1 else ()
        self._shape = (chunk_frames, *per_frame, sampling.crop_size, sampling.crop_size, 3)
        self._iterating = threading.Lock()
        self._ended = self._closed = False
        ticks = FrameTicks.of_rate(exact_rate(sampling.fps))
        origin = ticks.of_seconds(in_seconds(frames.offset_microseconds + LATENESS_MICROSECONDS))
        descriptor = open_source(segment.source)
        try:
            self._decoder = PictureDecoder(
                descriptor, sampling, crops=crops, origin_ticks=origin, track=self._track, limits=limits
            )
        finally:
            os.close(descriptor)
        weakref.finalize(self, self._decoder.close)  # for a reader that is never closed
        self._timeline: Timeline[Frames] = Timeline(ticks, origin, limits.gap_seconds)
        self._runs = _runs(self._decoder, self._timeline)
        self._run: Run[Frames] | None = None

    @property
    def container_duration_seconds(self) -> float | None:
        """Duration of the whole file by its header; None if it has none, and before the first chunk."""
        return self._decoder.log.duration_seconds

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
                self._decoder.close()
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
        self._decoder.cancel()

    def close(self) -> None:
        """Kill ffmpeg and wait until it is gone. May be called again, and from any thread."""
        self.cancel()  # which also ends a wait for frames in another thread, and frees the lock
        with self._iterating:
            if not self._ended:
                self._ended = True
                self.warning = self._closed_early()
            self._decoder.close()

    def _next_chunk(self) -> Frames | None:
        frames = np.empty(self._shape, np.uint8)
        count = 0
        wanted = len(frames) if self._remaining is None else min(len(frames), self._remaining)
        while count < wanted and (run := self._next_run(wanted - count)):
            frames[count : count + run.frame_count] = run.picture.reshape(self._shape[1:])
            count += run.frame_count
        self.frames_read += count
        self._check_duration()
        if self._remaining is not None:
            self._remaining -= count
        if count < wanted or self._remaining == 0:
            self._ended = True
            self._check_end(whole=count < wanted)
            self._decoder.close()
            frames = frames[:count].copy()  # a view would keep the whole chunk alive
        return frames if count else None

    def _next_run(self, most: int) -> Run[Frames] | None:
        """Return the next frames of the segment, at most ``most`` of one picture; None at the end."""
        while self._run is None or self._to_skip:
            run = self._run or self._decode_run()
            if run is None:
                return None
            skipped = min(self._to_skip, run.frame_count)
            self._to_skip -= skipped
            self._frames_skipped += skipped
            self._check_duration()
            self._run = Run(run.picture, run.frame_count - skipped) if run.frame_count > skipped else None
        picture, count = self._run
        self._run = Run(picture, count - most) if count > most else None
        return Run(picture, min(count, most))

    def _decode_run(self) -> Run[Frames] | None:
        started = time.monotonic()
        try:
            return next(self._runs, None)
        except StalledError:
            raise self._limit_error(f"no frame in {self._limits.stall_seconds:g} s (limit)") from None
        except VideoLimitError as error:
            raise self._limit_error(str(error)) from None
        except VideoError as error:
            raise type(error)(f"{self._name}: {error}") from None
        finally:
            self.decode_seconds += time.monotonic() - started

    def _check_duration(self) -> None:
        """Raise ``VideoLimitError`` if the video is longer than the limit, by its header or its frames."""
        limit = self._limits.duration_seconds
        if (seconds := self._decoder.log.duration_seconds or 0.0) > limit:
            raise self._limit_error(f"{seconds:g} s long by its header, the limit is {limit:g} s")
        if self._frames_skipped + self.frames_read > math.ceil(limit * self._fps):
            raise self._limit_error(f"longer than the limit of {limit:g} s")

    def _check_end(self, *, whole: bool) -> None:
        """Raise an error if the decoder failed or gave no frames; note warnings. Called after the last frame.

        ``whole``: the file was read to its end, not only to that of the segment.
        """
        status, log = self._decoder.status if whole else None, self._decoder.log
        if self._closed:
            self.warning = self._closed_early()
        elif error := log.limit_error():
            raise type(error)(f"{self._name}: {error}, near second {self._second():.1f}")
        elif status is not None and status < 0:
            raise DecodeError(
                f"{self._name}: the decoder died of signal {-status} near second {self._second():.1f}"
            )
        elif not self.frames_read and self._frames_skipped:
            end = self._frames_skipped / self._fps
            raise InvalidInputError(
                f"{self._name}: ends at second {end:.1f}, before the start ({self._start_seconds:g} s)"
            )
        elif not self.frames_read:
            raise self._no_frames()
        else:
            damage = [self._describe_damage(status)] if log.errors or status else []
            self.warning = "; ".join([*damage, *self._timeline.warnings(), *self._other_tracks()]) or None

    def _no_frames(self) -> VideoError:
        error, count = self._decoder.log.failure(), len(self._decoder.log.tracks)
        if isinstance(error, NoVideoStreamError) and count and self._track is not None:
            return type(error)(f"{self._name}: it has no video track {self._track}, only 0 to {count - 1}")
        return type(error)(f"{self._name}: {error}")

    def _other_tracks(self) -> list[str]:
        """Say which of several video tracks was read, unless it was asked for."""
        log = self._decoder.log
        count = sum(not track.is_cover for track in log.tracks)
        if self._track is not None or log.track is None or count < 2:
            return []
        track = log.tracks[log.track]
        which = f"{log.track} ({track.size}{', the default' if track.is_default else ''})"
        return [f"{count} video tracks, of which track {which} was read; --video-track N reads another"]

    def _describe_damage(self, status: int | None) -> str:
        log = self._decoder.log
        whole = f" of {log.duration_seconds:g}" if log.duration_seconds else ""
        error = log.quotable_error or f"ffmpeg ended with status {status}"
        # How far a decoder that is stopped early has come, and which errors it has met, is chance.
        errors = "errors" if status is None else f"{error}; {log.errors} errors in all"
        return f"broken ({errors}), the frames end at second {self._second():.1f}{whole}"

    def _second(self) -> float:
        """Time in the file of the next frame."""
        return self._start_seconds + self.frames_read / self._fps

    def _closed_early(self) -> str:
        return f"closed before the end, after {self._second():.1f} s"

    def _limit_error(self, what: str) -> VideoLimitError:
        return VideoLimitError(f"{self._name}: {what}; raise the limit if this video is meant to be read")


def _runs(decoder: PictureDecoder, timeline: Timeline[Frames]) -> Iterator[Run[Frames]]:
    """Yield the frames of a whole video. Knows nothing of the reader, which can so be garbage-collected."""
    for ticks, pixels in decoder:
        if decoder.log.on_cover:
            raise NoVideoStreamError("it has no video track, only a cover picture")
        timeline.times_may_restart = decoder.log.container in _RESTARTING_CONTAINERS
        timeline.times_are_estimated = decoder.log.container in _ESTIMATING_CONTAINERS
        yield from timeline.add(ticks, pixels)
    yield from timeline.end(decoder.end_ticks)
