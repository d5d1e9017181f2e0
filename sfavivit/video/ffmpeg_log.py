"""Parser of ffmpeg's log, which turns messages into errors. Its memory is bounded for any file."""

from __future__ import annotations

import re
from collections import deque
from dataclasses import dataclass

from sfavivit.errors import (
    DecodeError,
    NotAVideoError,
    NoVideoStreamError,
    TruncatedVideoError,
    VideoError,
    VideoLimitError,
)
from sfavivit.video.hdr import TRANSFERS

MAX_LINE_BYTES = 4096
MAX_QUOTED_CHARACTERS = 160
MAX_TRACKS = 1000

# With ``-loglevel repeat+level+info`` a line is "[part @ 0x55..] [level] text", with any number of parts.
_LINE = re.compile(r"(?:\[[^\]]*? @ 0x[0-9a-f]+\] )*\[(?P<level>[a-z]+)\] (?P<text>.*)", re.DOTALL)
_DURATION = re.compile(r"  Duration: (\d{1,9}):(\d\d):(\d\d(?:\.\d+)?),")
_INPUT = re.compile(r"Input #0, (?P<container>\S+), from ")
_VIDEO_TRACK = re.compile(r"  Stream #0:(?P<stream>\d{1,9})\b.*?: Video: (?P<format>.*)")
_SIZE = re.compile(r", (\d+x\d+)")
_HDR = re.compile(rf"/({'|'.join(TRANSFERS)})\b")  # after the matrix and the primaries
_MAPPING = re.compile(r"  Stream #0:(?P<stream>\d{1,9}) -> #0:0 ")
# Written by the filters of sfavivit.video.ffmpeg.decode_command, so after the header, in which a stream's
# language may hold line breaks.
_PICTURE_TIME = re.compile(rb"\[Eval @ 0x[0-9a-f]+\] \[info\] (?:(-?\d{1,19})\.0+|-?nan)$")

# Pattern of a message -> its error and text. Of all messages that match, the first row of this table decides.
# \1 and \2 are groups of the pattern; \0 is the whole line.
_DIAGNOSES: tuple[tuple[str, type[VideoError], str], ...] = (
    # libavutil/imgutils.c, because of -max_pixels
    (
        r"Picture size (\d+x\d+) exceeds specified max pixel count (\d+)",
        VideoLimitError,
        r"pictures of \1, the limit is \2 pixels",
    ),
    # libavcodec/get_buffer.c: a broken header that asks for an impossible picture. Before the next row, since
    # "get_buffer() failed" follows it.
    (r"image parameters invalid", DecodeError, r"a picture of impossible size (\0)"),
    # strerror(ENOMEM), but not of a demuxer, where a broken file asks for an impossible packet; the same in
    # h264; the same in C++ libraries; EAGAIN: no room for the stack of a thread
    (
        r"(?<!demuxing: )Cannot allocate memory|get_buffer\(\) failed|bad_alloc"
        r"|Resource temporarily unavailable",
        VideoLimitError,
        r"decoding needs more memory than the limit (\0)",
    ),
    # libavformat/mov.c: the index of an mp4, which is written last, is missing
    (r"moov atom not found", TruncatedVideoError, "cut off before its index (moov); get the whole file"),
    # fftools: the stream specifier of a track's number, and an input without video
    (r"matches no streams", NoVideoStreamError, "it has no video track"),
    (r"does not contain any stream", NoVideoStreamError, "it has no video track"),
    # libavformat/demux.c, because of -format_whitelist
    (r"Format not on whitelist", NotAVideoError, "not one of the video containers that are read here"),
    # libavformat/mov.c, matroskadec.c, and AVERROR_EOF: the end inside of something
    (r"partial file|ended prematurely|: End of file", TruncatedVideoError, r"cut off before a picture (\0)"),
    # libavformat: no demuxer knows the content
    (r"Error opening input.*: Invalid data found", NotAVideoError, "not a known video container"),
)


@dataclass(frozen=True)
class _Diagnosis:
    rank: int
    error: type[VideoError]
    message: str


@dataclass(frozen=True)
class VideoTrack:
    """A video track of the input.

    ``stream``: its number among all streams. ``size``: e.g. "640x360". ``transfer``: ffmpeg's name of the
    transfer characteristic of an HDR track, else empty.
    """

    stream: int
    size: str
    transfer: str
    is_default: bool
    is_cover: bool

    @classmethod
    def parse(cls, stream: str, text: str) -> VideoTrack:
        """Read the description that follows "Video: "."""
        size = found[1] if (found := _SIZE.search(text)) else "unknown size"
        transfer = found[1] if (found := _HDR.search(text)) else ""
        return cls(int(stream), size, transfer, "(default)" in text, "(attached pic)" in text)


