"""The page's server: Starlette on uvicorn, in a thread of the bot's process.

It only reads what the bot's threads have left in memory, so that it cannot delay a request that waits for the request
lock.
"""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from collections.abc import AsyncIterator

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import (
    HTMLResponse,
    PlainTextResponse,
    RedirectResponse,
    Response,
    StreamingResponse,
)
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from bot.app.control_files import ENTRIES_PAUSED_FILE_NAME, create_control_file
from bot.app.lifecycle import Lifecycle
from bot.base.clock import boottime_seconds, wall_seconds
from bot.base.errors import SettingsError
from bot.config import Settings
from bot.dashboard import connections, page, prometheus
from bot.dashboard.auth import Authenticator
from bot.dashboard.auth_middleware import AuthMiddleware
from bot.dashboard.cache import cached_reader
from bot.dashboard.snapshot import SnapshotReader

DEFAULT_PORT = 8080
# The interval of updates for an open page: 0.7 MB a minute.
STREAM_INTERVAL_SECONDS = 5.0
# A stream keeps its connection; phones that were put away leave theirs open.
STREAMS_MAX = 20
SHUTDOWN_TIMEOUT_SECONDS = 0.3


class DashboardServer:
    """Serves until `close`, at `url`."""

    def __init__(self, settings: Settings, lifecycle: Lifecycle) -> None:
        """Bind the port. Raises SettingsError where it is in use."""
        self._settings = settings
        self._reader = SnapshotReader(settings, lifecycle)
        self._cached_snapshot = cached_reader(self._reader.read)
        self._stream_count = 0
        self._socket = _bind(settings.port)
        is_public = settings.port is not None
        port, token = self._socket.getsockname()[1], str.__str__(settings.status_token)
        self.url = f"http://127.0.0.1:{port}"
        self.location = self.url
        if is_public:
            self.location = f"port {port}, {'with STATUS_TOKEN' if token else 'closed: STATUS_TOKEN is not set'}"
        authenticator = Authenticator(token, is_public=is_public, monotonic=boottime_seconds, wall_clock=wall_seconds)
        self._server = uvicorn.Server(
            connections.uvicorn_config(AuthMiddleware(self._app(), authenticator, page.render_login_page))
        )
        self._thread = threading.Thread(target=self._serve, name="status", daemon=True)

    def start(self) -> None:
        """Serve, in a thread of its own."""
        self._thread.start()

    def close(self) -> None:
        """End the thread; unfinished answers are cut off."""
        self._server.should_exit = True
        self._thread.join(SHUTDOWN_TIMEOUT_SECONDS)

    def _serve(self) -> None:
        try:
            self._server.run(sockets=[self._socket])
        finally:
            self._reader.close()

    def _app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/healthz", self._healthz),
                Route("/readyz", self._readyz),
                Route("/metrics", self._metrics),
                Route("/api/status", self._api_status),
                Route("/", self._page),
                Route("/events", self._events),
                Route("/stop", self._stop, methods=["POST"]),
                Mount("/static", StaticFiles(directory=page.STATIC)),
            ]
        )

    async def _healthz(self, _request: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def _readyz(self, _request: Request) -> Response:
        # Open to everybody, so without the reason: it may name hosts.
        state, _reason, is_ready = self._reader.status()
        return PlainTextResponse(f"{state}\n", 200 if is_ready else 503)

    async def _metrics(self, _request: Request) -> Response:
        text = prometheus.render(self._cached_snapshot().status)
        return Response(text, media_type=prometheus.CONTENT_TYPE)

    async def _api_status(self, _request: Request) -> Response:
        return Response(self._cached_snapshot().json, media_type="application/json")

    async def _page(self, request: Request) -> Response:
        return HTMLResponse(self._cached_snapshot().page(request.state.csrf))

    async def _events(self, _request: Request) -> Response:
        if self._stream_count >= STREAMS_MAX:
            return PlainTextResponse("too many pages are open; this one is shown without news\n", 503)
        return StreamingResponse(self._stream(), media_type="text/event-stream")

    async def _stream(self) -> AsyncIterator[bytes]:
        self._stream_count += 1
        try:
            while not self._server.should_exit:
                yield self._cached_snapshot().event
                await asyncio.sleep(STREAM_INTERVAL_SECONDS)
        finally:
            self._stream_count -= 1

    async def _stop(self, request: Request) -> Response:
        if request.state.form.get("confirm") != "stop":
            return PlainTextResponse("not confirmed, so entries are not paused\n", 400)
        try:
            # The bot reports it, as it does where a command or a person creates the file.
            create_control_file(self._settings.state_dir, ENTRIES_PAUSED_FILE_NAME)
        except OSError as error:
            return PlainTextResponse(f"entries are NOT paused: {error.strerror}\n", 503)
        # The next page shows the change.
        self._cached_snapshot = cached_reader(self._reader.read)
        return RedirectResponse("/", 303)


def open_dashboard(settings: Settings, lifecycle: Lifecycle) -> DashboardServer:
    """Take the page's port and serve. Raises SettingsError where it is taken."""
    server = DashboardServer(settings, lifecycle)
    server.start()
    return server


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
