"""Reports requested of one command: checked before the work, written after it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sfavivit.inference.recognizer import Recognizer
from sfavivit.reports.export import check_export, write_export
from sfavivit.reports.files import PAGE_SUFFIXES, check_target, require
from sfavivit.reports.plot import SUFFIXES, write_plot
from sfavivit.reports.video_page import write_report
from sfavivit.reports.video_report import VideoReport
from sfavivit.video.limits import Limits


@dataclass(frozen=True)
class ReportRequest:
    """Files to write: an HTML page, a picture, and exports of segments."""

    report: Path | None = None
    plot: Path | None = None
    exports: tuple[Path, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.report or self.plot or self.exports)

    def check(self, videos: int) -> None:
        """Check that the files can be written for that many videos. Raises ``UsageError`` if not."""
        for export in self.exports:
            check_export(export, videos)
        if self.plot:
            check_target(self.plot, "--plot", SUFFIXES)
            require("matplotlib", "matplotlib.figure", "--plot")
        if self.report:
            check_target(self.report, "--report", PAGE_SUFFIXES)
            require("pillow", "PIL.Image", "--report")

    def write(self, reports: Sequence[VideoReport], recognizer: Recognizer, limits: Limits) -> None:
        """Write all files. Raises ``UsageError`` when the disk is full or a folder has been removed."""
        for export in self.exports:
            write_export(export, reports)
        if self.plot:
            write_plot(self.plot, reports)
        if self.report:
            write_report(self.report, reports, recognizer, limits)