class FfmpegLog:
    """Incremental parser of a log: the header, the times of the pictures, and the errors.

    ``duration_seconds`` of the container; None while it is unknown. ``container``: ffmpeg's name of the
    format. ``tracks``: the video tracks; ``track``: the one that is decoded, by its place in ``tracks``.
    ``picture_ticks``: time of each decoded picture, in order, and of the end, as ``decode_command`` has them
    printed (None: beyond any time); the reader takes them from the left. ``errors``: number of lines at level
    error or worse. ``quotable_error``: the one of these lines that sorts first, made fit for a one-line
    message (which one *comes* first is chance, since the decoder's threads all write).
    """

    def __init__(self) -> None:
        self.duration_seconds: float | None = None
        self.container = ""
        self.tracks: list[VideoTrack] = []
        self.track: int | None = None
        self.picture_ticks: deque[int | None] = deque()
        self.quotable_error: str | None = None
        self.errors = 0
        self._last_line = "it gives no reason"
        self._rest = b""
        self._in_header = True
        self._estimated_duration = False
        self._diagnosis: _Diagnosis | None = None

    @property
    def on_cover(self) -> bool:
        """True if the track that is decoded is a picture beside a sound track, not a video."""
        return self.track is not None and self.tracks[self.track].is_cover

    @property
    def transfer(self) -> str:
        """Transfer characteristic of the track that is decoded, if it is HDR."""
        return "" if self.track is None else self.tracks[self.track].transfer

    def feed(self, data: bytes) -> bool:
        """Parse the next piece of the log, cut anywhere; return whether it has the time of a picture."""
        known = len(self.picture_ticks)
        *lines, rest = (self._rest + data).split(b"\n")
        self._rest = rest[:MAX_LINE_BYTES]
        for line in lines:
            if not self._in_header and (found := _PICTURE_TIME.match(line)):
                self.picture_ticks.append(int(found[1]) if found[1] else None)
            else:
                self._parse_line(line[:MAX_LINE_BYTES].decode(errors="replace"))
        return len(self.picture_ticks) > known

    def limit_error(self) -> VideoError | None:
        """Return the limit that ffmpeg ran into, or None."""
        found = self._diagnosis
        return found.error(found.message) if found and found.error is VideoLimitError else None

    def failure(self) -> VideoError:
        """Return the error that explains why there was not one frame."""
        if found := self._diagnosis:
            return found.error(found.message)
        return DecodeError(f"ffmpeg could not decode one picture: {self.quotable_error or self._last_line}")

    def _parse_line(self, line: str) -> None:
        match = _LINE.match(line)
        level, text = (match["level"], match["text"]) if match else ("", line)
        if level != "info":
            self._last_line = quoted(text) or self._last_line
        if level in ("error", "fatal", "panic"):
            error = quoted(text)
            self.quotable_error = min(self.quotable_error or error, error)
            self.errors += 1
            self._diagnose(text)
        elif self._in_header:
            self._parse_header(text)
        elif self.track is None and (found := _MAPPING.match(text)):
            streams = [str(track.stream) for track in self.tracks]
            self.track = streams.index(found["stream"]) if found["stream"] in streams else None

    def _parse_header(self, text: str) -> None:
        if found := _INPUT.match(text):
            self.container = found["container"]
        elif (found := _DURATION.match(text)) and not self._estimated_duration:
            hours, minutes, seconds = found.groups()
            self.duration_seconds = int(hours) * 3600 + int(minutes) * 60 + float(seconds)
        elif (found := _VIDEO_TRACK.match(text)) and len(self.tracks) < MAX_TRACKS:
            self.tracks.append(VideoTrack.parse(found["stream"], found["format"]))
        # A duration estimated from the bitrate is often wildly wrong.
        elif "Estimating duration from bitrate" in text:
            self._estimated_duration = True
        elif text.startswith("Stream mapping:"):
            self._in_header = False

    def _diagnose(self, text: str) -> None:
        for rank, (pattern, error, template) in enumerate(_DIAGNOSES):
            if self._diagnosis and self._diagnosis.rank <= rank:
                return
            if match := re.search(pattern, text):
                filled = template.replace(r"\0", quoted(text).replace("\\", "/"))
                self._diagnosis = _Diagnosis(rank, error, match.expand(filled))
                return


def quoted(text: str) -> str:
    """Make foreign text fit for a one-line message: printable and short."""
    return "".join(c if c.isprintable() else "?" for c in text.strip())[:MAX_QUOTED_CHARACTERS]
