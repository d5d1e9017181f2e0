"""Packages of the extras, which may be missing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sfavivit.errors import SfaVivitError, UsageError


@contextmanager
def needs_extra(user: str, extra: str, error: type[SfaVivitError] = UsageError) -> Iterator[None]:
    """Turn a failed import in the block into ``error``: ``user`` needs a package of ``extra``."""
    try:
        yield
    except ImportError as missing:
        package = (missing.name or str(missing)).partition(".")[0]
        raise error(f"{user} needs {package}: pip install 'sfavivit[{extra}]'") from missing
