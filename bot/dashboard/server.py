"""The page's server: Starlette on uvicorn, in a thread of the bot's process.

It only reads what the bot's threads have left for it, so that it cannot keep a request waiting for its turn.
"""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from collections.abc import AsyncIterator
from pathlib import Path

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

from bot.app.lifecycle import Runner
from bot.app.session import ENTRIES_STOPPED
from bot.base import metrics
from bot.base.clock import boottime_seconds, wall_seconds
from bot.base.errors import SettingsError
from bot.base.events import Event, tell
from bot.base.private_files import open_file
from bot.config import Settings
from bot.dashboard import connections, page
from bot.dashboard.auth import Access
from bot.dashboard.auth_middleware import Gate
from bot.dashboard.cache import shown
from bot.dashboard.snapshot import Reader

DEFAULT_PORT = 8080
# How often an open page is told anew: 0.7 MB a minute.
STREAM_SECONDS = 5.0
# A stream keeps its connection; phones that were put away leave theirs open.
STREAMS_MAX = 20
END_SECONDS = 0.3


class StatusServer:
    """Serves until `close`. `url` is where."""

    def __init__(self, settings: Settings, runner: Runner) -> None:
        """Take the port. Raises SettingsError where it is taken."""
        self._settings = settings
        self._reader = Reader(settings, runner)
        self._shown = shown(self._reader.read)
        self._streams = 0
        self._socket = _listen(settings.port)
        is_public = settings.port is not None
        port, token = self._socket.getsockname()[1], str.__str__(settings.status_token)
        self.url = f"http://127.0.0.1:{port}"
        self.place = self.url
        if is_public:
            self.place = f"port {port}, {'with STATUS_TOKEN' if token else 'closed: STATUS_TOKEN is not set'}"
        access = Access(token, is_public=is_public, now=boottime_seconds, wall=wall_seconds)
        self._server = uvicorn.Server(connections.config(Gate(self._app(), access, page.login_page)))
        self._thread = threading.Thread(target=self._serve, name="status", daemon=True)

    def start(self) -> None:
        """Serve, in a thread of its own."""
        self._thread.start()

    def close(self) -> None:
        """End the thread; what is still being sent is cut off."""
        self._server.should_exit = True
        self._thread.join(END_SECONDS)

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
        # Open to all, so no reason: it may name hosts.
        state, _reason, ready = self._reader.standing()
        return PlainTextResponse(f"{state}\n", 200 if ready else 503)

    async def _metrics(self, _request: Request) -> Response:
        metrics.show(self._shown().facts)
        return Response(metrics.text(), media_type=metrics.CONTENT_TYPE)

    async def _api_status(self, _request: Request) -> Response:
        return Response(self._shown().json, media_type="application/json")

    async def _page(self, request: Request) -> Response:
        return HTMLResponse(self._shown().page(request.state.csrf))

    async def _events(self, _request: Request) -> Response:
        if self._streams >= STREAMS_MAX:
            return PlainTextResponse("too many pages are open; this one is shown without news\n", 503)
        return StreamingResponse(self._stream(), media_type="text/event-stream")

    async def _stream(self) -> AsyncIterator[bytes]:
        self._streams += 1
        try:
            while not self._server.should_exit:
                yield self._shown().event
                await asyncio.sleep(STREAM_SECONDS)
        finally:
            self._streams -= 1

    async def _stop(self, request: Request) -> Response:
        if request.state.form.get("confirm") != "stop":
            return PlainTextResponse("not confirmed, so nothing was stopped\n", 400)
        try:
            stop_entries(self._settings.state_dir)
        except OSError as error:
            return PlainTextResponse(f"entries were NOT stopped: {error.strerror}\n", 503)
        # The page that follows shows it.
        self._shown = shown(self._reader.read)
        return RedirectResponse("/", 303)


def stop_entries(folder: Path) -> None:
    """Stop entries until `python main.py resume`, also across restarts. Raises OSError where that cannot be noted."""
    # It waits for nothing, whatever lies there in place of a file: health is answered by the same thread.
    os.close(open_file(str(folder / ENTRIES_STOPPED), os.O_WRONLY | os.O_CREAT))
    tell(Event.ENTRIES_STOPPED, "entries were stopped from the page; `python main.py resume` lets them go on")


def _listen(port: int | None) -> socket.socket:
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
