"""A headless Chromium for tests of pages, that lets nothing but files through and notes what it was asked."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

CHROMIUM = Path("/usr/bin/chromium")
REQUIRE_VARIABLE = "SFAVIVIT_REQUIRE_CHROMIUM"
_ARGUMENTS = (
    "--headless",
    "--no-sandbox",  # tests run as root in containers
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@contextmanager
def chromium() -> Iterator[Browser]:
    """The browser; without one the test is skipped, or fails when ``SFAVIVIT_REQUIRE_CHROMIUM=1``."""
    if not CHROMIUM.exists():
        missing = f"no {CHROMIUM}; install Debian's chromium"
        if os.environ.get(REQUIRE_VARIABLE) == "1":
            pytest.fail(missing)
        pytest.skip(missing)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=_ARGUMENTS)
        try:
            yield browser
        finally:
            browser.close()


@dataclass
class Visit:
    """An open page, what it wrote to its console or threw, and the addresses that it asked for."""

    page: Page
    problems: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)


@contextmanager
def visit(browser: Browser, file: Path, *, width: int = 1200, height: int = 900) -> Iterator[Visit]:
    """Open a file; at the end, fail on anything in its console and on requests for more than files."""
    page = browser.new_page(viewport={"width": width, "height": height})
    visited = Visit(page)
    page.on("console", lambda message: visited.problems.append(message.text))
    page.on("pageerror", lambda error: visited.problems.append(str(error)))
    page.on("request", lambda request: visited.requests.append(request.url))
    try:
        page.goto(file.as_uri())
        yield visited
        assert visited.problems == []
        assert {url.partition(":")[0] for url in visited.requests} <= {"file", "blob", "data"}
    finally:
        page.close()


def wait_until(page: Page, expression: str, milliseconds: int = 10_000) -> None:
    """Wait until a JavaScript expression holds; Playwright's own way would have to evaluate strings."""
    page.evaluate(
        f"""async () => {{
            const end = performance.now() + {milliseconds};
            while (!({expression})) {{
                if (performance.now() > end) throw new Error("never came true");
                await new Promise((resolve) => setTimeout(resolve, 10));
            }}
        }}"""
    )
