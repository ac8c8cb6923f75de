"""The page's server: Starlette on uvicorn, in the thread of `listener`.

It only reads what the bot's threads have left in memory, so that it cannot delay a request that waits for the request
lock.
"""

from __future__ import annotations

import asyncio
import socket
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
from bot.config import Settings
from bot.dashboard import connections, page, prometheus
from bot.dashboard.auth import Authenticator
from bot.dashboard.auth_middleware import AuthMiddleware
from bot.dashboard.cache import cached_reader
from bot.dashboard.snapshot import SnapshotReader

# The interval of updates for an open page: 0.7 MB a minute.
STREAM_INTERVAL_SECONDS = 5.0
# A stream keeps its connection; phones that were put away leave theirs open.
STREAMS_MAX = 20


class DashboardServer:
    """Serves the page on a socket, from `serve` to `close`."""

    def __init__(self, settings: Settings, lifecycle: Lifecycle) -> None:
        self._settings = settings
        self._reader = SnapshotReader(settings, lifecycle)
        self._cached_snapshot = cached_reader(self._reader.read)
        self._stream_count = 0
        authenticator = Authenticator(
            str.__str__(settings.status_token),
            is_public=settings.port is not None,
            monotonic=boottime_seconds,
            wall_clock=wall_seconds,
        )
        self._server = uvicorn.Server(
            connections.uvicorn_config(AuthMiddleware(self._app(), authenticator, page.render_login_page))
        )

    def serve(self, listening: socket.socket) -> None:
        """Serve until `close`, in this thread."""
        try:
            self._server.run(sockets=[listening])
        finally:
            self._reader.close()

    def close(self) -> None:
        """End `serve`; unfinished answers are cut off."""
        self._server.should_exit = True

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
