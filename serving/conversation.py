"""What a client sends in the course of a call: one config, then content, without long pauses or trickling."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

from sfavivit.errors import DeadlineError, InvalidInputError


class Conversation:
    """The messages of a call whose ``payload`` is a config first and content after it.

    A client may be waited for ``idle_seconds`` at a time. All waiting together may be as much, and a second
    more for every ``min_bytes_per_second`` that came: who sends a byte now and then holds no slot for ever.
    Time in which the service itself was not ready for more does not count.
    """

    def __init__(
        self, messages: AsyncIterator[Any], idle_seconds: float, min_bytes_per_second: float
    ) -> None:
        self._messages = aiter(messages)
        self._idle_seconds = idle_seconds
        self._min_bytes_per_second = min_bytes_per_second
        self._waited_seconds = 0.0
        self._bytes = 0

    async def config(self) -> Any:
        """The config, which must come first.

        Raises:
            InvalidInputError: something else came, or nothing.
            DeadlineError: nothing came for ``idle_seconds``, or too little in all.
        """
        message = await self._next()
        self._waited_seconds = 0.0  # the first message also waits for the connection
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
        earned = self._bytes / self._min_bytes_per_second
        patience = min(self._idle_seconds, self._idle_seconds + earned - self._waited_seconds)
        started = time.monotonic()
        try:
            async with asyncio.timeout(patience):
                message = await anext(self._messages, None)
        except TimeoutError:
            waited = self._waited_seconds + time.monotonic() - started
            raise DeadlineError(
                f"nothing came for {self._idle_seconds:g} s; send on, or end the upload"
                if patience == self._idle_seconds
                else f"only {self._bytes} bytes came in {waited:.0f} s of waiting; send at least "
                f"{self._min_bytes_per_second:g} a second, or end the upload"
            ) from None
        self._waited_seconds += time.monotonic() - started
        self._bytes += 0 if message is None else message.ByteSize()
        return message
