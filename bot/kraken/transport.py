"""Bytes over HTTP by krakenex, bounded in time; "not sent" told apart from "no answer"."""

from __future__ import annotations

import http.client
import io
import socket
from collections.abc import Callable
from decimal import Decimal
from typing import Any, ClassVar
from urllib.parse import urlsplit

import krakenex
import requests
from requests.adapters import HTTPAdapter
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import ConnectTimeoutError, MaxRetryError, NewConnectionError

from bot.base import clock, metrics
from bot.base.errors import NoAnswerError, NotSentError, TransportError
from bot.base.redaction import redact
from bot.kraken import error_table

CONNECT_TIMEOUT_SECONDS = 3.0
READ_TIMEOUT_SECONDS = 10.0
# With the connection's 3 s this bounds a request, and so the request lock, to 15 s.
RESPONSE_TIMEOUT_SECONDS = 12.0
# Kraken's own are shorter than a line.
MAX_ERROR_LENGTH = 500


class _BoundedReader(io.RawIOBase):
    """Reads an answer until a deadline: a server that trickles bytes would renew a plain time-out for ever."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._raw = connection.makefile("rb", buffering=0)
        self._deadline_seconds = clock.boottime_seconds() + RESPONSE_TIMEOUT_SECONDS

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        remaining = self._deadline_seconds - clock.boottime_seconds()
        if remaining <= 0:
            raise TimeoutError(f"the answer took longer than {RESPONSE_TIMEOUT_SECONDS:g} s")
        if remaining < READ_TIMEOUT_SECONDS:
            self._socket.settimeout(remaining)
        return self._raw.readinto(buffer)

    def close(self) -> None:
        if not self.closed:
            super().close()
            self._raw.close()


class _BoundedResponse(http.client.HTTPResponse):
    def __init__(self, sock: socket.socket, *arguments: Any, **options: Any) -> None:
        super().__init__(sock, *arguments, **options)
        self.fp.close()
        self.fp = io.BufferedReader(_BoundedReader(sock))


class _BoundedHTTPConnection(HTTPConnection):
    response_class = _BoundedResponse


class _BoundedHTTPSConnection(HTTPSConnection):
    response_class = _BoundedResponse


class _BoundedHTTPPool(HTTPConnectionPool):
    ConnectionCls = _BoundedHTTPConnection


class _BoundedHTTPSPool(HTTPSConnectionPool):
    ConnectionCls = _BoundedHTTPSConnection


class _BoundedAdapter(HTTPAdapter):
    """Connections with bounded answers, and no retries: a request leaves once."""

    _pools: ClassVar[dict[str, Any]] = {"http": _BoundedHTTPPool, "https": _BoundedHTTPSPool}

    def init_poolmanager(self, *arguments: Any, **options: Any) -> None:
        super().init_poolmanager(*arguments, **options)
        self.poolmanager.pool_classes_by_scheme = self._pools

    def proxy_manager_for(self, *arguments: Any, **options: Any) -> Any:
        manager = super().proxy_manager_for(*arguments, **options)
        manager.pool_classes_by_scheme = self._pools
        return manager


def open_api(key: str, secret: str, url: str, proxy: str = "") -> krakenex.API:
    """Return a krakenex.API that follows no redirect, retries nothing and reads no proxy from the environment."""
    api = krakenex.API(key, secret)
    api.uri = url.rstrip("/")
    # Numbers of an answer keep every digit.
    api.json_options(parse_float=Decimal)
    harden_session(api.session)
    if proxy:
        api.session.proxies = {"http": proxy, "https": proxy}
    return api


def harden_session(session: requests.Session) -> None:
    """Let a session follow no redirect, retry nothing, read nothing from the environment and wait for no answer without
    an end."""
    # A followed 307 would send key, signature and body to another host (measured).
    session.max_redirects = 0
    session.trust_env = False
    for scheme in ("https://", "http://"):
        session.mount(scheme, _BoundedAdapter(max_retries=0))


def request(query: Callable[..., Any], method: str, params: dict[str, Any]) -> dict[str, Any]:
    """Send one request through krakenex's `query_private` or `query_public`; return the envelope.

    Raises NotSentError where no connection was made, NoAnswerError for everything else that is not a
    readable answer: time-outs, 5xx, redirects, HTML, half a body.
    """
    started_seconds, outcome = clock.boottime_seconds(), "no_response"
    try:
        envelope = query(method, params, timeout=(CONNECT_TIMEOUT_SECONDS, READ_TIMEOUT_SECONDS))
        if not isinstance(envelope, dict) or not isinstance(envelope.get("error"), list):
            raise NoAnswerError(f"{method}: the answer is not one of Kraken's")
        if envelope["error"]:
            envelope["error"] = [_sanitize_error(str(string)) for string in envelope["error"]]
        outcome = "error" if envelope["error"] and error_table.filter_errors(envelope["error"]) else "ok"
    except requests.RequestException as error:
        raise _to_transport_error(method, error) from error
    except (ValueError, ArithmeticError, RecursionError, OSError, http.client.HTTPException) as error:
        raise NoAnswerError(f"{method}: the answer could not be read ({error})") from error
    finally:
        metrics.record_request(method, outcome, clock.boottime_seconds() - started_seconds)
    return envelope


def _sanitize_error(string: str) -> str:
    """Return an error's text for the log, the journal and the page without secrets: it may quote what was sent."""
    # Cut once more at the end, because half a secret is not known as one.
    text = redact(string[: 20 * MAX_ERROR_LENGTH])[:MAX_ERROR_LENGTH]
    return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in text)


def _to_transport_error(method: str, error: requests.RequestException) -> TransportError:
    if isinstance(error, requests.HTTPError) and error.response is not None:
        return NoAnswerError(f"{method}: HTTP {error.response.status_code} instead of an answer")
    if isinstance(error, requests.TooManyRedirects):
        return NoAnswerError(f"{method}: the server wanted to redirect us elsewhere; not followed")
    cause = error.args[0] if error.args else None
    if isinstance(cause, MaxRetryError):
        cause = cause.reason
    if isinstance(cause, NewConnectionError | ConnectTimeoutError):
        host = urlsplit(error.request.url or "").netloc if error.request is not None else "the server"
        return NotSentError(f"{method}: no connection to {host} ({type(cause).__name__}). Check the network")
    return NoAnswerError(f"{method}: no readable answer ({type(error).__name__})")
