"""Fixtures of the tests of examples."""

from __future__ import annotations

from tests.training.support import one_thread

__all__ = ["one_thread"]
