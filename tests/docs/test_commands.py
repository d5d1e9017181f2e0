"""Commands in the README and the documentation: each exists, with the options it is shown with."""

from __future__ import annotations

import re
import runpy
import tomllib
import warnings
from contextlib import redirect_stderr, redirect_stdout
from importlib import import_module
from io import StringIO
from pathlib import Path

import pytest

from tests.docs.markdown import PAGES, ROOT, commands

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PLACEHOLDER = "..."


def shown(*starts: str) -> list[list[str]]:
    """Each distinct command that begins with one of ``starts``."""
    lines = {" ".join(words): words for page in PAGES for words in commands(page)}
    return [words for line, words in lines.items() if line.startswith(starts) and PLACEHOLDER not in words]


def help_of(words: list[str]) -> tuple[int, str]:
    """Exit code and output of a command with ``--help``: its words are parsed, and unknown ones refused."""
    output = StringIO()
    with (
        pytest.MonkeyPatch.context() as patch,
        redirect_stdout(output),
        redirect_stderr(output),
        warnings.catch_warnings(),
        pytest.raises(SystemExit) as end,
    ):
        warnings.filterwarnings("ignore", ".*found in sys.modules.*", RuntimeWarning)
        if words[0] == "sfavivit":
            module, function = PYPROJECT["project"]["scripts"]["sfavivit"].split(":")
            patch.setattr("sys.argv", [*words, "--help"])
            getattr(import_module(module), function)()
        else:
            patch.setattr("sys.argv", [words[2], *words[3:], "--help"])
            runpy.run_module(words[2], run_name="__main__")
    return int(end.value.code or 0), output.getvalue()


def is_application(words: list[str]) -> bool:
    """False for ``python -m pytest`` and for modules that run without reading options."""
    return words[0] != "python" or (ROOT / words[2].replace(".", "/") / "__main__.py").is_file()


COMMANDS = [words for words in shown("sfavivit ", "python -m ") if is_application(words)]


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_a_command_is_one_that_there_is(words: list[str]) -> None:
    code, output = help_of(words)
    if code and words[-1].startswith("--"):  # text that names an option without its value
        code, output = help_of([*words, "1"])
    assert code == 0, output


@pytest.mark.parametrize("words", shown("make "), ids=" ".join)
def test_a_make_target_is_one_that_there_is(words: list[str]) -> None:
    assert re.search(rf"^{re.escape(words[1])}:", (ROOT / "Makefile").read_text(), re.MULTILINE)


@pytest.mark.parametrize("words", shown("pip install", "python -m pip install"), ids=" ".join)
def test_extras_are_those_of_the_package(words: list[str]) -> None:
    named = [
        extra for word in words for extra in re.findall(r"[\w-]+", (re.findall(r"\[(.*)\]", word) or [""])[0])
    ]
    assert set(named) <= set(PYPROJECT["project"]["optional-dependencies"])


def test_the_readme_names_all_extras() -> None:
    table = re.search(r"\| extra \|.*?\n\n", (ROOT / "README.md").read_text(), re.DOTALL)
    assert table
    names = re.findall(r"`(\w+)`", "".join(line.split("|")[1] for line in table[0].strip().splitlines()))
    assert sorted(names) == sorted(PYPROJECT["project"]["optional-dependencies"])


def test_unknown_options_and_commands_are_found() -> None:
    """The check above would notice."""
    assert help_of(["sfavivit", "classify", "video.mp4", "--no-such-option"])[0] == 2
    assert help_of(["sfavivit", "no-such-command"])[0] == 2
    assert help_of(["python", "-m", "export", "rollback", "folder", "--no-such-option"])[0] == 2
    assert Path(ROOT, "README.md") in PAGES
