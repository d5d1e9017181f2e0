"""Code blocks, commands, tables and links of Markdown pages."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
PAGES = (
    README,
    *sorted((ROOT / "docs").rglob("*.md")),
    ROOT / "deploy" / "README.md",
    ROOT / "CONTRIBUTING.md",
)
SHELL = ("", "sh", "bash", "shell", "console")

_FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"`((?:sfavivit|python -m|make) [^`|]+)`")
_LINK = re.compile(r"\]\((?![a-z]+:|#)([^)\s#]+)[^)]*\)")


@dataclass(frozen=True)
class Block:
    """A code block; ``language`` is empty for fences without one and for indented blocks."""

    language: str
    text: str


def blocks(page: Path) -> list[Block]:
    """All code blocks of a page, in order."""
    text = page.read_text(encoding="utf-8")
    found = [(match.start(), Block(match[1], match[2])) for match in _FENCED.finditer(text)]
    plain = _FENCED.sub(lambda match: re.sub(r"[^\n]", " ", match[0]), text)
    indented = re.finditer(r"(?:\A|\n)\n((?: {4}\S.*\n(?:\n(?= {4}))*)+)", plain)
    found += [(match.start(1), Block("", re.sub(r"^ {4}", "", match[1], flags=re.M))) for match in indented]
    return [block for _, block in sorted(found, key=lambda pair: pair[0])]


def commands(page: Path) -> Iterator[list[str]]:
    """Words of each command in shell blocks and inline code, without comments and the path of ``.venv``."""
    text = page.read_text(encoding="utf-8")
    lines = [line for block in blocks(page) if block.language in SHELL for line in _lines(block.text)]
    lines += [" ".join(match[1].split()) for match in _INLINE.finditer(_FENCED.sub("", text))]
    for command in (part.strip() for line in lines for part in line.split(" && ")):
        try:
            words = shlex.split(command.removeprefix("$ "), comments=True)
        except ValueError:  # a diagram or a formula
            continue
        while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):
            del words[0]
        if words:
            yield [words[0].removeprefix(".venv/bin/"), *words[1:]]


def _lines(text: str) -> list[str]:
    return text.replace("\\\n", " ").splitlines()


def tables(page: Path) -> Iterator[list[list[str]]]:
    """Cells of each table of a page, its header first."""
    for match in re.finditer(r"(?:^\|.*\|\n)+", page.read_text(encoding="utf-8"), re.MULTILINE):
        rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in match[0].splitlines()]
        yield [rows[0], *rows[2:]]


def links(page: Path) -> list[str]:
    """Relative targets of links and pictures, without anchors."""
    return _LINK.findall(_FENCED.sub("", page.read_text(encoding="utf-8")))
