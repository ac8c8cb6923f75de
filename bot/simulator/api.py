"""Kraken's paths and envelopes: a request in, a status and a body out."""

from __future__ import annotations

import json
import logging
import threading
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

from bot.simulator.errors import Refusal, StateFileError
from bot.simulator.exchange import Exchange
from bot.simulator.faults import CANCEL_RACE, FOREIGN_NONCE, NO_FAULT, QUEUED, Fault
from bot.simulator.keys import ApiKey, Credentials, KeyRing
from bot.simulator.market import Market
from bot.simulator.options import SimulatorOptions
from bot.simulator.private import Private
from bot.simulator.query_lag import Lag

PUBLIC = "/0/public/"
PRIVATE = "/0/private/"
THROTTLED_SECONDS = 3

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


@dataclass(frozen=True, slots=True)
class _LateRequest:
    """A copy of a request that is still on its way. `due` is market time."""

    due: float
    http_method: str
    target: str
    headers: Mapping[str, str]
    body: bytes


@dataclass(slots=True)
class _Attempt:
    """What is known of a private request while it is being answered."""

    nonce: str = ""
    accepted: bool = False


class Api:
    """All requests, one at a time. `keep` is called with the lock held after each, before the answer is given.

    When keeping fails, the exchange stands still for good: `failure` says why, and every answer is a refusal.
    """

    def __init__(
        self,
        exchange: Exchange,
        keys: KeyRing,
        clock: Callable[[], float],
        keep: Callable[[], None],
        options: SimulatorOptions,
    ) -> None:
        self.log: deque[LoggedRequest] = deque(maxlen=options.log_rows)
        self.accepted = 0
        self.failure = ""
        self._closed = False
        self._late: list[_LateRequest] = []
        self._queue_seconds = options.queue_seconds
        self._exchange = exchange
        self._keys = keys
        self._clock = clock
        self._keep = keep
        self._market = Market(exchange)
        self._private = Private(exchange, Lag(options))
        self.lock = threading.RLock()

    def handle(
        self, http_method: str, target: str, headers: Mapping[str, str], body: bytes, fault: Fault | None = None
    ) -> tuple[int, bytes]:
        """Answer one HTTP request. Refusals are answers with status 200, as Kraken's are.

        Raises ConnectionAbortedError after `close`: an exchange that was closed does nothing more.
        """
        path, _, query = target.partition("?")
        with self.lock:
            if self._closed:
                raise ConnectionAbortedError("the exchange is closed")
            if path == "/simulator/state":
                return 200, json.dumps(self.state()).encode()
            try:
                result = self._run(http_method, path, query, headers, body, fault or NO_FAULT)
            except Refusal as refusal:
                return 200, json.dumps({"error": [refusal.string]}).encode()
        return 200, json.dumps({"error": [], "result": result}, separators=(",", ":")).encode()

    def handle_later(
        self, delay_seconds: float, http_method: str, target: str, headers: Mapping[str, str], body: bytes
    ) -> None:
        """Let a copy of a request arrive so many market seconds from now; its answer goes to nobody.

        It is taken in just before the first request that comes after it, at its own time: nobody can tell the
        difference, and no timer has to be stopped.
        """
        with self.lock:
            self._late.append(_LateRequest(self._clock() + delay_seconds, http_method, target, headers, body))
            self._late.sort(key=lambda request: request.due)

    def catch_up(self) -> None:
        """Let everything happen that is due by now, as the next request would."""
        with self.lock, suppress(Refusal):
            if not self._closed and not self.failure:
                self._advance()
                self._write_down()

    def close(self) -> None:
        """Do nothing more: what is still on the way, or queued, is lost."""
        with self.lock:
            self.catch_up()
            self._closed = True
            self._late.clear()

    def _run(
        self, http_method: str, path: str, query: str, headers: Mapping[str, str], body: bytes, fault: Fault
    ) -> Any:
        if self.failure:
            raise Refusal("EService:Unavailable")
        try:
            self._advance()
            return self._dispatch(http_method, path, query, headers, body, fault)
        finally:
            self._write_down()

    def _advance(self) -> None:
        now = self._clock()
        while self._late and self._late[0].due <= now:
            late = self._late.pop(0)
            self._exchange.advance(late.due)
            path, _, query = late.target.partition("?")
            with suppress(Refusal):
                self._dispatch(late.http_method, path, query, late.headers, late.body, NO_FAULT)
        self._exchange.advance(now)

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
            self.catch_up()
            account = self._exchange.account
            return {
                "accepted": self.accepted,
                "refused_nonces": sum(self._keys.refused_nonces.values()),
                "floors": {key.key: str(key.floor) for key in self._keys.keys.values()},
                "balances": {asset: f"{amount:f}" for asset, amount in account.balances.items()},
                "orders": len(account.orders),
                "open_orders": len(account.open_orders),
                "trades": len(account.trades),
                "doubled": [name for name, txids in account.orders_by_client_id().items() if len(txids) > 1],
                "audit": not account.audit(),
                "problems": account.audit(),
                "failure": self.failure,
            }

    def _dispatch(
        self, http_method: str, path: str, query: str, headers: Mapping[str, str], body: bytes, fault: Fault
    ) -> Any:
        if path.startswith(PUBLIC) and http_method == "GET":
            if fault.string:
                raise self._refusal(fault)
            return self._call_public(path.removeprefix(PUBLIC), query)
        if path.startswith(PRIVATE) and http_method == "POST":
            return self._call_private(path, headers, body, fault)
        raise Refusal("EGeneral:Unknown method")

    def _call_public(self, method: str, query: str) -> Any:
        if method not in self._market.methods:
            raise Refusal("EGeneral:Unknown method")
        return self._market.methods[method](dict(parse_qsl(query)), self._exchange.now)

    def _call_private(self, path: str, headers: Mapping[str, str], body: bytes, fault: Fault) -> Any:
        method, key, attempt = path.removeprefix(PRIVATE), headers.get("API-Key") or "", _Attempt()
        error = ""
        try:
            return self._authenticated(path, key, headers.get("API-Sign") or "", body, fault, attempt)
        except Refusal as refusal:
            error = refusal.string
            raise self._refusal(fault) if fault.gateway else refusal from None
        finally:
            self.accepted += attempt.accepted
            self.log.append(LoggedRequest(method, key, attempt.nonce, attempt.accepted, error, self._exchange.now))

    def _authenticated(self, path: str, key: str, signature: str, body: bytes, fault: Fault, attempt: _Attempt) -> Any:
        params = _read_params(body)
        attempt.nonce = params.get("nonce", "")
        if fault.gateway and not fault.executed:
            raise self._refusal(fault)
        if fault.name == FOREIGN_NONCE and key in self._keys.keys and attempt.nonce.isdigit():
            self._keys.raise_floor(key, int(attempt.nonce))
        credentials = Credentials(key, signature, path, attempt.nonce, body.decode())
        api_key = self._keys.authenticate(credentials, self._exchange.now)
        attempt.accepted = True
        method = path.removeprefix(PRIVATE)
        if not fault.string:
            return self._execute(method, params, api_key, fault)
        if fault.executed:
            with suppress(Refusal):
                self._execute(method, params, api_key, fault)
        raise self._refusal(fault)

    def _execute(self, method: str, params: dict[str, str], key: ApiKey, fault: Fault) -> Any:
        self._private.admit(method, key)
        if fault.name == QUEUED:
            return self._exchange.queue_order(params, self._queue_seconds)
        if fault.name == CANCEL_RACE:
            self._exchange.fill_named(params)
        return self._private.methods[method](params, key)

    def _refusal(self, fault: Fault) -> Refusal:
        return Refusal(fault.string.replace("{until}", str(int(self._exchange.time) + THROTTLED_SECONDS)))


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
