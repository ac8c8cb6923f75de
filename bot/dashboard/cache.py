"""One status snapshot for all clients, read at most once a second, and its renderings, each made once.

The bot's threads wait for the interpreter while this thread works, so its work must not grow with the number of
clients.
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
# In place of each session's own token, which the common page does not know.
_CSRF_PLACEHOLDER = secrets.token_hex()


class CachedSnapshot:
    """One status snapshot, and its renderings so far."""

    def __init__(self, status: JsonObject) -> None:
        self.status = status

    @cached_property
    def json(self) -> bytes:
        """The snapshot, for programs."""
        return json.dumps(self.status).encode()

    @cached_property
    def event(self) -> bytes:
        """The part of the page that changes, as a server-sent event."""
        return f"data: {json.dumps(page.render_live(self.status))}\n\n".encode()

    def page(self, csrf: str) -> bytes:
        """Return the page of a session."""
        return self._page.replace(_CSRF_PLACEHOLDER.encode(), csrf.encode())

    @cached_property
    def _page(self) -> bytes:
        # The name of a file, in the log, need not be valid text.
        return page.render_page(self.status, csrf=_CSRF_PLACEHOLDER).encode("utf-8", "backslashreplace")


def cached_reader(read: Callable[[], JsonObject]) -> Callable[[], CachedSnapshot]:
    """Return a function that returns the last snapshot; it calls `read` again when the snapshot is a second old."""
    cached: tuple[float, CachedSnapshot] | None = None

    def current() -> CachedSnapshot:
        nonlocal cached
        if cached is None or boottime_seconds() - cached[0] >= REFRESH_SECONDS:
            cached = boottime_seconds(), CachedSnapshot(read())
        return cached[1]

    return current
