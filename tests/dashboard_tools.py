"""The authentication middleware in front of a small app, served on loopback, and HTTP clients for it."""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import urlencode

import uvicorn
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from bot.dashboard import connections
from bot.dashboard.auth import Authenticator
from bot.dashboard.auth_middleware import AuthMiddleware

COOKIE = "status_session"
TOKEN = "a-token-of-these-tests-4711"
FORM = {"Content-Type": "application/x-www-form-urlencoded"}
SAME_ORIGIN = {"Sec-Fetch-Site": "same-origin"}


@dataclass(frozen=True)
class Response:
    """A server's answer."""

    status: int
    headers: http.client.HTTPMessage
    text: str

    @property
    def cookie(self) -> str:
        """Name and value of the cookie in the answer."""
        return str(self.headers["set-cookie"]).partition(";")[0]


@dataclass
class Client:
    """Sends requests to a server on loopback, each on a new connection, from an address of its own choice."""

    port: int
    address: str = "127.0.0.1"
    responses: list[Response] = field(default_factory=list)

    def request(
        self, method: str, path: str, headers: dict[str, str] | None = None, body: str | bytes | None = None
    ) -> Response:
        """Send one request and read its answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20, source_address=(self.address, 0))
        try:
            connection.request(method, path, body, headers or {})
            http_response = connection.getresponse()
            response = Response(http_response.status, http_response.headers, http_response.read().decode("latin-1"))
        finally:
            connection.close()
        self.responses.append(response)
        return response

    def get(self, path: str, **headers: str) -> Response:
        """Get a page; `Some_Header="x"` is sent as `Some-Header: x`."""
        return self.request("GET", path, _header_names(headers))

    def post(self, path: str, fields: dict[str, str], **headers: str) -> Response:
        """Send a form as a browser does from the server's own page, unless `headers` say otherwise ("" leaves out)."""
        sent_headers = {name: value for name, value in (FORM | SAME_ORIGIN | _header_names(headers)).items() if value}
        return self.request("POST", path, sent_headers, urlencode(fields))

    def log_in(self, token: str = TOKEN, **headers: str) -> Response:
        """Send the login form."""
        return self.post("/login", {"token": token}, **headers)


def _header_names(headers: dict[str, str]) -> dict[str, str]:
    return {name.replace("_", "-"): value for name, value in headers.items()}


@contextmanager
def serving(app: ASGIApp, listener: socket.socket | None = None) -> Iterator[int]:
    """Serve an app as the dashboard server does, on a free port of loopback; yield the port."""
    listener = listener or socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(connections.uvicorn_config(app))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="status server of a test")
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive()


@dataclass
class AuthServer:
    """The middleware in front of an app that records the passed requests, with clocks that the test sets."""

    is_public: bool = True
    token: str = TOKEN
    monotonic_seconds: float = 1000.0
    wall_seconds: float = 1_764_000_000.0
    passed_paths: list[str] = field(default_factory=list)
    may_send_second_half: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        """Start as a bot does."""
        self.restart()

    def restart(self) -> None:
        """Forget the state that only the process had."""
        authenticator = Authenticator(
            self.token,
            is_public=self.is_public,
            monotonic=lambda: self.monotonic_seconds,
            wall_clock=lambda: self.wall_seconds,
        )
        self.middleware = AuthMiddleware(
            self._protected_app, authenticator, lambda problem: f"<h1>Log in</h1>{problem}"
        )

    async def app(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve with the current middleware."""
        await self.middleware(scope, receive, send)

    async def _protected_app(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        self.passed_paths.append(request.url.path)
        if request.url.path == "/events":
            await self._stream(send)
        elif request.url.path == "/weak":
            weak = {"content-security-policy": "default-src *", "cache-control": "max-age=60"}
            await HTMLResponse("weak", headers=weak)(scope, receive, send)
        else:
            state = {"csrf": getattr(request.state, "csrf", None), "form": getattr(request.state, "form", None)}
            await JSONResponse(state)(scope, receive, send)

    async def _stream(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
        await send({"type": "http.response.body", "body": b"one", "more_body": True})
        await asyncio.to_thread(self.may_send_second_half.wait, 20)
        await send({"type": "http.response.body", "body": b"two", "more_body": False})


def csrf_token_in(response: Response) -> str:
    """Return the csrf token that the app got for its form."""
    return str(json.loads(response.text)["csrf"])


def send_wrong_tokens(client: Client, count: int) -> list[int]:
    """Send this number of wrong tokens in headers; return the statuses."""
    return [client.get("/", Authorization=f"Bearer guess-{number}").status for number in range(count)]


def forge_session(token: str, server: AuthServer) -> str:
    """Return a session as a server with this token creates it."""
    return Authenticator(
        token, is_public=True, monotonic=lambda: 0.0, wall_clock=lambda: server.wall_seconds
    ).new_session()
