"""What ffmpeg says on its log, and what that means for the video. Bounded, whatever a file makes it say."""

from __future__ import annotations

import re

from sfavivit.errors import (
    DecodeError,
    ForbiddenFormatError,
    NotAVideoError,
    NoVideoStreamError,
    TruncatedVideoError,
    VideoError,
    VideoLimitError,
)

MAX_LINE_BYTES = 4096
MAX_QUOTED_CHARACTERS = 160

# With ``-loglevel level+info`` a line is "[part @ 0x55..] [level] text", the part often missing.
_LINE = re.compile(r"(?:\[(?P<part>[^\]]*?) @ 0x[0-9a-f]+\] )*\[(?P<level>[a-z]+)\] (?P<text>.*)", re.DOTALL)
_DURATION = re.compile(r"  Duration: (\d+):(\d\d):(\d\d(?:\.\d+)?),")

# Demuxers whose file names other files or addresses.
_REFERENCING = frozenset(
    ("hls", "dash", "concat", "sdp", "rtsp", "rtp", "imf", "image2", "vobsub", "webm_dash_manifest", "lavfi")
)

# ffmpeg's own words -> (class, what to tell). The first that matches decides. "{quote}" is the line.
_LIMITS: tuple[tuple[str, type[VideoError], str], ...] = (
    # libavutil/imgutils.c: beyond -max_pixels
    (r"Picture size \d+x\d+ (exceeds|is invalid)", VideoLimitError, "more pixels than allowed: {quote}"),
    # strerror(ENOMEM) of av_err2str, libavcodec's and C++ libraries' own words, threads that get no stack
    (
        r"Cannot allocate memory|out of memory|bad_alloc|Resource temporarily unavailable",
        VideoLimitError,
        "more memory than allowed: {quote}",
    ),
)
_FAILURES: tuple[tuple[str, type[VideoError], str], ...] = (
    *_LIMITS,
    # libavformat/mov.c: an mp4 whose index, written last, is not there
    (r"moov atom not found", TruncatedVideoError, "the file is cut off before its index (moov)"),
    # fftools: -map 0:V:0 or [0:V:0] finds no moving pictures
    (r"matches no streams", NoVideoStreamError, "it has no video track"),
    (r"does not contain any stream", NoVideoStreamError, "it has no tracks"),
    # libavformat/mov.c, matroskadec.c, util: end of file inside something
    (r"partial file|ended prematurely|End of file|truncat", TruncatedVideoError, "cut off: {quote}"),
    # avformat_open_input: no demuxer knows the content
    (r"Error opening input.*: Invalid data found", NotAVideoError, "not a known video container"),
)


class FfmpegLog:
    """Takes the log as it comes; keeps the header's facts, the first error, and counts.

    ``duration_seconds``: the container's, None while unknown. ``errors``: how many lines at level error or
    worse. ``first_error``: the first of them, cleaned for a one-line message.
    """

    def __init__(self) -> None:
        self.duration_seconds: float | None = None
        self.first_error: str | None = None
        self.errors = 0
        self._rest = b""
        self._in_header = True
        self._failure: tuple[int, type[VideoError], str] | None = None

    def feed(self, data: bytes) -> None:
        *lines, rest = (self._rest + data).split(b"\n")
        self._rest = rest[:MAX_LINE_BYTES]
        for line in lines:
            self._take(line[:MAX_LINE_BYTES].decode(errors="replace"))

    def limit(self) -> VideoError | None:
        """The limit that ffmpeg ran into, if it did."""
        found = self._failure
        return found[1](found[2]) if found and found[0] < len(_LIMITS) else None

    def failure(self) -> VideoError:
        """Why there was not one frame."""
        if self._failure:
            return self._failure[1](self._failure[2])
        return DecodeError(f"not one frame could be decoded: {self.first_error or 'ffmpeg gives no reason'}")

    def _take(self, line: str) -> None:
        match = _LINE.match(line)
        if not match:
            return
        part, level, text = match["part"] or "", match["level"], match["text"]
        if level in ("error", "fatal", "panic"):
            self.errors += 1
            self.first_error = self.first_error or quoted(text)
            self._explain(part, text)
        elif self._in_header:
            self._read_header(text)

    def _read_header(self, text: str) -> None:
        if found := _DURATION.match(text):
            hours, minutes, seconds = found.groups()
            self.duration_seconds = int(hours) * 3600 + int(minutes) * 60 + float(seconds)
        elif "Estimating duration from bitrate" in text:
            self._in_header = False  # a guess, and often a wild one
        elif text.startswith("Stream mapping:"):
            self._in_header = False

    def _explain(self, part: str, text: str) -> None:
        if text.startswith("Format not on whitelist"):
            self._note(0, *_refused_format(part))
        for rank, (words, error, message) in enumerate(_FAILURES):
            if re.search(words, text):
                self._note(rank, error, message.format(quote=quoted(text)))
                return

    def _note(self, rank: int, error: type[VideoError], message: str) -> None:
        if self._failure is None or rank < self._failure[0]:
            self._failure = (rank, error, message)


def _refused_format(demuxer: str) -> tuple[type[VideoError], str]:
    if demuxer in _REFERENCING:
        return (
            ForbiddenFormatError,
            f"{demuxer} files refer to other files or addresses, which are never opened",
        )
    return NotAVideoError, f"{demuxer or 'its'} format is not a video container that is read here"


def quoted(text: str) -> str:
    """Foreign text made fit for a one-line message: printable and short."""
    return "".join(c if c.isprintable() else "?" for c in text.strip())[:MAX_QUOTED_CHARACTERS]
