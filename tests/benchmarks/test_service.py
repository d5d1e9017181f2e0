"""``python -m benchmarks service``: its figures from what was measured, and a service that is started."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.measuring import Meter
from benchmarks.service import _figures
from benchmarks.service_process import process_that_serves
from sfavivit.errors import ServiceError
from sfavivit.protocol.client import VideoRecognitionClient


def test_figures_of_each_round() -> None:
    meters = {
        "alone": Meter([], wall=[2, 4], cpu=[3, 5]),
        "served": Meter([], wall=[4, 5], cpu=[6, 8]),
        "session": Meter([], wall=[1, 1], cpu=[0.5, 1]),
        "transport": Meter([], wall=[1, 1], cpu=[1.5, 2], own_cpu=[0.25, 0.5]),
    }
    figures = _figures(meters, frames=40, chunks=10)
    assert {name: figure.samples for name, figure in figures.items()} == {
        "alone": (20, 10),
        "service": (10, 8),
        "share": (0.5, 0.8),
        "share by CPU": (0.5, 0.625),
        "ceiling": (0.75, pytest.approx(5 / 6)),
        "CPU alone": (300, 500),
        "CPU of service and clients": (600, 800),
        "CPU added": (100, 100),
        "of that, by clients": (25, 50),
    }


def test_an_empty_engine_answers_until_the_end(repository: Path) -> None:
    with (
        process_that_serves("benchmarks.empty_engine", repository) as service,
        VideoRecognitionClient(service.address) as client,
    ):
        assert client.list_heads().model
    assert not service.process.is_running()


def test_a_process_that_does_not_start_says_why(tmp_path: Path) -> None:
    with (
        pytest.raises(ServiceError, match="the service did not start: "),
        process_that_serves("benchmarks.empty_engine", tmp_path),
    ):
        pass
