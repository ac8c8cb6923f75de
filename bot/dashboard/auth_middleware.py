"""The gate before the status page's app: plain ASGI, so that streams pass through it piece by piece.

Whatever comes past it may be answered. It serves /login itself, and what it found out is in `request.state`:
`csrf`, which the form that stops entries brings back in a field of this name; and, with POST /stop, `form`, the other
fields. Its body has been read then.
"""

from __future__ import annotations

import asyncio
import ipaddress
import math
from collections.abc import Callable
from http import HTTPStatus
from urllib.parse import parse_qsl, urlsplit

from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from bot.dashboard.auth import COOKIE_SECONDS, Access, Admission
from bot.dashboard.headers import is_https, secured

COOKIE_NAME = "status_session"
FORM_BYTES = 4096
FORM_FIELDS = 10
FORM_SECONDS = 10.0
METHODS = {"/login": ("GET", "HEAD", "POST"), "/stop": ("POST",)}
READING = ("GET", "HEAD")
HEALTH = frozenset({"/healthz", "/readyz"})
CLOSED = "This page is closed: it can be reached from outside, and there is no token for it. Set STATUS_TOKEN."


class Gate:
    """ASGI middleware: refuses, or lets through to `app`. `login_page` renders the form, given what was wrong."""

    def __init__(self, app: ASGIApp, access: Access, login_page: Callable[[str], str]) -> None:
        self._app = app
        self._access = access
        self._login_page = login_page

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return
        request = Request(scope, receive)
        send = secured(scope, send)
        answer = self._misdirected(request) or await self._unwelcome(request)
        await (answer or self._app)(scope, receive, send)

    def _misdirected(self, request: Request) -> Response | None:
        """Refuse what is no request for this server, whoever sends it."""
        # A name that leads to loopback by somebody else's DNS would make his page one of ours.
        if not self._access.is_public and not _names_loopback(request.headers.get("host", "")):
            return _refusal(HTTPStatus.MISDIRECTED_REQUEST, "This page answers on this machine only.")
        path = request.scope["path"]
        if not path.startswith("/"):
            return _refusal(HTTPStatus.BAD_REQUEST, "Not a path.")
        methods = METHODS.get(path, READING)
        if request.method not in methods:
            return _refusal(HTTPStatus.METHOD_NOT_ALLOWED, "Not allowed.", {"allow": ", ".join(methods)})
        if request.method in READING and _has_body(request):
            return _refusal(HTTPStatus.BAD_REQUEST, "No body is read here.")
        return None

    async def _unwelcome(self, request: Request) -> Response | None:
        """Refuse who may not come in; note for the app what it needs to know."""
        path = request.scope["path"]
        if path in HEALTH:
            return None
        if self._access.is_closed:
            return _refusal(HTTPStatus.FORBIDDEN, CLOSED)
        if path == "/login":
            return await self._login(request)
        if path.startswith("/static/"):
            return None
        cookie = request.cookies.get(COOKIE_NAME)
        admission = self._access.admit(_peer(request), token=_bearer(request), cookie=cookie)
        if not admission.is_in:
            return self._not_admitted(request, admission)
        request.state.csrf = self._access.csrf_token(cookie)
        return await self._stop(request, admission) if request.method == "POST" else None

    def _not_admitted(self, request: Request, admission: Admission) -> Response:
        if admission is Admission.TOO_MANY:
            return self._too_many(request)
        if request.scope["path"] == "/":
            answer: Response = RedirectResponse("/login", HTTPStatus.SEE_OTHER)
        else:
            answer = _refusal(HTTPStatus.UNAUTHORIZED, "The token is needed.", {"www-authenticate": "Bearer"})
        if COOKIE_NAME in request.cookies:
            # A browser would show the old session again and again, each time a wrong one.
            answer.delete_cookie(COOKIE_NAME, secure=is_https(request.scope), httponly=True, samesite="strict")
        return answer

    def _too_many(self, request: Request) -> Response:
        seconds = math.ceil(self._access.wait_seconds(_peer(request)))
        text = f"Too many wrong tokens. Try again in {seconds} s."
        return _refusal(HTTPStatus.TOO_MANY_REQUESTS, text, {"retry-after": str(seconds)})

    async def _login(self, request: Request) -> Response:
        if not self._access.is_public:
            return RedirectResponse("/", HTTPStatus.SEE_OTHER)
        if request.method != "POST":
            return HTMLResponse(self._login_page(""))
        form = await _own_form(request)
        if isinstance(form, Response):
            return form
        admission = self._access.log_in(_peer(request), form.get("token", "").strip())
        if admission is Admission.TOO_MANY:
            return self._too_many(request)
        if not admission.is_in:
            return HTMLResponse(self._login_page("This is not the token."), HTTPStatus.UNAUTHORIZED)
        answer = RedirectResponse("/", HTTPStatus.SEE_OTHER)
        secure = is_https(request.scope)
        cookie = self._access.new_cookie()
        answer.set_cookie(COOKIE_NAME, cookie, COOKIE_SECONDS, secure=secure, httponly=True, samesite="strict")
        return answer

    async def _stop(self, request: Request, admission: Admission) -> Response | None:
        """Check what asks for a change. A token in a header is never sent by a browser on its own."""
        by_token = admission is Admission.BEARER
        form = await _form(request) if by_token else await _own_form(request)
        if isinstance(form, Response):
            return form
        given = form.pop("csrf", "")
        if not by_token and not self._access.csrf_ok(request.cookies.get(COOKIE_NAME), given):
            return _refusal(HTTPStatus.FORBIDDEN, "The form is out of date. Load the page again.")
        request.state.form = form
        return None


