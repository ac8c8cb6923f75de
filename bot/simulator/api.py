"""Kraken's paths and envelopes: a request in, a status and a body out."""

from __future__ import annotations

import json
import logging
import threading
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

from bot.simulator.errors import Refusal, StateFileError
from bot.simulator.exchange import Exchange
from bot.simulator.faults import ERROR, Fault
from bot.simulator.keys import Credentials, KeyRing
from bot.simulator.market import Market
from bot.simulator.private import Private

PUBLIC = "/0/public/"
PRIVATE = "/0/private/"
LOG_ROWS = 10_000

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LoggedRequest:
    """One private request as the exchange saw it. `accepted`: its nonce was; `error` is "" when it succeeded."""

    method: str
    key: str
    nonce: str
    accepted: bool
    error: str
    time: float


@dataclass(slots=True)
class _Attempt:
    """What is known of a private request while it is being answered."""

    nonce: str = ""
    accepted: bool = False


class Api:
    """All requests, one at a time. `keep` is called with the lock held after each, before the answer is given.

    When keeping fails, the exchange stands still for good: `failure` says why, and every answer is a refusal.
    """

    def __init__(self, exchange: Exchange, keys: KeyRing, clock: Callable[[], float], keep: Callable[[], None]) -> None:
        self.log: deque[LoggedRequest] = deque(maxlen=LOG_ROWS)
        self.accepted = 0
        self.failure = ""
        self._exchange = exchange
        self._keys = keys
        self._clock = clock
        self._keep = keep
        self._market = Market(exchange.catalogue, exchange.prices, exchange.status)
        self._private = Private(exchange)
        self.lock = threading.RLock()

    def handle(
        self, http_method: str, target: str, headers: Mapping[str, str], body: bytes, fault: Fault | None = None
    ) -> tuple[int, bytes]:
        """Answer one HTTP request. Refusals are answers with status 200, as Kraken's are."""
        path, _, query = target.partition("?")
        with self.lock:
            if path == "/simulator/state":
                return 200, json.dumps(self.state()).encode()
            try:
                result = self._run(http_method, path, query, headers, body, fault)
            except Refusal as refusal:
                return 200, json.dumps({"error": [refusal.string]}).encode()
        return 200, json.dumps({"error": [], "result": result}, separators=(",", ":")).encode()

    def _run(
        self, http_method: str, path: str, query: str, headers: Mapping[str, str], body: bytes, fault: Fault | None
    ) -> Any:
        if self.failure:
            raise Refusal("EService:Unavailable")
        self._exchange.advance(self._clock())
        try:
            return self._dispatch(http_method, path, query, headers, body, fault)
        finally:
            self._write_down()

    def _write_down(self) -> None:
        try:
            self._keep()
        except StateFileError as error:
            self.failure = str(error)
            log.error("The local Kraken stands still until it is started again: %s", error)
            raise Refusal("EService:Unavailable") from error

    def state(self) -> dict[str, Any]:
        """Return what a test outside this process wants to know."""
        with self.lock:
            account = self._exchange.account
            return {
                "accepted": self.accepted,
                "refused_nonces": sum(self._keys.refused_nonces.values()),
                "floors": {key.key: str(key.floor) for key in self._keys.keys.values()},
                "balances": {asset: f"{amount:f}" for asset, amount in account.balances.items()},
                "orders": len(account.orders),
                "open_orders": len(account.open_orders),
                "trades": len(account.trades),
                "audit": not account.audit(),
                "problems": account.audit(),
                "failure": self.failure,
            }

    def _dispatch(
        self, http_method: str, path: str, query: str, headers: Mapping[str, str], body: bytes, fault: Fault | None
    ) -> Any:
        if path.startswith(PUBLIC) and http_method == "GET":
            if fault is not None and fault.name == ERROR:
                raise Refusal(fault.string)
            return self._call_public(path.removeprefix(PUBLIC), query)
        if path.startswith(PRIVATE) and http_method == "POST":
            return self._call_private(path, headers, body, fault)
        raise Refusal("EGeneral:Unknown method")

    def _call_public(self, method: str, query: str) -> Any:
        if method not in self._market.methods:
            raise Refusal("EGeneral:Unknown method")
        return self._market.methods[method](dict(parse_qsl(query)), self._exchange.now)

    def _call_private(self, path: str, headers: Mapping[str, str], body: bytes, fault: Fault | None) -> Any:
        method, key, attempt = path.removeprefix(PRIVATE), headers.get("API-Key") or "", _Attempt()
        error = ""
        try:
            return self._authenticated(path, key, headers.get("API-Sign") or "", body, fault, attempt)
        except Refusal as refusal:
            error = refusal.string
            raise
        finally:
            self.accepted += attempt.accepted
            self.log.append(LoggedRequest(method, key, attempt.nonce, attempt.accepted, error, self._exchange.now))

    def _authenticated(
        self, path: str, key: str, signature: str, body: bytes, fault: Fault | None, attempt: _Attempt
    ) -> Any:
        params = _read_params(body)
        attempt.nonce = params.get("nonce", "")
        name = fault.name if fault else ""
        if name == "spurious_nonce":
            raise Refusal("EAPI:Invalid nonce")
        if name == "foreign_nonce" and key in self._keys.keys and attempt.nonce.isdigit():
            self._keys.raise_floor(key, int(attempt.nonce))
        credentials = Credentials(key, signature, path, attempt.nonce, body.decode())
        api_key = self._keys.authenticate(credentials, self._exchange.now)
        attempt.accepted = True
        if fault is not None and name == ERROR and not fault.executed:
            raise Refusal(fault.string)
        result = self._private.call(path.removeprefix(PRIVATE), params, api_key)
        if fault is not None and name == ERROR:
            raise Refusal(fault.string)
        return result


def _read_params(body: bytes) -> dict[str, str]:
    """Read a form or a JSON body; numbers and booleans of JSON become the text they would have in a form."""
    try:
        text = body.decode()
        if not text.lstrip().startswith("{"):
            return dict(parse_qsl(text, keep_blank_values=True))
        values = json.loads(text, parse_float=str, parse_int=str)
    except ValueError:
        raise Refusal("EAPI:Bad request") from None
    return {name: _as_text(value) for name, value in values.items() if value is not None}


def _as_text(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return ",".join(_as_text(item) for item in value)
    return str(value)
