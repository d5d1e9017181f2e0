"""``classify --export FILE``: the segments, in the form that the file's suffix says."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from sfavivit.errors import UsageError
from sfavivit.reports.files import check_target, write_file
from sfavivit.reports.subtitles import srt, vtt
from sfavivit.reports.tables import activitynet_json, segments_csv
from sfavivit.reports.video_report import VideoReport

_SUBTITLES: dict[str, Callable[[VideoReport], str]] = {".srt": srt, ".vtt": vtt}
_TABLES: dict[str, Callable[[Sequence[VideoReport]], str]] = {
    ".csv": segments_csv,
    ".json": activitynet_json,
}
SUFFIXES = (*_SUBTITLES, *_TABLES)


def check_export(path: Path, videos: int) -> None:
    """Raise ``UsageError`` when ``path`` cannot become an export of that many videos."""
    check_target(path, "--export", SUFFIXES)
    if videos != 1 and path.suffix.lower() in _SUBTITLES:
        raise UsageError(
            f"--export {str(path)!r}: subtitles are of one video, got {videos}; export .csv or .json"
        )


def write_export(path: Path, reports: Sequence[VideoReport]) -> None:
    """Write the segments of ``reports`` to ``path``, which ``check_export`` has accepted.

    Subtitles of a video that failed are a file without cues. Raises ``UsageError`` when it cannot be written.
    """
    suffix = path.suffix.lower()
    text = _SUBTITLES[suffix](reports[0]) if suffix in _SUBTITLES else _TABLES[suffix](reports)
    write_file(path, text.encode("utf-8", "backslashreplace"))
