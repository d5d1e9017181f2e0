"""MkDocs hooks: the README as first page, and links from docs/ to other files of the repository."""

from __future__ import annotations

import logging
import posixpath
import re
import tomllib
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parent.parent
LINK = re.compile(r"(!?\[[^\]]*\])\((?![a-z]+:|#)([^)\s]+)\)")
log = logging.getLogger("mkdocs.hooks.links")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the README as ``index.md``, its links made relative to docs/."""

    def relative_to_docs(match: re.Match[str]) -> str:
        return f"{match[1]}({posixpath.relpath(match[2], 'docs')})"

    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    files.append(File.generated(config, "index.md", content=LINK.sub(relative_to_docs, readme)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Point links that leave docs/ to the repository that pyproject.toml names, or leave their text only."""
    urls = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"].get("urls", {})
    repository = urls.get("Repository") or urls.get("Source")

    def rewrite(match: re.Match[str]) -> str:
        path, _, anchor = match[2].partition("#")
        target = posixpath.normpath(posixpath.join("docs", posixpath.dirname(page.file.src_uri), path))
        if target.startswith("docs/"):
            return match[0]
        if not (ROOT / target).exists():
            log.warning("%s links to %s, which does not exist", page.file.src_uri, target)
        if not repository:
            return match[1].strip("[]")
        return f"{match[1]}({repository}/blob/main/{target}{'#' * bool(anchor)}{anchor})"

    return LINK.sub(rewrite, markdown)
