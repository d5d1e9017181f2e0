"""Command-line options as docs/serving.md describes them."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

from serving.command import serve

PAGE = Path(__file__).parents[2] / "docs" / "serving.md"


def test_documented_options_and_defaults() -> None:
    text = PAGE.read_text()
    options = {
        f"--{name.replace('_', '-')}": p.default for name, p in inspect.signature(serve).parameters.items()
    }
    defaults = dict(re.findall(r"^\| `(--[\w-]+)` \| (\d+) \|", text, re.MULTILINE))
    assert len(defaults) == 11
    assert {name: float(value) for name, value in defaults.items()} == {
        name: options[name] for name in defaults
    }
    shown = {
        option
        for line in re.findall(r"python -m serving (?!triton)(.*)", text)
        for option in re.findall(r"--[\w-]+", line)
    }
    assert shown <= options.keys() | {"--help"}
