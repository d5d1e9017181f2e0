"""Calls that the service ends while asyncio's client still writes: with its answer, or with its refusal."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

from serving.settings import Security
from sfavivit.errors import SfaVivitError, UnauthenticatedError
from sfavivit.protocol.answers import Query, ServedRecognition, ServedWindow
from sfavivit.protocol.client import AsyncVideoRecognitionClient
from tests.serving.support import address_of, encode_videos, running_service

TOKEN = "a-token-of-32-characters-0123456"
STREAMS = 60
Answer = ServedWindow | ServedRecognition | SfaVivitError


async def last_answers(address: str, content: bytes, query: Query) -> list[Answer]:
    """The last thing that each of many streams hears that begin with ``content`` and never end."""

    async def pieces() -> AsyncIterator[bytes]:
        yield content
        while True:
            yield bytes(1 << 16)

    async with AsyncVideoRecognitionClient(address, timeout_seconds=30) as client:

        async def last() -> Answer:
            try:
                return [answer async for answer in client.stream(pieces(), query)][-1]
            except SfaVivitError as error:
                return error

        return await asyncio.gather(*(last() for _ in range(STREAMS)))


def test_an_answer(repository: Path, tmp_path: Path) -> None:
    """The video's first seconds are all that was asked for."""
    content = encode_videos(tmp_path, 1)[0].read_bytes()
    with running_service(repository, max_streams=STREAMS) as server:
        answers = asyncio.run(last_answers(address_of(server), content, Query(end_seconds=0.5)))
    for answer in answers:
        assert isinstance(answer, ServedRecognition), answer
        assert answer.frames_used == 7


def test_a_refusal(repository: Path, tmp_path: Path) -> None:
    """Without ``ServedStatus`` half of the calls end with an internal error of gRPC's instead."""
    (tmp_path / "tokens").write_text(TOKEN)
    with running_service(repository, security=Security(token_file=tmp_path / "tokens")) as server:
        answers = asyncio.run(last_answers(address_of(server), b"", Query()))
    for answer in answers:
        assert isinstance(answer, UnauthenticatedError), answer
