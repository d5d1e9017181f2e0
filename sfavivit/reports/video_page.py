"""HTML page of classified videos with their timelines (``classify --report``).

Its size is bounded. Each video has 24 thumbnails of 96 pixels (some 70 KB), and each output at most
``MAX_LANES`` lanes of ``MAX_BINS`` bytes (128 KB as base64) and ``MAX_SEGMENTS`` rows of the segment table.
Videos of up to ``EMBED_BYTES`` that browsers play are embedded, up to ``EMBED_PAGE_BYTES`` in total; others
are linked by their path relative to the page.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from sfavivit.inference.recognizer import Recognizer
from sfavivit.reports.curves import NO_LANE, OutputCurves
from sfavivit.reports.files import write_file
from sfavivit.reports.page import render_page
from sfavivit.reports.thumbnails import thumbnails
from sfavivit.reports.video_report import OutputReport, VideoReport
from sfavivit.utils.text import printable
from sfavivit.video.limits import Limits
from sfavivit.video.source import VideoSegment

EMBED_BYTES = 16 << 20
EMBED_PAGE_BYTES = 64 << 20
MAX_SEGMENTS = 500
MEDIA_TYPES = {
    ".m4v": "video/mp4",
    ".mov": "video/mp4",
    ".mp4": "video/mp4",
    ".ogv": "video/ogg",
    ".webm": "video/webm",
}
_NO_LANE_BYTE = 255


def write_report(path: Path, reports: Sequence[VideoReport], recognizer: Recognizer, limits: Limits) -> None:
    """Write the page for ``reports``, in their order.

    Raises:
        UsageError: the file cannot be written.
    """
    attachments: dict[str, bytes] = {}
    videos = []
    for number, report in enumerate(reports):
        fields = _video_fields(report, limits)
        if report.answer:
            fields |= _media_fields(report.video, path, f"video-{number}", attachments)
        videos.append(fields)
    names = [Path(video["name"]).name for video in videos]
    title = names[0] if len(names) == 1 else f"{len(names)} videos"
    data = {"videos": videos, "model": model_facts(recognizer)}
    write_file(path, render_page("video", f"{title} – SFA-ViViT", data, attachments))


def model_facts(recognizer: Recognizer) -> list[tuple[str, str]]:
    """Return names and values that describe the model."""
    manifest, sampling = recognizer.manifest, recognizer.manifest.sampling
    facts = [
        ("model", manifest.name),
        ("spatial weights", manifest.spatial.weights_sha256),
        ("precision", manifest.spatial.precision),
        ("device", recognizer.model.engine.device),
        (
            "sampling",
            f"{sampling.fps:g} frames/s, shortest side {sampling.shortest_side}, crop {sampling.crop_size}",
        ),
    ]
    for name, head in manifest.heads.items():
        window = head.dimensions.max_frames / sampling.fps
        facts.append((f"head {name}", f"version {head.version}, window {window:.2f} s"))
    return facts


def _video_fields(report: VideoReport, limits: Limits) -> dict[str, Any]:
    name = printable(report.video)
    if report.answer is None:
        error = report.error
        problem = {"kind": error.kind, "message": printable(str(error))} if error else None
        return {"name": name, "error": problem}
    answer = report.answer
    # The segment of the video that was classified may begin later than the video.
    start = next((output.curves.start_seconds for output in report.outputs if output.curves), 0.0)
    return {
        "name": name,
        "start": start,
        "duration": answer.duration_seconds,
        "frames": answer.frames_used,
        "warning": printable(answer.warning) if answer.warning else None,
        "timings": [
            (name.removesuffix("_seconds"), seconds)
            for name, seconds in asdict(answer.timings).items()
            if name.endswith("_seconds")
        ],
        "thumbnails": thumbnails(
            VideoSegment(report.video, start, video_track=report.video_track), answer.duration_seconds, limits
        ),
        "outputs": [_output_fields(output) for output in report.outputs],
    }


def _output_fields(output: OutputReport) -> dict[str, Any]:
    segments = output.result.timeline
    return {
        "title": output.title,
        "top": [[printable(score.label), score.confidence] for score in output.result.labels],
        "segments": [
            [segment.start_seconds, segment.end_seconds, printable(segment.label), segment.confidence]
            for segment in segments[:MAX_SEGMENTS]
        ],
        "segmentsLeftOut": max(0, len(segments) - MAX_SEGMENTS),
        "curves": _curve_fields(output.curves) if output.curves else None,
    }


def _curve_fields(curves: OutputCurves) -> dict[str, Any]:
    """Return confidences in 255ths and lane numbers as base64 of bytes, a quarter of the size of numbers."""
    winners = np.where(curves.winners == NO_LANE, _NO_LANE_BYTE, curves.winners)
    return {
        "binSeconds": curves.bin_seconds,
        "bins": len(winners),
        "lanes": [[printable(lane.label), _bytes(lane.confidences * 255)] for lane in curves.lanes],
        "winners": _bytes(winners),
        "labelsLeftOut": curves.labels_left_out,
    }


def _bytes(values: np.ndarray[Any, Any]) -> str:
    return base64.b64encode(np.rint(values).astype(np.uint8).tobytes()).decode()


def _media_fields(
    video: str, page: Path, attachment: str, attachments: dict[str, bytes]
) -> dict[str, str | None]:
    """Return the page's reference to the video: ``attachment`` when it is embedded, else ``link``."""
    file, media_type = Path(video), MEDIA_TYPES.get(Path(video).suffix.lower())
    used = sum(map(len, attachments.values()))
    try:
        if media_type and (size := file.stat().st_size) <= EMBED_BYTES and used + size <= EMBED_PAGE_BYTES:
            attachments[attachment] = file.read_bytes()
            return {"attachment": attachment, "mediaType": media_type}
    except OSError:
        pass  # it was removed since it was classified; the page says that it cannot be played
    relative = os.path.relpath(file.resolve(), page.resolve().parent)
    return {"link": quote(os.fsencode(relative))}
