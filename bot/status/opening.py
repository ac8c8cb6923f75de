"""Where the page's libraries are loaded: only for a run that has a page, because they take a third of a start."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bot.config import Settings
from bot.runner import Runner

if TYPE_CHECKING:
    from bot.status.server import StatusServer


def open_page(settings: Settings, runner: Runner) -> StatusServer:
    """Take the page's port and serve. Raises SettingsError where it is taken."""
    from bot.status.server import StatusServer

    server = StatusServer(settings, runner)
    server.start()
    return server
