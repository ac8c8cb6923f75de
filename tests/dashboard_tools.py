"""The gate before a small app of the tests' own, served on loopback, and clients that speak HTTP to it."""

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
from bot.dashboard.auth import Access
from bot.dashboard.auth_middleware import Gate

COOKIE = "status_session"
TOKEN = "a-token-of-these-tests-4711"
FORM = {"Content-Type": "application/x-www-form-urlencoded"}
OWN = {"Sec-Fetch-Site": "same-origin"}


@dataclass(frozen=True)
class Answer:
    """What a server said."""

    status: int
    headers: http.client.HTTPMessage
    text: str

    @property
    def cookie(self) -> str:
        """Name and value of the cookie it set."""
        return str(self.headers["set-cookie"]).partition(";")[0]


@dataclass
class Client:
    """Asks a server on loopback, each time on a new connection, from an address of its own choice."""

    port: int
    address: str = "127.0.0.1"
    answers: list[Answer] = field(default_factory=list)

    def ask(
        self, method: str, path: str, headers: dict[str, str] | None = None, body: str | bytes | None = None
    ) -> Answer:
        """Send one request and read its answer."""
        link = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20, source_address=(self.address, 0))
        try:
            link.request(method, path, body, headers or {})
            got = link.getresponse()
            answer = Answer(got.status, got.headers, got.read().decode("latin-1"))
        finally:
            link.close()
        self.answers.append(answer)
        return answer

    def get(self, path: str, **headers: str) -> Answer:
        """Ask for a page; `Some_Header="x"` is sent as `Some-Header: x`."""
        return self.ask("GET", path, _named(headers))

    def post(self, path: str, fields: dict[str, str], **headers: str) -> Answer:
        """Send a form as a browser does from the server's own page, unless `headers` say otherwise ("" leaves out)."""
        sent = {name: value for name, value in (FORM | OWN | _named(headers)).items() if value}
        return self.ask("POST", path, sent, urlencode(fields))

    def log_in(self, token: str = TOKEN, **headers: str) -> Answer:
        """Send the login form."""
        return self.post("/login", {"token": token}, **headers)


def _named(headers: dict[str, str]) -> dict[str, str]:
    return {name.replace("_", "-"): value for name, value in headers.items()}


@contextmanager
def serving(app: ASGIApp, listener: socket.socket | None = None) -> Iterator[int]:
    """Serve an app as the status server does, on a free port of loopback; yield the port."""
    listener = listener or socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(connections.config(app))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="status server of a test")
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive()


@dataclass
class World:
    """A gate before an app that tells what came past the gate, and the clocks it looks at."""

    is_public: bool = True
    token: str = TOKEN
    now: float = 1000.0
    wall: float = 1_764_000_000.0
    passed: list[str] = field(default_factory=list)
    second_half: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        """Start as a bot does."""
        self.restart()

    def restart(self) -> None:
        """Forget what only the process knew."""
        access = Access(self.token, is_public=self.is_public, now=lambda: self.now, wall=lambda: self.wall)
        self.gate = Gate(self._inner, access, lambda problem: f"<h1>Log in</h1>{problem}")

    async def app(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve by the present gate."""
        await self.gate(scope, receive, send)

    async def _inner(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        self.passed.append(request.url.path)
        if request.url.path == "/events":
            await self._stream(send)
        elif request.url.path == "/weak":
            weak = {"content-security-policy": "default-src *", "cache-control": "max-age=60"}
            await HTMLResponse("weak", headers=weak)(scope, receive, send)
        else:
            seen = {"csrf": getattr(request.state, "csrf", None), "form": getattr(request.state, "form", None)}
            await JSONResponse(seen)(scope, receive, send)

    async def _stream(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
        await send({"type": "http.response.body", "body": b"one", "more_body": True})
        await asyncio.to_thread(self.second_half.wait, 20)
        await send({"type": "http.response.body", "body": b"two", "more_body": False})


def csrf_of(answer: Answer) -> str:
    """Return what the app was given for its form."""
    return str(json.loads(answer.text)["csrf"])


def wrong_tokens(client: Client, count: int) -> list[int]:
    """Send so many wrong tokens in headers; return the statuses."""
    return [client.get("/", Authorization=f"Bearer guess-{number}").status for number in range(count)]


def forged(token: str, world: World) -> str:
    """Return the session that a server with this token gives."""
    return Access(token, is_public=True, now=lambda: 0.0, wall=lambda: world.wall).new_cookie()
