"""A real headless Chromium, which reaches nothing but loopback, and checks of what a person sees in it.

It is the one that TEST_CHROMIUM names, or one on PATH, or the one that .ci/browser has fetched.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, Request, sync_playwright

from tests.conftest import ROOT

NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
ARGUMENTS = (
    # It shows the bot's own page only, and containers seldom allow a sandbox.
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    # Every name look-up fails.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)
LIMIT_MS = 20_000.0
PHONE = {"width": 360, "height": 800}
DESKTOP = {"width": 1280, "height": 900}

# Texts with too little contrast, by the formula of WCAG 2.2: 4.5 is needed, and 3 for large letters.
LOW_CONTRAST_TEXTS = """() => {
  const numbers = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const light = (colour) => {
    const [r, g, b] = numbers(colour).map((one) => one / 255)
      .map((one) => one <= 0.04045 ? one / 12.92 : ((one + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (element) => {
    for (let one = element; one; one = one.parentElement) {
      const colour = getComputedStyle(one).backgroundColor;
      if ((numbers(colour)[3] ?? 1) === 1) return colour;
    }
    return "rgb(255, 255, 255)";
  };
  const faint = new Set();
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    const element = texts.currentNode.parentElement;
    if (!texts.currentNode.data.trim() || !element.checkVisibility()) continue;
    const style = getComputedStyle(element), size = parseFloat(style.fontSize);
    const inDrawing = element instanceof SVGElement;
    const large = !inDrawing && (size >= 24 || size >= 18.66 && style.fontWeight >= 700);
    const [dark, bright] = [light(inDrawing ? style.fill : style.color), light(behind(element))].sort((a, b) => a - b);
    const contrast = (bright + 0.05) / (dark + 0.05);
    if (contrast < (large ? 3 : 4.5)) {
      faint.add(`${texts.currentNode.data.trim().slice(0, 40)}: ${contrast.toFixed(2)}`);
    }
  }
  return [...faint];
}"""

# Elements beyond the edge of a page of this width, and whether the page as a whole can be scrolled sideways.
OVERFLOWING_ELEMENTS = """(width) => {
  const isOut = (one) => one.getBoundingClientRect().right > width + 0.5;
  const out = [...document.querySelectorAll("body *")].filter(isOut);
  const names = out.map((one) => `${one.tagName} ${one.className} ${one.textContent.trim().slice(0, 40)}`);
  const extra = document.documentElement.scrollWidth - width;
  return extra > 0 ? [`${extra} pixels too wide`, ...names] : names;
}"""

# Touch targets that are less than 44 pixels high (WCAG 2.2, 2.5.5).
SMALL_TARGETS = """() => [...document.querySelectorAll("button, summary, input[type=password], label:has(input)")]
  .filter((one) => one.checkVisibility() && one.getBoundingClientRect().height < 44)
  .map((one) => one.outerHTML)"""


def find_chromium() -> str:
    """Return the path of a Chromium. Where there is none, skip; in CI, fail."""
    downloaded = ROOT / ".venv" / "browser" / "chromium"
    for path in (os.environ.get("TEST_CHROMIUM"), *map(shutil.which, NAMES), str(downloaded)):
        if path and Path(path).is_file():
            return path
    missing = "no Chromium to look at the page with: run .ci/browser, or name one in TEST_CHROMIUM"
    if os.environ.get("CI") == "true":
        pytest.fail(missing)
    pytest.skip(missing)


@contextlib.contextmanager
def open_browser() -> Iterator[Browser]:
    """Run a browser."""
    path = find_chromium()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        try:
            yield browser
        finally:
            browser.close()


@dataclass
class Visit:
    """A page in a browser context of its own, with its requests and its console errors."""

    page: Page
    requests: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def record(self) -> None:
        """Record requests and errors from now on."""
        self.page.on("request", self._record_request)
        self.page.on("console", self._record_message)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))

    def _record_request(self, request: Request) -> None:
        self.requests.append(request.url)

    def _record_message(self, message: ConsoleMessage) -> None:
        if message.type in {"error", "warning"}:
            self.errors.append(message.text)

    def assert_clean(self, expected: str) -> None:
        """Fail where there was an error except `expected`, or a request to another host."""
        unexpected = [one for one in self.errors if not expected or expected not in one]
        assert not unexpected, f"the browser complained: {unexpected}"
        external_urls = [url for url in self.requests if not url.startswith("http://127.0.0.1:")]
        assert not external_urls, f"the page asked elsewhere: {external_urls}"


@contextlib.contextmanager
def visit(browser: Browser, url: str, *, expected: str = "", **options: Any) -> Iterator[Visit]:
    """Open `url`; at the end, fail on errors of scripts, of the content security policy, or of answers.

    `expected`: the expected errors. `options`: of a browser context, such as `viewport` and `color_scheme`.
    """
    with contextlib.closing(browser.new_context(**options)) as context:
        context.set_default_timeout(LIMIT_MS)
        visited = Visit(context.new_page())
        visited.record()
        visited.page.goto(url)
        yield visited
        visited.assert_clean(expected)
