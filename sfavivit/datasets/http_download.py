"""Download over HTTP by fsspec: what each status means, tries, and stalls."""

from __future__ import annotations

import asyncio
import random
import time
from concurrent.futures import wait
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from itertools import count
from typing import IO, TYPE_CHECKING, Any

from sfavivit.errors import (
    VideoError,
    VideoLimitError,
    VideoNotFoundError,
    VideoPermissionError,
    VideoUnavailableError,
)
from sfavivit.utils.network import masked_url
from sfavivit.utils.text import error_line

if TYPE_CHECKING:
    from aiohttp import ClientResponse, ClientSession

SCHEMES = ("http", "https")
MAX_TRIES = 4
FIRST_WAIT_SECONDS = 1.0  # doubled after each try
MAX_WAIT_SECONDS = 60.0  # a server that asks for more (Retry-After) is given up at once
_POLLS_PER_STALL = 10

_COMPLETE = (HTTPStatus.OK, HTTPStatus.NON_AUTHORITATIVE_INFORMATION)
_DENIED = (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.PROXY_AUTHENTICATION_REQUIRED)
_MISSING = (HTTPStatus.NOT_FOUND, HTTPStatus.GONE)
_BUSY = (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS)


def download(url: str, local: IO[bytes], stall_seconds: float) -> None:
    """Write the content of ``url`` to ``local``, in any time, but without a pause of ``stall_seconds``.

    A busy server (429, 5xx) and a lost connection are tried again, from the start of the file. The settings
    of fsspec (FSSPEC_HTTP, ~/.config/fsspec) count: headers, proxies, certificates.

    Raises:
        VideoNotFoundError, VideoPermissionError: the server says so.
        VideoUnavailableError: the server is unreachable, or failed at each try.
        VideoLimitError: not one byte came in ``stall_seconds``.
        VideoError: the download failed otherwise.
    """
    import fsspec  # noqa: PLC0415 - an extra, for URLs only

    scheme = url.partition(":")[0].lower()
    files = fsspec.filesystem(scheme, get_client=_client)  # type: ignore[no-untyped-call]
    for tries in count(1):
        local.seek(0)
        local.truncate()
        try:
            _get_file(files, url, local, stall_seconds)
        except VideoError:
            raise
        except Exception as error:  # aiohttp's, ssl's, yarl's
            wait_seconds = _wait_seconds(error, tries)
            if wait_seconds is None:
                raise _video_error(repr(masked_url(url)), error, tries, stall_seconds) from error
            time.sleep(wait_seconds)
        else:
            return


def _get_file(files: Any, url: str, local: IO[bytes], stall_seconds: float) -> None:
    """Make a single request, where fsspec's open() makes a HEAD and many ranges, and watch its progress.

    The timeouts of aiohttp do not end an answer that breaks its own framing, or is all ``100 Continue``.

    Raises:
        TimeoutError: no byte of the content came in ``stall_seconds``.
    """
    from fsspec.callbacks import Callback  # noqa: PLC0415

    progress, received, idle_polls = Callback(), 0, 0  # type: ignore[no-untyped-call]
    request = asyncio.run_coroutine_threadsafe(files._get_file(url, local, callback=progress), files.loop)
    try:
        while not wait([request], stall_seconds / _POLLS_PER_STALL).done:
            idle_polls = idle_polls + 1 if progress.value == received else 0
            received = progress.value
            if idle_polls == _POLLS_PER_STALL:
                raise TimeoutError
        request.result()
    finally:
        request.cancel()


async def _client(**options: Any) -> ClientSession:
    import aiohttp  # noqa: PLC0415

    timeout = aiohttp.ClientTimeout(None)
    return aiohttp.ClientSession(**{"timeout": timeout, "raise_for_status": _check_status, **options})


async def _check_status(response: ClientResponse) -> None:
    """Raise for every status but that of a complete file, such as 304 or a redirect to nowhere."""
    import aiohttp  # noqa: PLC0415

    if response.status not in _COMPLETE:
        response.close()
        raise aiohttp.ClientResponseError(
            response.request_info, response.history, status=response.status, headers=response.headers
        )


def _wait_seconds(error: Exception, tries: int) -> float | None:
    """Return the time to wait before the next try; None when there shall be none."""
    import aiohttp  # noqa: PLC0415

    # Half to all of the backoff, so that many workers do not come back at the same moment.
    backoff = FIRST_WAIT_SECONDS * 2 ** (tries - 1) * random.uniform(0.5, 1)  # noqa: S311 - no secret
    if tries == MAX_TRIES:
        return None
    if isinstance(error, aiohttp.ClientResponseError) and _may_pass(error.status):
        asked = _asked_seconds(error)
        return max(asked, backoff) if asked <= MAX_WAIT_SECONDS else None
    lost = (aiohttp.ClientPayloadError, aiohttp.ServerDisconnectedError, ConnectionResetError)
    return backoff if isinstance(error, lost) else None


def _may_pass(status: int) -> bool:
    return status in _BUSY or status >= HTTPStatus.INTERNAL_SERVER_ERROR


def _asked_seconds(error: Any) -> float:
    """Return the seconds of the header Retry-After, a number or a date; 0 without one that can be read."""
    value = (error.headers or {}).get("Retry-After", "").strip()
    if value.isascii() and value.isdigit():
        return float(value[:10])
    try:
        date = parsedate_to_datetime(value)
        return max(0.0, (date.replace(tzinfo=date.tzinfo or UTC) - datetime.now(UTC)).total_seconds())
    except (ValueError, OverflowError):
        return 0.0


def _video_error(name: str, error: Exception, tries: int, stall_seconds: float) -> VideoError:
    import aiohttp  # noqa: PLC0415

    after = f", after {tries} tries" if tries > 1 else ""
    if isinstance(error, TimeoutError):
        return VideoLimitError(f"{name}: no byte from its server in {stall_seconds:g} s (limit){after}")
    if isinstance(error, aiohttp.TooManyRedirects):
        return VideoError(f"{name}: cannot be fetched: redirected {len(error.history)} times")
    if isinstance(error, aiohttp.ClientResponseError):
        return _status_error(name, error, after)
    reason = f"{name}: cannot be fetched: {error_line(error)}{after}"
    if isinstance(error, (aiohttp.ClientSSLError, aiohttp.InvalidURL)):
        return VideoError(reason)
    passing = (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError)
    return VideoUnavailableError(reason) if isinstance(error, passing) else VideoError(reason)


def _status_error(name: str, error: Any, after: str) -> VideoError:
    status = error.status
    phrase = HTTPStatus(status).phrase if status in list(HTTPStatus) else ""
    said = f"HTTP {status} {phrase}".rstrip()
    if status in _DENIED:
        return VideoPermissionError(f"{name}: access is denied ({said}); give this process credentials")
    if status in _MISSING:
        return VideoNotFoundError(f"{name}: no such file ({said})")
    if not _may_pass(status):
        return VideoError(f"{name}: cannot be fetched: {said}")
    asked = _asked_seconds(error)
    hint = f"; it asks to be left alone for {asked:.0f} s" if asked > MAX_WAIT_SECONDS else ""
    return VideoUnavailableError(f"{name}: its server fails or is busy: {said}{after}{hint}")
