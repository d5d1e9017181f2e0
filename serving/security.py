"""Authentication: TLS certificates for the port, bearer tokens for the calls."""

from __future__ import annotations

import hmac
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import grpc

from serving.settings import Security
from sfavivit.errors import UnauthenticatedError, UsageError

MIN_TOKEN_CHARACTERS = 16
RELOAD_SECONDS = 1.0
_SCHEME = "bearer "


def server_credentials(security: Security) -> grpc.ServerCredentials | None:
    """Return the TLS credentials of the port, None for plaintext.

    Raises:
        UsageError: a file cannot be read, or holds no PEM block of its kind.
    """
    if security.tls_certificate is None or security.tls_key is None:
        return None
    certificate = _pem(security.tls_certificate, "CERTIFICATE")
    key = _pem(security.tls_key, "PRIVATE KEY")
    ca = _pem(security.client_ca, "CERTIFICATE") if security.client_ca else None
    return grpc.ssl_server_credentials([(key, certificate)], ca, require_client_auth=ca is not None)


class Tokens:
    """Bearer tokens from a file, one a line (``#`` begins a comment), read again every second of use.

    An invalid file leaves the tokens as they were.

    Raises:
        UsageError: the file cannot be read, has no token, or one too short to be secret.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._tokens = self._load()
        self._loaded_at = time.monotonic()

    def check(self, metadata: Iterable[tuple[str, str | bytes]]) -> None:
        """Check that the metadata of a call hold one of the tokens.

        Raises:
            UnauthenticatedError: they do not.
        """
        self._reload()
        value = next((value for key, value in metadata if key == "authorization"), "")
        given = value.encode() if isinstance(value, str) else value
        if given[: len(_SCHEME)].lower() != _SCHEME.encode():
            raise UnauthenticatedError("no token: send the metadata `authorization: Bearer TOKEN`")
        token = given[len(_SCHEME) :].strip()
        # Compare all of them, so that the time does not tell which one, or how much of it, was right.
        if not sum(hmac.compare_digest(token, known) for known in self._tokens):
            raise UnauthenticatedError("the token is not one that this service knows")

    def _reload(self) -> None:
        if time.monotonic() - self._loaded_at >= RELOAD_SECONDS:
            self._loaded_at = time.monotonic()
            with suppress(UsageError):
                self._tokens = self._load()

    def _load(self) -> tuple[bytes, ...]:
        lines = (line.partition(b"#")[0].strip() for line in _read(self._file, "token file ").splitlines())
        tokens = tuple(line for line in lines if line)
        if not tokens or min(map(len, tokens)) < MIN_TOKEN_CHARACTERS:
            raise UsageError(
                f"token file {self._file} must hold tokens of {MIN_TOKEN_CHARACTERS} characters or more, "
                "one a line"
            )
        return tokens


def _pem(file: Path, label: str) -> bytes:
    content = _read(file)
    if f"{label}-----".encode() not in content:
        raise UsageError(f"{file} holds no PEM {label.lower()}")
    return content


def _read(file: Path, kind: str = "") -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise UsageError(f"{kind}{file} cannot be read: {error.strerror}") from error
