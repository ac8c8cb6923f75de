"""Where the page's libraries are loaded: only for a run that has a page, because they take a third of a start."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bot.app.lifecycle import Lifecycle
from bot.config import Settings

if TYPE_CHECKING:
    from bot.dashboard.server import DashboardServer


def start_dashboard(settings: Settings, lifecycle: Lifecycle) -> DashboardServer:
    """Take the page's port and serve. Raises SettingsError where it is taken."""
    from bot.dashboard.server import DashboardServer

    server = DashboardServer(settings, lifecycle)
    server.start()
    return server
