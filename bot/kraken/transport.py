"""krakenex's client over a connection that is bounded in time and size; "not sent" told apart from "no answer"."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from decimal import Decimal
from email.utils import mktime_tz, parsedate_tz
from typing import Any, NoReturn
from urllib.parse import urlencode

import krakenex
from krakenex import version

from bot.base import clock, metrics
from bot.base.errors import NoAnswerError, NotSentError
from bot.base.events import escape_unprintable
from bot.base.redaction import redact
from bot.kraken import error_table
from bot.kraken.http_connection import HttpConnection, HttpResponse

# AssetPairs, the longest answer, has about 1 MB; what an answer costs in memory is twenty times its length.
PUBLIC_BODY_BYTES_MAX = 8 * 1024 * 1024
PRIVATE_BODY_BYTES_MAX = 4 * 1024 * 1024
# An order is not tried on a connection that something on its way may have forgotten.
ORDER_IDLE_SECONDS_MAX = 30.0
# Kraken's own are shorter than a line.
MAX_ERROR_LENGTH = 500
_USER_AGENT = f"krakenex/{version.__version__} (+{version.__url__})"


class KrakenAPI(krakenex.API):
    """A `krakenex.API` that sends over two kept-alive connections of its own: one for private calls, one for public.

    `query_private`, `query_public` and `_nonce` are krakenex's. They return Kraken's envelope, numbers as `Decimal`,
    and raise NotSentError where nothing was sent, NoAnswerError for everything that is not a readable answer: a
    time-out, a 5xx, a redirect, HTML, half a body. Nothing is repeated, and no redirect is followed. Safe to share
    between threads.
    """

    def __init__(self, key: str, secret: str, url: str, proxy: str = "") -> None:
        # Not krakenex's own: it would open a session of requests.
        self.key, self.secret = key, secret
        self.uri = url.rstrip("/")
        self.apiversion = "0"
        self.response: HttpResponse | None = None
        self._json_options: dict[str, Any] = {"parse_float": Decimal}
        self._proxy = proxy
        self._open_connections()

    def _open_connections(self) -> None:
        self._connected_uri = self.uri
        self._private = HttpConnection(self.uri, proxy=self._proxy, body_bytes_max=PRIVATE_BODY_BYTES_MAX)
        self._public = HttpConnection(self.uri, proxy=self._proxy, body_bytes_max=PUBLIC_BODY_BYTES_MAX)

    @property
    def session(self) -> NoReturn:
        """krakenex's session of requests, which nothing uses here."""
        raise AttributeError("KrakenAPI does not use a requests session: set KRAKEN_PROXY, SSL_CERT_FILE or `uri`")

    def close(self) -> None:
        """Close the connections; the next request opens new ones."""
        self._private.close()
        self._public.close()

    def response_date(self) -> int | None:
        """Return the HTTP Date of the last answer in Unix seconds, or None where it had none that can be read."""
        fields = parsedate_tz(self.response.headers.get("Date")) if self.response is not None else None
        try:
            return None if fields is None else mktime_tz(fields)
        except (ValueError, OverflowError):
            return None

    def send_private(self, method: str, params: Mapping[str, Any], nonce: int | str) -> Any:
        """Call a private endpoint with a nonce that the caller has taken; return the envelope."""
        path = f"/{self.apiversion}/private/{method}"
        data = {**params, "nonce": nonce}
        return self._query(path, data, {"API-Key": self.key, "API-Sign": self._sign(data, path)})

    def _query(
        self,
        urlpath: str,
        data: Mapping[str, Any],
        headers: Mapping[str, str] | None = None,
        timeout: float | tuple[float, float] | None = None,
    ) -> Any:
        method = urlpath.rpartition("/")[2]
        # As requests takes it: one limit for the connection and for the answer, or one for each.
        connect_seconds, answer_seconds = timeout if isinstance(timeout, tuple) else (timeout, timeout)
        started_seconds, outcome = clock.boottime_seconds(), "no_response"
        try:
            response = self._send(
                urlpath, urlencode(data), headers or {}, connect_seconds or math.inf, answer_seconds or math.inf
            )
            envelope = self._read_envelope(response)
            outcome = "error" if envelope["error"] and error_table.filter_errors(envelope["error"]) else "ok"
        except (NotSentError, NoAnswerError) as error:
            raise type(error)(f"{method}: {error}") from error
        finally:
            metrics.record_request(method, outcome, clock.boottime_seconds() - started_seconds)
        return envelope

    def _send(
        self, path: str, text: str, headers: Mapping[str, str], connect_seconds_max: float, answer_seconds_max: float
    ) -> HttpResponse:
        if self.uri != self._connected_uri:
            self.close()
            self._open_connections()
        headers = {"User-Agent": _USER_AGENT, **headers}
        if "/public/" in path:
            # Since 2024-01-31 Kraken's public endpoints only take GET (krakenex 2.2.2).
            return self._public.request(
                "GET",
                f"{path}?{text}" if text else path,
                headers,
                connect_seconds_max=connect_seconds_max,
                answer_seconds_max=answer_seconds_max,
            )
        headers["Content-Type"] = "application/x-www-form-urlencoded"
        return self._private.request(
            "POST",
            path,
            headers,
            text.encode("ascii"),
            connect_seconds_max=connect_seconds_max,
            answer_seconds_max=answer_seconds_max,
            idle_seconds_max=ORDER_IDLE_SECONDS_MAX if path.endswith("/AddOrder") else math.inf,
        )

    def _read_envelope(self, response: HttpResponse) -> dict[str, Any]:
        self.response = response
        if 300 <= response.status < 400:
            raise NoAnswerError("the server wanted to redirect us elsewhere; not followed")
        if response.status not in (200, 201, 202):
            raise NoAnswerError(f"HTTP {response.status} instead of an answer")
        try:
            envelope = json.loads(response.body, **self._json_options)
        except (ValueError, ArithmeticError, RecursionError) as error:
            raise NoAnswerError(f"the answer could not be read ({error})") from error
        if not isinstance(envelope, dict) or not isinstance(envelope.get("error"), list):
            raise NoAnswerError("the answer is not one of Kraken's")
        envelope["error"] = [_sanitize_error(str(string)) for string in envelope["error"]]
        return envelope


def _sanitize_error(string: str) -> str:
    """Return an error's text for the log, the journal and the page without secrets: it may quote what was sent."""
    # Cut once more at the end, because half a secret is not known as one.
    text = redact(string[: 20 * MAX_ERROR_LENGTH])[:MAX_ERROR_LENGTH]
    return escape_unprintable(text)
