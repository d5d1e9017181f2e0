"""Check of arguments against the annotations of public functions: a wrong type is a ``UsageError``."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Sequence
from functools import cache, wraps
from numbers import Integral, Real
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, ParamSpec, TypeVar, Union, get_args, get_origin, get_type_hints

import numpy as np

from sfavivit.errors import UsageError

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

# Wider than the annotation says: numpy's numbers and any path-like object are as good.
_WIDER: dict[Any, Any] = {float: Real, int: Integral, Path: os.PathLike}
_hints: Callable[[Any], dict[str, Any]] = cache(get_type_hints)


def checked(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Have ``function`` raise ``UsageError`` for an argument that its annotation does not allow."""
    signature = inspect.signature(function)

    @wraps(function)
    def check_and_call(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        hints = _hints(function)
        for name, value in signature.bind(*args, **kwargs).arguments.items():
            _check(name, value, hints.get(name, Any))
        return function(*args, **kwargs)

    return check_and_call


def check_fields(instance: Any) -> None:
    """Raise ``UsageError`` for a field of a dataclass that its annotation does not allow."""
    for name, hint in _hints(type(instance)).items():
        _check(name, getattr(instance, name), hint)


def _check(name: str, value: object, hint: Any) -> None:
    if not _fits(value, hint):
        raise UsageError(f"{name} takes {_words(hint)}, not {type(value).__name__}")


def _fits(value: object, hint: Any) -> bool:
    kind, parameters = get_origin(hint) or hint, get_args(hint)
    if kind in (Union, UnionType):
        return any(_fits(value, choice) for choice in parameters)
    if kind is Literal:
        return isinstance(value, str) and value in parameters
    if kind in (tuple, Sequence):
        return (
            isinstance(value, Sequence)
            and not isinstance(value, str | bytes)
            and all(_fits(item, parameters[0]) for item in value)
        )
    return kind is Any or isinstance(value, _WIDER.get(kind, kind))


def _words(hint: Any) -> str:
    """Name what an annotation allows, as ``str, PathLike or bytes``."""
    kind, parameters = get_origin(hint) or hint, get_args(hint)
    if kind in (Union, UnionType):
        *others, last = (_words(choice) for choice in parameters)
        return f"{', '.join(others)} or {last}"
    if kind is Literal:
        return " or ".join(map(repr, parameters))
    if kind is np.ndarray:
        return f"a numpy array of {_words(get_args(parameters[1])[0])}"
    if kind in (tuple, Sequence):
        return f"a tuple of {_words(parameters[0])}"
    return "None" if kind is NoneType else str(kind.__name__)
