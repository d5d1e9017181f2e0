"""Request messages of one call: a config, then content, from a client that neither stalls nor trickles."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

from serving.settings import Settings
from sfavivit.errors import DeadlineError, InvalidInputError


class RequestStream:
    """Messages whose ``payload`` is the config in the first and content in all others.

    The service waits at most ``settings.idle_seconds`` for one message. All waiting together is limited to
    ``idle_seconds`` plus one second for every ``min_bytes_per_second`` received, so that a client that
    sends a byte now and then does not hold a slot for ever. Time in which the service itself was not ready
    for the next message does not count.

    ``count_bytes`` is called with the size of each chunk of content.
    """

    def __init__(
        self, messages: AsyncIterator[Any], settings: Settings, count_bytes: Callable[[int], None]
    ) -> None:
        self._messages = aiter(messages)
        self._count_bytes = count_bytes
        self._idle_seconds = settings.idle_seconds
        self._min_bytes_per_second = settings.min_bytes_per_second
        self._waited_seconds = 0.0
        self._bytes = 0

    async def config(self) -> Any:
        """Return the config, which must come first.

        Raises:
            InvalidInputError: the first message holds something else, or there is none.
            DeadlineError: nothing came for ``idle_seconds``, or too little in all.
        """
        message = await self._next()
        self._waited_seconds = 0.0  # the first message also waits for the connection
        kind = message and message.WhichOneof("payload")
        if kind != "config":
            came = "no message" if message is None else f"{kind or 'an empty message'}"
            raise InvalidInputError(f"the first message must hold the config, but {came} came first")
        return message.config

    async def content(self, *kinds: str) -> tuple[str, AsyncIterator[Any]]:
        """Return the kind of the content, one of ``kinds``, and its chunks as they come.

        Raises: as ``config``; the iterator, too.
        """
        first = await self._next()
        kind = _kind_of(first, kinds) if first is not None else kinds[0]

        async def chunks() -> AsyncIterator[Any]:
            message = first
            while message is not None:
                if (other := _kind_of(message, kinds)) != kind:
                    raise InvalidInputError(f"{other} came after {kind}; one call takes one or the other")
                chunk = getattr(message, kind)
                self._count_bytes(len(chunk if isinstance(chunk, bytes) else chunk.data))
                yield chunk
                message = await self._next()

        return kind, chunks()

    async def _next(self) -> Any:
        """Return the next message, None at the end of the stream."""
        earned = self._bytes / self._min_bytes_per_second
        patience = min(self._idle_seconds, self._idle_seconds + earned - self._waited_seconds)
        start = time.monotonic()
        try:
            async with asyncio.timeout(patience):
                message = await anext(self._messages, None)
        except TimeoutError:
            waited = self._waited_seconds + time.monotonic() - start
            raise DeadlineError(
                f"nothing came for {self._idle_seconds:g} s; send on, or end the upload"
                if patience == self._idle_seconds
                else f"only {self._bytes} bytes came in {waited:.0f} s of waiting; send at least "
                f"{self._min_bytes_per_second:g} a second, or end the upload"
            ) from None
        self._waited_seconds += time.monotonic() - start
        self._bytes += 0 if message is None else message.ByteSize()
        return message


def _kind_of(message: Any, kinds: tuple[str, ...]) -> str:
    kind: str | None = message.WhichOneof("payload")
    if kind is None:
        raise InvalidInputError(f"a message is empty; send {' or '.join(kinds)}")
    if kind not in kinds:
        raise InvalidInputError(f"{kind} came again; only the first message may hold it")
    return kind
