"""Segments of any number of videos as a table or as the JSON of the ActivityNet challenges."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence

from sfavivit.reports.video_report import VideoReport
from sfavivit.utils.text import plain_text

CSV_COLUMNS = ("video", "head", "output", "start_seconds", "end_seconds", "label", "confidence")
ACTIVITYNET_VERSION = "VERSION 1.3"


def segments_csv(reports: Sequence[VideoReport]) -> str:
    """RFC 4180, a row for each segment; videos that failed have none.

    Names and labels are ``plain_text``; a program that needs them to the letter reads the JSON.
    """
    table = io.StringIO(newline="")
    writer = csv.writer(table)
    writer.writerow(CSV_COLUMNS)
    for report in reports:
        for output in report.outputs:
            names = [plain_text(name) for name in (report.video, output.head, output.output)]
            for segment in output.result.timeline:
                times = (f"{segment.start_seconds:.3f}", f"{segment.end_seconds:.3f}")
                writer.writerow([*names, *times, plain_text(segment.label), f"{segment.confidence:.6f}"])
    return table.getvalue()


def activitynet_json(reports: Sequence[VideoReport]) -> str:
    """The submission format of the ActivityNet detection task (http://activity-net.org/challenges/).

    ``results``: {video: [{"label", "score", "segment": [start, end] in seconds}]}, with the video as it was
    named; videos that failed are absent. Where there are several outputs each entry also says its ``head``
    and ``output``, which evaluation code does not look at.
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