def _refusal(status: HTTPStatus, text: str, headers: dict[str, str] | None = None) -> Response:
    # The connection ends with it: what follows may be the body of what was refused.
    return PlainTextResponse(text + "\n", status, {"connection": "close", **(headers or {})})


def _peer(request: Request) -> str:
    # The socket's address: a header would be the sender's own word.
    return request.client.host if request.client else ""


def _bearer(request: Request) -> str | None:
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else None


def _has_body(request: Request) -> bool:
    return "transfer-encoding" in request.headers or request.headers.get("content-length", "0").strip("0") != ""


def _names_loopback(host: str) -> bool:
    """Whether a Host header names this machine, by whatever port."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
        return name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _is_own_page(request: Request) -> bool:
    """Whether a page of this server sent the form, as its browser says.

    Where the browser says it in Sec-Fetch-Site, that counts: a proxy may have changed Host, and no page can set it
    (Fetch Metadata). It is not sent over http, but for localhost; then Origin or Referer must name our own host.
    """
    if site := request.headers.get("sec-fetch-site"):
        return site == "same-origin"
    sender = request.headers.get("origin") or request.headers.get("referer") or ""
    try:
        parts = urlsplit(sender)
        own = urlsplit(f"{parts.scheme}://{request.headers.get('host', '')}")
        return bool(parts.hostname) and (parts.hostname, _port(parts.port, parts.scheme)) == (
            own.hostname,
            _port(own.port, parts.scheme),
        )
    except ValueError:
        return False


def _port(port: int | None, scheme: str) -> int | None:
    return port if port is not None else {"http": 80, "https": 443}.get(scheme)


async def _own_form(request: Request) -> dict[str, str] | Response:
    if not _is_own_page(request):
        return _refusal(HTTPStatus.FORBIDDEN, "This form has to come from this page.")
    return await _form(request)


async def _form(request: Request) -> dict[str, str] | Response:
    """Read the fields of a form, or say what is wrong with it."""
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/x-www-form-urlencoded":
        return _refusal(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "A form is read here, and nothing else.")
    body = b""
    try:
        async with asyncio.timeout(FORM_SECONDS):
            more = True
            while more:
                message = await request.receive()
                if message["type"] == "http.disconnect":
                    return _refusal(HTTPStatus.BAD_REQUEST, "The form did not come.")
                body += message.get("body", b"")
                more = message.get("more_body", False)
                if len(body) > FORM_BYTES:
                    return _refusal(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "The form is too long.")
    except TimeoutError:
        return _refusal(HTTPStatus.REQUEST_TIMEOUT, "The form did not come.")
    try:
        fields = parse_qsl(body.decode("ascii"), keep_blank_values=True, max_num_fields=FORM_FIELDS)
    except ValueError:
        return _refusal(HTTPStatus.BAD_REQUEST, "Not a form.")
    return dict(fields)
