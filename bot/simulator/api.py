"""Kraken's paths and envelopes: a request in, a status and a body out."""

from __future__ import annotations

import json
import logging
import threading
from bisect import insort
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

from bot.simulator.errors import Refusal, SimulatorError, StateFileError
from bot.simulator.exchange import Exchange
from bot.simulator.faults import NO_FAULT, DelayedRequest, Fault, QueuedOrder
from bot.simulator.keys import KeyRing
from bot.simulator.market import PublicEndpoints
from bot.simulator.options import SimulatorOptions
from bot.simulator.private import PrivateEndpoints

PUBLIC_PATH = "/0/public/"
PRIVATE_PATH = "/0/private/"

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
        """Raises SimulatorError for an unknown `deadline_checked_at`."""
        if options.deadline_checked_at not in ("engine", "gateway"):
            raise SimulatorError(
                f"Deadlines are kept at the engine or the gateway, not at {options.deadline_checked_at}."
            )
        self.request_log: deque[LoggedRequest] = deque(maxlen=options.request_log_size)
        self.accepted_nonces = 0
        self.failure = ""
        self._is_closed = False
        self.exchange = exchange
        self.keys = keys
        self.private_endpoints = PrivateEndpoints(exchange)
        self.options = options
        self._scheduled: list[QueuedOrder | DelayedRequest] = []
        self._clock = clock
        self._save_changes = save_changes
        self._public_endpoints = PublicEndpoints(exchange)
        self.lock = threading.RLock()

    def handle(
        self, http_method: str, target: str, headers: Mapping[str, str], body: bytes, fault: Fault = NO_FAULT
    ) -> tuple[int, bytes]:
        """Answer one HTTP request. Refusals are answers with status 200, as Kraken's are.

        Raises ConnectionAbortedError after `close`: a closed exchange does nothing more.
        """
        with self.lock:
            if self._is_closed:
                raise ConnectionAbortedError("the exchange is closed")
            if target.partition("?")[0] == "/simulator/state":
                return 200, json.dumps(self.state()).encode()
            try:
                result = self._process(http_method, target, headers, body, fault)
            except Refusal as refusal:
                return 200, json.dumps({"error": [refusal.error]}).encode()
        return 200, json.dumps({"error": [], "result": result}, separators=(",", ":")).encode()

    def schedule(self, event: QueuedOrder | DelayedRequest) -> None:
        """Let a request or an order take effect later.

        It does so just before the first request that comes after it, at its own time: nobody can see the difference,
        and no timer has to be stopped.
        """
        with self.lock:
            insort(self._scheduled, event, key=lambda event: (event.due_at, event.rank))

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
            self._scheduled.clear()

    def _process(self, http_method: str, target: str, headers: Mapping[str, str], body: bytes, fault: Fault) -> Any:
        if self.failure:
            raise Refusal("EService:Unavailable")
        try:
            self._advance()
            return self.dispatch(http_method, target, headers, body, fault)
        finally:
            self._save_or_fail()

    def _advance(self) -> None:
        now = self._clock()
        while self._scheduled and self._scheduled[0].due_at <= now:
            event = self._scheduled.pop(0)
            self.exchange.advance(event.due_at)
            event.run(self)
        self.exchange.advance(now)

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
            account = self.exchange.account
            return {
                "accepted": self.accepted_nonces,
                "refused_nonces": sum(self.keys.refused_nonces.values()),
                "floors": {key.key: str(key.floor) for key in self.keys.keys.values()},
                "balances": {asset: f"{amount:f}" for asset, amount in account.balances.items()},
                "orders": len(account.orders),
                "open_orders": len(account.open_orders),
                "trades": len(account.trades),
                "doubled": [name for name, txids in account.orders_by_client_id().items() if len(txids) > 1],
                "audit": not account.audit(),
                "problems": account.audit(),
                "failure": self.failure,
            }

    def dispatch(self, http_method: str, target: str, headers: Mapping[str, str], body: bytes, fault: Fault) -> Any:
        """Process one request, with the lock held. Raises Refusal."""
        path, _, query = target.partition("?")
        if path.startswith(PUBLIC_PATH) and http_method == "GET":
            fault.before_public_call(self)
            return self._call_public(path.removeprefix(PUBLIC_PATH), query)
        if path.startswith(PRIVATE_PATH) and http_method == "POST":
            return self._call_private(path, headers, body, fault)
        raise Refusal("EGeneral:Unknown method")

    def _call_public(self, method: str, query: str) -> Any:
        if method not in self._public_endpoints.methods:
            raise Refusal("EGeneral:Unknown method")
        return self._public_endpoints.methods[method](dict(parse_qsl(query)), self.exchange.now)

    def _call_private(self, path: str, headers: Mapping[str, str], body: bytes, fault: Fault) -> Any:
        method, key = path.removeprefix(PRIVATE_PATH), headers.get("API-Key") or ""
        nonce, is_nonce_accepted, error = "", False, ""
        try:
            params = _read_params(body)
            nonce = params.get("nonce", "")
            fault.before_authentication(self, key, nonce)
            signature = headers.get("API-Sign") or ""
            api_key = self.keys.authenticate(key, signature, path, nonce, body.decode(), self.exchange.now)
            is_nonce_accepted = True
            return fault.execute(self, method, params, api_key)
        except Refusal as refusal:
            error = refusal.error
            raise fault.replace_refusal(self, refusal) from None
        finally:
            self.accepted_nonces += is_nonce_accepted
            self.request_log.append(LoggedRequest(method, key, nonce, is_nonce_accepted, error, self.exchange.now))


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
