"""The security headers of every answer of the dashboard server."""

from __future__ import annotations

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import Message, Scope, Send

# Everything that the page needs is a file of its own server; the page contains nothing that could run.
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self';"
    " base-uri 'none'; frame-ancestors 'none'"
)
SECURITY_HEADERS = {
    "content-security-policy": CONTENT_SECURITY_POLICY,
    "x-content-type-options": "nosniff",
    # Not "no-referrer": with it, browsers send "Origin: null" with the page's own forms (Fetch: append a request
    # Origin).
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
}
STRICT_TRANSPORT_SECURITY = "max-age=31536000"


def is_https(scope: Scope) -> bool:
    """Tell whether the browser came by https, perhaps to a proxy that says so (Railway and Render do).

    A client that lies here harms only itself: it gets a cookie that it will not send by http.
    """
    forwarded = Headers(scope=scope).get("x-forwarded-proto", "")
    return scope["scheme"] == "https" or forwarded.partition(",")[0].strip().lower() == "https"


def with_security_headers(scope: Scope, send: Send) -> Send:
    """Return `send` with the security headers in each answer, whoever wrote it; bodies pass unchanged."""
    headers = dict(SECURITY_HEADERS)
    # A static file may be cached, but is revalidated: after a deploy it may be another.
    headers["cache-control"] = "no-cache" if scope["path"].startswith("/static/") else "no-store"
    if is_https(scope):
        headers["strict-transport-security"] = STRICT_TRANSPORT_SECURITY

    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            MutableHeaders(scope=message).update(headers)
        await send(message)

    return send_with_headers
