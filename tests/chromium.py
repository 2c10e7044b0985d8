"""A real Chromium, Debian's, for tests of the page that a node serves."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import pytest

try:
    from playwright.sync_api import Browser, Page, expect, sync_playwright
except ImportError:  # a test dependency; where it is missing the tests are skipped, and say so
    sync_playwright = expect = None

PROGRAM = shutil.which("chromium")
PATIENCE_MS = 20_000
"""For what a page waits for, on a loaded machine."""


def _missing() -> str | None:
    if PROGRAM is None:
        return "the tests of the dashboard need the Debian package chromium"
    if sync_playwright is None:
        return "the tests of the dashboard need playwright from PyPI"
    return None


skip_without_chromium = pytest.mark.skipif(_missing() is not None, reason=_missing() or "")


@contextmanager
def chromium(*options: str) -> Iterator[Browser]:
    """Root has no sandbox for it; it opens pages of this machine only."""
    expect.set_options(timeout=PATIENCE_MS)
    with sync_playwright() as playwright:
        quiet = ("--no-sandbox", "--disable-component-update", "--disable-background-networking")
        browser = playwright.chromium.launch(executable_path=PROGRAM, args=[*quiet, *options])
        try:
            yield browser
        finally:
            browser.close()


@dataclass
class Witness:
    """What a page said and asked for."""

    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def watch(self, page: Page) -> None:
        page.on("console", lambda said: said.type in ("error", "warning") and self.complaints.append(said.text))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("request", lambda request: self.requests.append(request.url))
        page.on("websocket", lambda socket: self.requests.append(socket.url))

    @property
    def hosts(self) -> set[str]:
        return {urlsplit(url).netloc for url in self.requests if not url.startswith("data:")}


@contextmanager
def opened(browser: Browser, address: str, **context: object) -> Iterator[tuple[Page, Witness]]:
    """The page of the node at `address`, in a window of its own."""
    with browser.new_context(**context) as window:
        window.set_default_timeout(PATIENCE_MS)
        page = window.new_page()
        witness = Witness()
        witness.watch(page)
        page.goto(f"http://{address}/")
        yield page, witness
