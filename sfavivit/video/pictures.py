"""Decoded pictures with their times, from a confined ffmpeg."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from sfavivit.config import Crop, Sampling
from sfavivit.errors import DecodeError
from sfavivit.types import Frames
from sfavivit.video.ffmpeg import decode_command, find_ffmpeg
from sfavivit.video.ffmpeg_log import FfmpegLog
from sfavivit.video.hdr import tone_map
from sfavivit.video.limits import Limits
from sfavivit.video.process import DecoderProcess
from sfavivit.video.sandbox import confined_command

_PIPE_PICTURES = 4  # ffmpeg's lead over the reader; no more, since errors say how many had been read


class Picture(NamedTuple):
    """A decoded picture.

    ``ticks``: its time in :class:`~sfavivit.video.timebase.FrameTicks`. ``pixels``: uint8 [crops * crop size,
    crop size, 3] RGB, the crops one below the other; None if no frame needs them.
    """

    ticks: int
    pixels: Frames | None


class PictureDecoder:
    """Iterator over all decoded pictures of a video, in the decoder's order.

    It takes the descriptor of the video, which the caller may close at once. ``log`` is ffmpeg's.

    After the last picture, ``status`` is ffmpeg's exit status and ``end_ticks`` the end of that picture (None
    if there was none). ``cancel`` may be called from any thread; it ends an iteration there.

    Raises:
        StalledError: no picture within the limit ``stall_seconds``.
        DecodeError: ffmpeg cannot be started, or gives a picture without a time.
    """

    def __init__(
        self,
        descriptor: int,
        sampling: Sampling,
        *,
        crops: Sequence[Crop],
        origin_ticks: int,
        track: int | None,
        limits: Limits,
    ) -> None:
        self.log = FfmpegLog()
        self.status: int | None = None
        self.end_ticks: int | None = None
        self._shape = (len(crops) * sampling.crop_size, sampling.crop_size, 3)
        self._crops = len(crops)
        self._written: deque[int] = deque()  # numbers of the pictures in the output pipe, of each crop
        self._index_rest = b""
        self._last_ticks = 0
        self._next = 0  # number of the next decoded picture
        program = find_ffmpeg()

        def command(index_descriptor: int) -> list[str]:
            decode = decode_command(
                program.path,
                sampling,
                pixels=limits.pixels,
                index_descriptor=index_descriptor,
                origin_ticks=origin_ticks,
                crops=crops,
                track=track,
            )
            return confined_command(decode, memory_bytes=limits.memory_bytes, readable=program.files)

        self._process = DecoderProcess(
            command,
            stdin=descriptor,
            environment=program.environment,
            on_log=self.log.feed,
            on_index=self._feed_index,
            stall_seconds=limits.stall_seconds,
            pipe_bytes=_PIPE_PICTURES * int(np.prod(self._shape)),
        )
        self.cancel = self._process.kill
        self.close = self._process.close

    def __iter__(self) -> Iterator[Picture]:
        while True:
            pixels = np.empty(self._shape, np.uint8)
            if self._process.read_into(pixels.data.cast("B")) < pixels.nbytes:
                break
            numbers = {self._written.popleft() for _ in range(min(self._crops, len(self._written)))}
            if len(numbers) != 1 or (number := numbers.pop()) >= self._next + len(self.log.picture_ticks):
                raise DecodeError("ffmpeg gave a picture without its number or time")
            if number < self._next:
                continue  # a repetition, of which the timeline knows without it
            yield from self._before(number)
            yield Picture(self._time(), tone_map(pixels, self.log.transfer))
        self.status = self._process.finish()
        yield from self._before(self._next + len(self.log.picture_ticks) - 1)
        if self.log.picture_ticks:
            self.end_ticks = self._time()

    def _before(self, number: int) -> Iterator[Picture]:
        """Yield the pictures that were dropped before picture ``number``."""
        while self._next < number:
            yield Picture(self._time(), None)

    def _time(self) -> int:
        """Time of the next picture; just before the last one if it has none, which is out of order."""
        self._next += 1
        ticks = self.log.picture_ticks.popleft()
        if ticks is None:
            return self._last_ticks - 1
        self._last_ticks = ticks
        return ticks

    def _feed_index(self, data: bytes) -> bool:
        *lines, self._index_rest = (self._index_rest + data).split(b"\n")
        self._written.extend(map(int, lines))
        return False  # the output that follows is
