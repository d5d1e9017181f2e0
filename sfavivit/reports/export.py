"""Exports of segments (``classify --export FILE``), in the format of the file's suffix.

.srt   SubRip, which has no specification and no escapes; characters of markup become ones that look alike
.vtt   WebVTT (W3C, https://www.w3.org/TR/webvtt1/), which escapes ``&``, ``<`` and ``>``, so also ``-->``
.csv   RFC 4180, a row for each segment
.json  the submission format of the ActivityNet detection task (http://activity-net.org/challenges/)
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from sfavivit.errors import UsageError
from sfavivit.reports.files import check_target, write_file
from sfavivit.reports.video_report import VideoReport
from sfavivit.utils.text import csv_text, plain_text, printable

CSV_COLUMNS = ("video", "head", "output", "start_seconds", "end_seconds", "label", "confidence")
ACTIVITYNET_VERSION = "VERSION 1.3"
_SRT_ALIKE = str.maketrans({"<": "‹", ">": "›", "{": "(", "}": ")", "\\": "∖"})
_VTT_ESCAPED = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"})


def check_export(path: Path, videos: int) -> None:
    """Check the path of an export of ``videos`` videos. Raises ``UsageError`` when it cannot become one."""
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


def srt(report: VideoReport) -> str:
    """Return the segments of a video as SubRip."""
    cues = enumerate(_cues(report, ",", _SRT_ALIKE), 1)
    return "".join(f"{number}\n{cue}\n" for number, cue in cues)


def vtt(report: VideoReport) -> str:
    """Return the segments of a video as WebVTT."""
    return "WEBVTT\n\n" + "\n".join(_cues(report, ".", _VTT_ESCAPED))


def _cues(report: VideoReport, point: str, escapes: dict[int, str]) -> list[str]:
    """Return a cue for each segment, in order of time; cues name the output where there are several."""
    timed = []
    for output in report.outputs:
        prefix = f"{output.title}: " if len(report.outputs) > 1 else ""
        for segment in output.result.timeline:
            times = f"{_time(segment.start_seconds, point)} --> {_time(segment.end_seconds, point)}"
            text = printable(f"{prefix}{segment.label} ({segment.confidence:.0%})")
            timed.append((segment.start_seconds, f"{times}\n{text.translate(escapes)}\n"))
    return [cue for _, cue in sorted(timed, key=lambda cue: cue[0])]


def _time(seconds: float, point: str) -> str:
    minutes, milliseconds = divmod(round(seconds * 1000), 60_000)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02d}:{minutes:02d}:{milliseconds // 1000:02d}{point}{milliseconds % 1000:03d}"


def segments_csv(reports: Sequence[VideoReport]) -> str:
    """Return a row for each segment; videos that failed have none.

    Names and labels are ``plain_text``; a program that needs them to the letter reads the JSON.
    """
    return csv_text(CSV_COLUMNS, (row for report in reports for row in _csv_rows(report)))


def _csv_rows(report: VideoReport) -> Iterator[list[str]]:
    for output in report.outputs:
        names = [plain_text(name) for name in (report.video, output.head, output.output)]
        for segment in output.result.timeline:
            times = [f"{segment.start_seconds:.3f}", f"{segment.end_seconds:.3f}"]
            yield [*names, *times, plain_text(segment.label), f"{segment.confidence:.6f}"]


def activitynet_json(reports: Sequence[VideoReport]) -> str:
    """Return a submission to the ActivityNet detection task; videos that failed are absent.

    ``results``: {video: [{"label", "score", "segment": [start, end] in seconds}]}, with the video as it was
    named. Where there are several outputs each entry has its ``head`` and ``output``, too, which evaluation
    code ignores.
    """
    document = {
        "version": ACTIVITYNET_VERSION,
        "results": {report.video: _detections(report) for report in reports if report.answer},
        "external_data": {"used": False, "details": ""},
    }
    return json.dumps(document, indent=1) + "\n"


def _detections(report: VideoReport) -> list[dict[str, object]]:
    several = len(report.outputs) > 1
    return [
        {
            "label": segment.label,
            "score": segment.confidence,
            "segment": [segment.start_seconds, segment.end_seconds],
        }
        | ({"head": output.head, "output": output.output} if several else {})
        for output in report.outputs
        for segment in output.result.timeline
    ]


_SUBTITLES: dict[str, Callable[[VideoReport], str]] = {".srt": srt, ".vtt": vtt}
_TABLES: dict[str, Callable[[Sequence[VideoReport]], str]] = {".csv": segments_csv, ".json": activitynet_json}
SUFFIXES = (*_SUBTITLES, *_TABLES)
