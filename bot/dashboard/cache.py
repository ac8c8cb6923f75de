"""What is shown to all who look: the facts, read at most once a second, and what is made of them, made once.

The bot's threads wait for the interpreter while this one is at work in it, so that its work must not grow with the
number of those who look.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable
from functools import cached_property

from bot.base.clock import boottime_seconds
from bot.dashboard import page
from bot.dashboard.snapshot import JsonObject

REFRESH_SECONDS = 1.0
# In place of each session's own, which the page of all does not know.
_CSRF_PLACEHOLDER = secrets.token_hex()


class CachedSnapshot:
    """One reading of the facts, and what has been made of it so far."""

    def __init__(self, status: JsonObject) -> None:
        self.status = status

    @cached_property
    def json(self) -> bytes:
        """The facts, for programs."""
        return json.dumps(self.status).encode()

    @cached_property
    def event(self) -> bytes:
        """What changes of the page, as a server-sent event."""
        return f"data: {json.dumps(page.render_live(self.status))}\n\n".encode()

    def page(self, csrf: str) -> bytes:
        """Return the page of a session."""
        return self._page.replace(_CSRF_PLACEHOLDER.encode(), csrf.encode())

    @cached_property
    def _page(self) -> bytes:
        # The name of a file, in the log, need not be text.
        return page.render_page(self.status, csrf=_CSRF_PLACEHOLDER).encode("utf-8", "backslashreplace")


def cached_reader(read: Callable[[], JsonObject]) -> Callable[[], CachedSnapshot]:
    """Return what gives the last reading; `read` is called anew where it is a second old."""
    cached: tuple[float, CachedSnapshot] | None = None

    def current() -> CachedSnapshot:
        nonlocal cached
        if cached is None or boottime_seconds() - cached[0] >= REFRESH_SECONDS:
            cached = boottime_seconds(), CachedSnapshot(read())
        return cached[1]

    return current
