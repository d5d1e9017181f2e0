"""What a client sends in the course of a call: one config, then content, without long pauses."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from sfavivit.errors import DeadlineError, InvalidInputError


class Conversation:
    """The messages of a call whose ``payload`` is a config first and content after it."""

    def __init__(self, messages: AsyncIterator[Any], idle_seconds: float) -> None:
        self._messages = aiter(messages)
        self._idle_seconds = idle_seconds

    async def config(self) -> Any:
        """The config, which must come first.

        Raises:
            InvalidInputError: something else came, or nothing.
            DeadlineError: nothing came for ``idle_seconds``.
        """
        message = await self._next()
        kind = message and message.WhichOneof("payload")
        if kind != "config":
            came = "no message" if message is None else f"{kind or 'an empty message'}"
            raise InvalidInputError(f"the first message must hold the config, but {came} came first")
        return message.config

    async def content(self, *kinds: str) -> AsyncIterator[tuple[str, Any]]:
        """(kind, content) of every further message; all of one kind, which is one of ``kinds``.

        Raises: as ``config``.
        """
        first = None
        while (message := await self._next()) is not None:
            kind = message.WhichOneof("payload")
            first = first or kind
            if kind is None:
                raise InvalidInputError(f"a message is empty; send {' or '.join(kinds)}")
            if kind not in kinds:
                raise InvalidInputError(f"{kind} came again; only the first message may hold it")
            if kind != first:
                raise InvalidInputError(f"{kind} came after {first}; one call takes one or the other")
            yield kind, getattr(message, kind)

    async def _next(self) -> Any:
        try:
            async with asyncio.timeout(self._idle_seconds):
                return await anext(self._messages, None)
        except TimeoutError:
            raise DeadlineError(
                f"nothing came for {self._idle_seconds:g} s; send on, or end the upload"
            ) from None
