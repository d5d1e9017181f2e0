"""Errors as gRPC statuses: code, message, and the kind of error in the trailing metadata."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import grpc

from sfavivit.errors import (
    CancelledRequestError,
    DeadlineError,
    ServiceBusyError,
    ServiceError,
    SfaVivitError,
    UnauthenticatedError,
    codes_of,
)

KIND_KEY = "sfavivit-error-kind"

# gRPC refuses more than 8 KiB of trailing metadata, in which a character takes up to 12 bytes.
MESSAGE_CHARACTERS = 600

# For errors without a kind: from gRPC itself, a proxy, or another service at the address.
_BY_CODE: dict[str, type[SfaVivitError]] = {
    "CANCELLED": CancelledRequestError,
    "DEADLINE_EXCEEDED": DeadlineError,
    "RESOURCE_EXHAUSTED": ServiceBusyError,
    "UNAUTHENTICATED": UnauthenticatedError,
}


def status_of(error: SfaVivitError) -> tuple[grpc.StatusCode, str, tuple[tuple[str, str], ...]]:
    """Return code, message and trailing metadata of an error."""
    return grpc.StatusCode[codes_of(error).grpc_code], _shortened(str(error)), ((KIND_KEY, error.kind),)


def _shortened(message: str) -> str:
    """Drop the middle of a message that repeats long input of a client."""
    half = MESSAGE_CHARACTERS // 2
    return message if len(message) <= MESSAGE_CHARACTERS else f"{message[: half - 3]}...{message[-half:]}"


def error_of(error: Any, where: str) -> SfaVivitError:
    """Return the error of this package for a ``grpc.RpcError``, sync or asyncio. ``where``: the address."""
    kind = dict(error.trailing_metadata() or ()).get(KIND_KEY)
    message = " ".join((error.details() or "no reason given").split())
    for cls in _tree(SfaVivitError):
        if cls.kind == kind:
            return cls(message)
    code = error.code().name
    return _BY_CODE.get(code, ServiceError)(f"video service at {where}: {code}: {message}")


def _tree(cls: type[SfaVivitError]) -> Iterator[type[SfaVivitError]]:
    yield cls
    for child in cls.__subclasses__():
        yield from _tree(child)
