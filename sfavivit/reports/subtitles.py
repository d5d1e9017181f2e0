"""Segments as subtitles: one cue for each, with its label and confidence.

WebVTT (W3C, https://www.w3.org/TR/webvtt1/) escapes ``&``, ``<`` and ``>``, so a label can hold ``-->`` too.
SubRip has no specification and no escapes; what players take for markup becomes characters that look alike.
"""

from __future__ import annotations

from collections.abc import Callable

from sfavivit.reports.video_report import VideoReport
from sfavivit.utils.text import printable

_SRT_ALIKE = str.maketrans({"<": "‹", ">": "›", "{": "(", "}": ")", "\\": "∖"})
_VTT_ESCAPED = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"})


def srt(report: VideoReport) -> str:
    """SubRip."""
    cues = _cues(report, ",", lambda text: text.translate(_SRT_ALIKE))
    return "".join(f"{number}\n{cue}\n" for number, cue in enumerate(cues, 1))


def vtt(report: VideoReport) -> str:
    """WebVTT."""
    return "WEBVTT\n\n" + "\n".join(_cues(report, ".", lambda text: text.translate(_VTT_ESCAPED)))


def _cues(report: VideoReport, point: str, escaped: Callable[[str], str]) -> list[str]:
    """Cues in order of time; their text says the output where there are several."""
    timed = []
    for output in report.outputs:
        prefix = f"{output.title}: " if len(report.outputs) > 1 else ""
        for segment in output.result.timeline:
            times = f"{_time(segment.start_seconds, point)} --> {_time(segment.end_seconds, point)}"
            text = printable(f"{prefix}{segment.label} ({segment.confidence:.0%})")
            timed.append((segment.start_seconds, f"{times}\n{escaped(text)}\n"))
    return [cue for _, cue in sorted(timed, key=lambda cue: cue[0])]


def _time(seconds: float, point: str) -> str:
    milliseconds = round(seconds * 1000)
    minutes, milliseconds = divmod(milliseconds, 60_000)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02d}:{minutes:02d}:{milliseconds // 1000:02d}{point}{milliseconds % 1000:03d}"
