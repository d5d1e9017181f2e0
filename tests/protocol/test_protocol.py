"""The wire format: stubs, durations, errors."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sfavivit.errors import (
    DigestMismatchError,
    HeadNotFoundError,
    SfaVivitError,
    VideoLimitError,
)
from sfavivit.protocol import messages
from sfavivit.protocol.generate import STUBS, generate

ROOT = Path(__file__).parents[2]


def test_the_stubs_are_those_of_the_proto(tmp_path: Path) -> None:
    generate(tmp_path)
    for stub in STUBS:
        assert (tmp_path / stub).read_text() == (ROOT / stub).read_text(), "run sfavivit.protocol.generate"


def test_every_field_has_a_comment() -> None:
    lines = (ROOT / "sfavivit/protocol/v1/video_recognition.proto").read_text().splitlines()
    for before, line in pairwise(lines):
        if " = " in line and not line.startswith(("syntax", "package")):
            assert before.strip().startswith("//"), line


@given(st.floats(0, 1e8))
def test_durations_keep_nanoseconds(seconds: float) -> None:
    assert messages.seconds_of(messages.duration(seconds)) == pytest.approx(seconds, abs=1e-7, rel=1e-15)


def test_every_error_survives_the_wire() -> None:
    from sfavivit.protocol.status import KIND_KEY, error_of, status_of  # noqa: PLC0415

    class Wire(grpc.RpcError):  # type: ignore[misc]
        def __init__(self, error: SfaVivitError) -> None:
            self.status = status_of(error)

        def code(self) -> Any:
            return self.status[0]

        def details(self) -> str:
            return self.status[1]

        def trailing_metadata(self) -> Any:
            return self.status[2]

    for cls in (VideoLimitError, HeadNotFoundError, DigestMismatchError, SfaVivitError):
        again = error_of(Wire(cls("what, where")), "here")
        assert (type(again), str(again)) == (cls, "what, where")
    assert KIND_KEY == "sfavivit-error-kind"
