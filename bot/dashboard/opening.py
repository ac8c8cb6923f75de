"""Where the page's libraries are loaded: only for a run that has a page, because they take a third of a start."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bot.app.lifecycle import Runner
from bot.config import Settings

if TYPE_CHECKING:
    from bot.dashboard.server import StatusServer


def open_page(settings: Settings, runner: Runner) -> StatusServer:
    """Take the page's port and serve. Raises SettingsError where it is taken."""
    from bot.dashboard.server import StatusServer

    server = StatusServer(settings, runner)
    server.start()
    return server
