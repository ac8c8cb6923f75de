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
from bot.simulator.faults import CANCEL_RACE, EXTERNAL_NONCE, NO_FAULT, QUEUED, Fault
from bot.simulator.keys import ApiKey, Credentials, KeyRing
from bot.simulator.market import PublicEndpoints
from bot.simulator.options import SimulatorOptions
from bot.simulator.private import PrivateEndpoints
from bot.simulator.query_lag import QueryLag

PUBLIC_PATH = "/0/public/"
PRIVATE_PATH = "/0/private/"
THROTTLED_SECONDS = 3

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LoggedRequest:
    """One private request as the exchange saw it. `is_nonce_accepted`: its nonce was accepted; `error` is "" for a
    success."""

    method: str
    key: str
    nonce: str
    is_nonce_accepted: bool
    error: str
    time: float


@dataclass(frozen=True, slots=True)
class _DelayedRequest:
    """A copy of a request that is still in flight. `due_at` is market time."""

    due_at: float
    http_method: str
    target: str
    headers: Mapping[str, str]
    body: bytes


@dataclass(slots=True)
class _NonceCheck:
    """The state of a private request while it is being answered."""

    nonce: str = ""
    is_accepted: bool = False


class Api:
    """All requests, one at a time. `save_changes` is called with the lock held after each, before the answer is given.

    When saving fails, the exchange stops for good: `failure` says why, and every answer is a refusal.
    """

    def __init__(
        self,
        exchange: Exchange,
        keys: KeyRing,
        clock: Callable[[], float],
        save_changes: Callable[[], None],
        options: SimulatorOptions,
    ) -> None:
        self.request_log: deque[LoggedRequest] = deque(maxlen=options.request_log_size)
        self.accepted_nonces = 0
        self.failure = ""
        self._is_closed = False
        self._delayed_requests: list[_DelayedRequest] = []
        self._queue_seconds = options.queue_seconds
        self._exchange = exchange
        self._keys = keys
        self._clock = clock
        self._save_changes = save_changes
        self._public_endpoints = PublicEndpoints(exchange)
        self._private_endpoints = PrivateEndpoints(exchange, QueryLag(options))
        self.lock = threading.RLock()

    def handle(
        self, http_method: str, target: str, headers: Mapping[str, str], body: bytes, fault: Fault | None = None
    ) -> tuple[int, bytes]:
        """Answer one HTTP request. Refusals are answers with status 200, as Kraken's are.

        Raises ConnectionAbortedError after `close`: a closed exchange does nothing more.
        """
        path, _, query = target.partition("?")
        with self.lock:
            if self._is_closed:
                raise ConnectionAbortedError("the exchange is closed")
            if path == "/simulator/state":
                return 200, json.dumps(self.state()).encode()
            try:
                result = self._process(http_method, path, query, headers, body, fault or NO_FAULT)
            except Refusal as refusal:
                return 200, json.dumps({"error": [refusal.error]}).encode()
        return 200, json.dumps({"error": [], "result": result}, separators=(",", ":")).encode()

    def schedule_request(
        self, delay_seconds: float, http_method: str, target: str, headers: Mapping[str, str], body: bytes
    ) -> None:
        """Let a copy of a request arrive so many market seconds from now; its answer is dropped.

        It is processed just before the first request that comes after it, at its own time: nobody can see the
        difference, and no timer has to be stopped.
        """
        with self.lock:
            self._delayed_requests.append(
                _DelayedRequest(self._clock() + delay_seconds, http_method, target, headers, body)
            )
            self._delayed_requests.sort(key=lambda request: request.due_at)

    def advance_to_now(self) -> None:
        """Process everything that is due by now, as the next request would."""
        with self.lock, suppress(Refusal):
            if not self._is_closed and not self.failure:
                self._advance()
                self._save_or_fail()

    def close(self) -> None:
        """Do nothing more: requests in flight and queued orders are lost."""
        with self.lock:
            self.advance_to_now()
            self._is_closed = True
            self._delayed_requests.clear()

    def _process(
        self, http_method: str, path: str, query: str, headers: Mapping[str, str], body: bytes, fault: Fault
    ) -> Any:
        if self.failure:
            raise Refusal("EService:Unavailable")
        try:
            self._advance()
            return self._dispatch(http_method, path, query, headers, body, fault)
        finally:
            self._save_or_fail()

    def _advance(self) -> None:
        now = self._clock()
        while self._delayed_requests and self._delayed_requests[0].due_at <= now:
            delayed = self._delayed_requests.pop(0)
            self._exchange.advance(delayed.due_at)
            path, _, query = delayed.target.partition("?")
            with suppress(Refusal):
                self._dispatch(delayed.http_method, path, query, delayed.headers, delayed.body, NO_FAULT)
        self._exchange.advance(now)

    def _save_or_fail(self) -> None:
        try:
            self._save_changes()
        except StateFileError as error:
            self.failure = str(error)
            log.error("The local Kraken stands still until it is started again: %s", error)
            raise Refusal("EService:Unavailable") from error

    def state(self) -> dict[str, Any]:
        """Return the state that a test outside this process needs."""
        with self.lock:
            self.advance_to_now()
            account = self._exchange.account
            return {
                "accepted": self.accepted_nonces,
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
        if path.startswith(PUBLIC_PATH) and http_method == "GET":
            if fault.error:
                raise self._build_refusal(fault)
            return self._call_public(path.removeprefix(PUBLIC_PATH), query)
        if path.startswith(PRIVATE_PATH) and http_method == "POST":
            return self._call_private(path, headers, body, fault)
        raise Refusal("EGeneral:Unknown method")

    def _call_public(self, method: str, query: str) -> Any:
        if method not in self._public_endpoints.methods:
            raise Refusal("EGeneral:Unknown method")
        return self._public_endpoints.methods[method](dict(parse_qsl(query)), self._exchange.now)

    def _call_private(self, path: str, headers: Mapping[str, str], body: bytes, fault: Fault) -> Any:
        method, key, nonce_check = path.removeprefix(PRIVATE_PATH), headers.get("API-Key") or "", _NonceCheck()
        error = ""
        try:
            return self._authenticate_and_execute(path, key, headers.get("API-Sign") or "", body, fault, nonce_check)
        except Refusal as refusal:
            error = refusal.error
            raise self._build_refusal(fault) if fault.is_gateway_error else refusal from None
        finally:
            self.accepted_nonces += nonce_check.is_accepted
            self.request_log.append(
                LoggedRequest(method, key, nonce_check.nonce, nonce_check.is_accepted, error, self._exchange.now)
            )

    def _authenticate_and_execute(
        self, path: str, key: str, signature: str, body: bytes, fault: Fault, nonce_check: _NonceCheck
    ) -> Any:
        params = _read_params(body)
        nonce_check.nonce = params.get("nonce", "")
        if fault.is_gateway_error and not fault.is_executed:
            raise self._build_refusal(fault)
        if fault.name == EXTERNAL_NONCE and key in self._keys.keys and nonce_check.nonce.isdigit():
            self._keys.raise_nonce_floor(key, int(nonce_check.nonce))
        credentials = Credentials(key, signature, path, nonce_check.nonce, body.decode())
        api_key = self._keys.authenticate(credentials, self._exchange.now)
        nonce_check.is_accepted = True
        method = path.removeprefix(PRIVATE_PATH)
        if not fault.error:
            return self._execute(method, params, api_key, fault)
        if fault.is_executed:
            with suppress(Refusal):
                self._execute(method, params, api_key, fault)
        raise self._build_refusal(fault)

    def _execute(self, method: str, params: dict[str, str], key: ApiKey, fault: Fault) -> Any:
        self._private_endpoints.authorize(method, key)
        if fault.name == QUEUED:
            return self._exchange.queue_order(params, self._queue_seconds)
        if fault.name == CANCEL_RACE:
            self._exchange.fill_matching_orders(params)
        return self._private_endpoints.methods[method](params, key)

    def _build_refusal(self, fault: Fault) -> Refusal:
        return Refusal(fault.error.replace("{until}", str(int(self._exchange.server_time) + THROTTLED_SECONDS)))


def _read_params(body: bytes) -> dict[str, str]:
    """Read a form or a JSON body; numbers and booleans of JSON become the text that they would have in a form."""
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
