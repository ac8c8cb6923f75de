"""Authentication in front of the page's app: plain ASGI, so that streams pass through it piece by piece.

The app may answer every request that it gets. The middleware serves /login itself, and puts its results into
`request.state`: `csrf`, which the form that stops entries sends back in a field of this name; and, with POST /stop,
`form`, the other fields. The body has been read then.
"""

from __future__ import annotations

import asyncio
import ipaddress
import math
from collections.abc import Callable
from http import HTTPStatus
from urllib.parse import SplitResult, parse_qsl, urlsplit

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from bot.dashboard.auth import SESSION_SECONDS, Authenticator, AuthResult
from bot.dashboard.headers import is_https, with_security_headers

COOKIE_NAME = "status_session"
FORM_BYTES_MAX = 4096
FORM_FIELDS_MAX = 10
FORM_TIMEOUT_SECONDS = 10.0
ALLOWED_METHODS = {"/login": ("GET", "HEAD", "POST"), "/stop": ("POST",)}
READ_METHODS = ("GET", "HEAD")
HEALTH_PATHS = frozenset({"/healthz", "/readyz"})
ACCESS_DENIED_MESSAGE = (
    "This page is closed: it can be reached from outside, and there is no token for it. Set STATUS_TOKEN."
)


class AuthMiddleware:
    """ASGI middleware: refuses a request, or passes it to `app`. `render_login_page` renders the form with its
    problem."""

    def __init__(self, app: ASGIApp, authenticator: Authenticator, render_login_page: Callable[[str], str]) -> None:
        self._app = app
        self._authenticator = authenticator
        self._render_login_page = render_login_page

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request. The server passes on HTTP only: it has neither lifespan events nor web sockets."""
        request = Request(scope, receive)
        send = with_security_headers(scope, send)
        try:
            self._check_request(request)
            response = await self._authorize(request)
        except HTTPException as refusal:
            # The connection ends with it: the next bytes may be the body of the refused request.
            headers = {"connection": "close", **(refusal.headers or {})}
            response = PlainTextResponse(f"{refusal.detail}\n", refusal.status_code, headers)
        await (response or self._app)(scope, receive, send)

    def _check_request(self, request: Request) -> None:
        """Refuse a request that is not for this server, whoever sends it."""
        # A host name of others whose DNS record points to loopback would give its page the same origin.
        if not self._authenticator.is_public and not _is_loopback_host(request.headers.get("host", "")):
            raise HTTPException(HTTPStatus.MISDIRECTED_REQUEST, "This page answers on this machine only.")
        path = request.scope["path"]
        if not path.startswith("/"):
            raise HTTPException(HTTPStatus.BAD_REQUEST, "Not a path.")
        methods = ALLOWED_METHODS.get(path, READ_METHODS)
        if request.method not in methods:
            raise HTTPException(HTTPStatus.METHOD_NOT_ALLOWED, "Not allowed.", {"allow": ", ".join(methods)})
        if request.method in READ_METHODS and _has_body(request):
            raise HTTPException(HTTPStatus.BAD_REQUEST, "No body is read here.")

    async def _authorize(self, request: Request) -> Response | None:
        """Refuse unauthorized requests; store for the app what it needs to know."""
        path = request.scope["path"]
        if path in HEALTH_PATHS:
            return None
        if self._authenticator.is_token_missing:
            raise HTTPException(HTTPStatus.FORBIDDEN, ACCESS_DENIED_MESSAGE)
        token = _bearer_token(request) if self._authenticator.is_public else None
        cookie = request.cookies.get(COOKIE_NAME)
        # A browser never sends a token in a header on its own.
        if request.method == "POST" and token is None and not _is_same_origin(request):
            raise HTTPException(HTTPStatus.FORBIDDEN, "This form has to come from this page.")
        if path == "/login":
            return await self._login(request)
        if path.startswith("/static/"):
            return None
        result = self._authenticator.authenticate(_client_address(request), token=token, cookie=cookie)
        if not result.is_allowed:
            return self._unauthorized(request, result)
        request.state.csrf = self._authenticator.csrf_token(cookie)
        if request.method == "POST":
            form = request.state.form = await _read_form(request)
            is_csrf_valid = self._authenticator.is_csrf_valid(cookie, form.pop("csrf", ""))
            if result is not AuthResult.BEARER and not is_csrf_valid:
                raise HTTPException(HTTPStatus.FORBIDDEN, "The form is out of date. Load the page again.")
        return None

    def _unauthorized(self, request: Request, result: AuthResult) -> Response:
        self._check_throttled(request, result)
        if request.scope["path"] == "/":
            response: Response = RedirectResponse("/login", HTTPStatus.SEE_OTHER)
        else:
            headers = {"connection": "close", "www-authenticate": "Bearer"}
            response = PlainTextResponse("The token is needed.\n", HTTPStatus.UNAUTHORIZED, headers)
        if COOKIE_NAME in request.cookies:
            # Otherwise a browser would send the old session again and again, each time a wrong one.
            response.delete_cookie(COOKIE_NAME, secure=is_https(request.scope), httponly=True, samesite="strict")
        return response

    def _check_throttled(self, request: Request, result: AuthResult) -> None:
        if result is AuthResult.THROTTLED:
            seconds = math.ceil(self._authenticator.failed_attempts.retry_after_seconds(_client_address(request)))
            text = f"Too many wrong tokens. Try again in {seconds} s."
            raise HTTPException(HTTPStatus.TOO_MANY_REQUESTS, text, {"retry-after": str(seconds)})

    async def _login(self, request: Request) -> Response:
        if not self._authenticator.is_public:
            return RedirectResponse("/", HTTPStatus.SEE_OTHER)
        if request.method != "POST":
            return HTMLResponse(self._render_login_page(""))
        form = await _read_form(request)
        result = self._authenticator.log_in(_client_address(request), form.get("token", "").strip())
        self._check_throttled(request, result)
        if not result.is_allowed:
            return HTMLResponse(self._render_login_page("This is not the token."), HTTPStatus.UNAUTHORIZED)
        response = RedirectResponse("/", HTTPStatus.SEE_OTHER)
        secure = is_https(request.scope)
        cookie = self._authenticator.new_session()
        response.set_cookie(COOKIE_NAME, cookie, SESSION_SECONDS, secure=secure, httponly=True, samesite="strict")
        return response


def _client_address(request: Request) -> str:
    # The socket's address: the sender could put anything into a header.
    return request.client.host if request.client else ""


def _bearer_token(request: Request) -> str | None:
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else None


def _has_body(request: Request) -> bool:
    return "transfer-encoding" in request.headers or request.headers.get("content-length", "0").strip("0") != ""


def _is_loopback_host(host: str) -> bool:
    """Tell whether a Host header names this machine, with any port."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
        return name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _is_same_origin(request: Request) -> bool:
    """Tell whether a page of this server sent the form, according to the browser.

    Sec-Fetch-Site decides where the browser sends it: a proxy may have changed Host, and no page can set it (Fetch
    Metadata). It is not sent over http, except for localhost; then Origin or Referer must name this server's host.
    """
    if site := request.headers.get("sec-fetch-site"):
        return site == "same-origin"
    try:
        sender = urlsplit(request.headers.get("origin") or request.headers.get("referer") or "")
        server = urlsplit(f"{sender.scheme}://{request.headers.get('host', '')}")
        return bool(sender.hostname) and _host_and_port(sender) == _host_and_port(server)
    except ValueError:
        return False


def _host_and_port(url: SplitResult) -> tuple[str | None, int | None]:
    return url.hostname, url.port if url.port is not None else {"http": 80, "https": 443}.get(url.scheme)


async def _read_form(request: Request) -> dict[str, str]:
    """Return the fields of a form, or refuse it."""
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/x-www-form-urlencoded":
        raise HTTPException(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "A form is read here, and nothing else.")
    body = b""
    try:
        async with asyncio.timeout(FORM_TIMEOUT_SECONDS):
            async for piece in request.stream():
                body += piece
                if len(body) > FORM_BYTES_MAX:
                    raise HTTPException(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "The form is too long.")
        return dict(parse_qsl(body.decode("ascii"), keep_blank_values=True, max_num_fields=FORM_FIELDS_MAX))
    except TimeoutError:
        raise HTTPException(HTTPStatus.REQUEST_TIMEOUT, "The form did not come.") from None
    except (ClientDisconnect, ValueError):
        raise HTTPException(HTTPStatus.BAD_REQUEST, "Not a form.") from None
