"""Tests marked ``gpu`` skip where there is no GPU, and fail when SFAVIVIT_REQUIRE_GPU=1 says there is one."""

from __future__ import annotations

import os
from importlib import import_module
from typing import Any

import pytest

REQUIRE = "SFAVIVIT_REQUIRE_GPU"


def need(module: str) -> Any:
    """A package that only machines with a GPU have."""
    try:
        return import_module(module)
    except ImportError as error:
        return without(f"no {error.name}")


def without(reason: str) -> None:
    """End the test: it cannot run here, and must not be passed over where it should."""
    if os.environ.get(REQUIRE) == "1":
        pytest.fail(f"{REQUIRE}=1, but {reason}")
    pytest.skip(reason)
