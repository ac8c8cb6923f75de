"""The page's port, and the thread that serves the page behind it."""

from __future__ import annotations

import os
import socket
import threading
from importlib.util import find_spec
from typing import TYPE_CHECKING

from bot.app.lifecycle import Lifecycle
from bot.base.errors import SettingsError
from bot.config import Settings

if TYPE_CHECKING:
    from bot.dashboard.server import DashboardServer

DEFAULT_PORT = 8080
# The page's libraries take a fifth of a start. They are loaded once the bot trades or waits, or after this time: an
# order does not wait for them, and a client's connection waits in the port's queue.
LOAD_DELAY_SECONDS_MAX = 1.0
SHUTDOWN_TIMEOUT_SECONDS = 0.3
_PACKAGES = ("jinja2", "prometheus_client", "starlette", "uvicorn")


class Listener:
    """Holds the page's port and serves the page, from `start` to `close`, at `url`."""

    def __init__(self, settings: Settings, lifecycle: Lifecycle) -> None:
        """Bind the port. Raises SettingsError where it is in use, ModuleNotFoundError where a package is missing."""
        for name in _PACKAGES:
            if find_spec(name) is None:
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        self._settings = settings
        self._lifecycle = lifecycle
        self._socket = _bind(settings.port)
        self._server: DashboardServer | None = None
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="status", daemon=True)
        port = self._socket.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self.location = self.url
        if settings.port is not None:
            has_token = bool(str.__str__(settings.status_token))
            self.location = f"port {port}, {'with STATUS_TOKEN' if has_token else 'closed: STATUS_TOKEN is not set'}"

    def start(self) -> None:
        """Serve, in a thread of its own."""
        self._thread.start()

    def close(self) -> None:
        """End the thread; unfinished answers are cut off."""
        self._closing.set()
        if self._server is not None:
            self._server.close()
        self._thread.join(SHUTDOWN_TIMEOUT_SECONDS)

    def _serve(self) -> None:
        self._lifecycle.has_started.wait(LOAD_DELAY_SECONDS_MAX)
        from bot.dashboard.server import DashboardServer

        self._server = DashboardServer(self._settings, self._lifecycle)
        if not self._closing.is_set():
            self._server.serve(self._socket)


def _bind(port: int | None) -> socket.socket:
    if port is None:
        try:
            return socket.create_server(("127.0.0.1", DEFAULT_PORT))
        except OSError:
            return socket.create_server(("127.0.0.1", 0))
    try:
        if socket.has_dualstack_ipv6():
            return socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True)
        return socket.create_server(("", port))
    except OSError as error:
        raise SettingsError(
            [f"PORT is {port}, which cannot be used: {os.strerror(error.errno or 0)}. Free it or name another."]
        ) from None
