"""KrakenBroker, and the one way to get a nonce.

Every private request of this program goes through `KrakenBroker.private_call`: take the key's turn, draw a
nonce, sign, send, read the answer, give the turn back.
"""

from __future__ import annotations

import logging
import os
import random
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext
from decimal import Decimal
from functools import cache, partial
from typing import Any

import krakenex

from bot import config
from bot.base import clock, fork_safety, metrics
from bot.base.errors import (
    InvalidNonceError,
    LockoutError,
    NonceAheadError,
    NonceError,
    OrderRefusedError,
    RateLimitError,
    RequestLockTimeout,
    SettingsError,
    StoppingError,
)
from bot.base.paths import journal_file_path, key_file_path
from bot.broker_standing import BrokerStatus
from bot.config import credential_problems, url_problems
from bot.kraken import error_table, nonce_recovery, transport
from bot.kraken.circuit_breaker import CircuitBreaker, NonceRefusedError
from bot.kraken.rate_counters import STARTER, Tier
from bot.kraken.rate_limiter import RateLimiter
from bot.nonce.distributed_lock import DistributedRequestLock
from bot.nonce.file_store import MICROSECONDS, UNITS, open_file_store
from bot.nonce.local_lock import LOCK_TIMEOUT_SECONDS, Priority, RequestLock
from bot.nonce.shared_store import SharedStore, file_store_for_key, open_shared_store
from bot.orders.gateway import BeforeSend
from bot.orders.journal import Journal
from bot.orders.reconciliation import ORDER_DEADLINE_SECONDS

log = logging.getLogger(__name__)

NONCE_FILE: str = config.default_nonce_file()
# The address of a store that hosts share; "" for the file alone.
NONCE_STORE: str = config.default_nonce_store()

NONCE_JUMP_SECONDS = 60
START_JITTER_SECONDS = 0.005
# While the program stops there is no time to wait for a turn that a lost request is holding, and each resting
# entry has to wait for it.
STOPPING_CANCEL_TIMEOUT_SECONDS = 0.1

_PRIORITY_BY_METHOD = {
    "CancelOrder": Priority.CANCEL,
    "CancelAll": Priority.CANCEL,
    "CancelAllOrdersAfter": Priority.CANCEL,
    "AddOrder": Priority.ORDER,
}


def get_kraken_nonce(at_least: int = 0, *, api_key: str | None = None, unit: str = MICROSECONDS.name) -> int:
    """Return the next nonce: max(clock in microseconds, last + 1, at_least), written down first.

    The only source of nonces, for every thread, process and account that shares NONCE_FILE; where NONCE_STORE names a
    store that hosts share, for every host that uses this key there. `api_key` is the settings' by default. `unit` is
    "ns" for a key that was used in nanoseconds; `at_least` is in microseconds all the same.

    Raises NonceAheadError where the nonce would be more than a day ahead of the clock; NonceStoreError where the file
    cannot be written and the clock does not cover the nonce; with NONCE_STORE, StoreUnavailableError where it does not
    answer, and LeaseLostError in a bot that does not lead.
    """
    if not NONCE_STORE and unit == MICROSECONDS.name:
        return open_file_store(NONCE_FILE).next_nonce(at_least)
    key, nonce_unit = api_key or config.default_api_key(), UNITS[unit]
    if NONCE_STORE:
        return _open_shared_store(key, unit).next_nonce(at_least * nonce_unit.units_per_microsecond)
    # A key that was burnt in a finer unit has a file of its own, which starts from the common one.
    microsecond_nonce = open_file_store(NONCE_FILE).next_nonce(at_least)
    return file_store_for_key(NONCE_FILE, key, nonce_unit).next_nonce(
        microsecond_nonce * nonce_unit.units_per_microsecond
    )


def _open_shared_store(api_key: str, unit: str) -> SharedStore:
    return open_shared_store(NONCE_STORE, api_key, NONCE_FILE, UNITS[unit])


@contextmanager
def kraken_request_lock(
    timeout_seconds: float = LOCK_TIMEOUT_SECONDS, *, api_key: str | None = None, unit: str = MICROSECONDS.name
) -> Iterator[None]:
    """Hold the key's turn for the length of a `with` block: draw one nonce in it, send the request, read the answer.

    For programs that send by other means than KrakenBroker. `api_key` is the settings' by default; `unit` is what
    `get_kraken_nonce` is given. Raises TurnTimeout where the turn was not given in time, NonceError where this thread
    has the key's turn already, SettingsError where there is no key; with NONCE_STORE, StoreUnavailableError.
    """
    request_lock = _script_request_lock(NONCE_FILE, NONCE_STORE, api_key or config.default_api_key(), unit)
    # With the process: a forked child does not have its parent's turn.
    holder = os.getpid(), threading.get_ident(), request_lock
    if holder in _script_lock_holders:
        raise NonceError("this thread has the key's turn already; a turn is for one request, with no other turn in it")
    with request_lock.hold(Priority.READ, timeout_seconds):
        _script_lock_holders.add(holder)
        try:
            yield
        finally:
            _script_lock_holders.discard(holder)


_script_lock_holders: set[tuple[int, int, RequestLock | DistributedRequestLock]] = set()


@cache
def _script_request_lock(
    nonce_file: str, nonce_store: str, api_key: str, unit: str
) -> RequestLock | DistributedRequestLock:
    store = open_shared_store(nonce_store, api_key, nonce_file, UNITS[unit]) if nonce_store else None
    return _make_request_lock(nonce_file, api_key, store)


def _make_request_lock(
    nonce_file: str, api_key: str, store: SharedStore | None
) -> RequestLock | DistributedRequestLock:
    local_lock = RequestLock(key_file_path(nonce_file, api_key, "lock"))
    return DistributedRequestLock(local_lock, store) if store else local_lock


def check_nonce_file() -> None:
    """Raise NonceAheadError where NONCE_FILE is more than a day ahead of the clock."""
    stored = open_file_store(NONCE_FILE).peek() or 0
    ahead_us = stored - clock.nonce_clock.now_us()
    if ahead_us > clock.DAY_US:
        raise NonceAheadError(
            f"the nonce file {os.path.abspath(NONCE_FILE)} holds {stored}, {ahead_us / clock.DAY_US:.1f} days "
            "ahead of the clock. Check the clock of this machine. If it is right, the file was written while it "
            "was wrong: delete the file. If Kraken then refuses every nonce, the key has seen these high ones: "
            "make a new API key"
        )


class KrakenBroker(BrokerStatus):
    """One account at Kraken, by one API key. Safe to share between threads.

    `max_order_value` is in quote currency, `max_slippage_percent` how far from the current price a market
    order may fill. `market` is the market's clock, which also paces waits. `tier` is the account's
    verification level, which decides Kraken's rate limits. For `overlap_seconds` after its start another instance that
    nothing here knows of may still send orders, where there is no journal yet.
    """

    def __init__(
        self,
        api_key: str,
        api_secret: str,
        *,
        api_url: str = "https://api.kraken.com",
        proxy: str = "",
        bot_id: str = "",
        nonce_unit: str = MICROSECONDS.name,
        tier: Tier = STARTER,
        max_order_value: Decimal | None = None,
        max_slippage_percent: Decimal = Decimal(1),
        allow_withdraw_key: bool = False,
        overlap_seconds: float = 0.0,
        market_clock: clock.MarketClock | None = None,
    ) -> None:
        problems = credential_problems(api_key, api_secret) + url_problems("KRAKEN_API_URL", api_url)
        if problems:
            raise SettingsError(problems)
        self._stopping = threading.Event()
        self._open_api = partial(transport.open_api, api_key, api_secret, api_url, proxy)
        self._open_connections()
        self._rate_limiter = RateLimiter(key_file_path(NONCE_FILE, api_key, "budget"), tier)
        super().__init__(
            api_key=api_key,
            bot_id=bot_id,
            rate_limiter=self._rate_limiter,
            max_order_value=max_order_value,
            max_slippage_percent=max_slippage_percent,
            allow_withdraw_key=allow_withdraw_key,
            overlap_seconds=overlap_seconds,
            market_clock=market_clock or clock.MarketClock(),
            stopping=self._stopping,
            journal=Journal(journal_file_path(NONCE_FILE, api_key)),
        )
        self._api_key, self._nonce_unit = api_key, UNITS[nonce_unit]
        # None where the file alone holds the nonces.
        self.shared_store = _open_shared_store(api_key, nonce_unit) if NONCE_STORE else None
        self._request_lock = _make_request_lock(NONCE_FILE, api_key, self.shared_store)
        self._circuit_breaker = CircuitBreaker(
            key_file_path(NONCE_FILE, api_key, "silence"), key_file_path(NONCE_FILE, api_key, "refused")
        )
        # Two instances that a platform starts in the same instant draw apart.
        clock.sleep(random.uniform(0, START_JITTER_SECONDS))
        # Nothing is drawn yet: `connect` may find that the clock is wrong.
        self._last_nonce = clock.nonce_clock.now_us() * self._nonce_unit.units_per_microsecond
        self._has_issued_nonce = False
        fork_safety.register_after_fork(self)

    def _open_connections(self) -> None:
        # krakenex keeps its last answer in the object: one for whoever has the turn, one for public calls.
        self.api = self._open_private_api()
        self._public_api = self._open_api()
        self._public_lock = threading.Lock()
        self._nonce_lock = threading.Lock()

    def _open_private_api(self) -> krakenex.API:
        api = self._open_api()
        api._nonce = self._nonce_monotonic
        return api

    def after_fork_in_child(self) -> None:
        """A forked child must not write into the parent's connections."""
        self._open_connections()
        self._order_gateway.after_fork_in_child()
        self._reconciler.after_fork_in_child()

    # Nonces: these three and the retry loop below all write through get_kraken_nonce().

    def _next_nonce(self, at_least_us: int = 0) -> int:
        with nullcontext() if self.shared_store else metrics.time_store_operation("draw"):
            nonce = get_kraken_nonce(at_least_us, api_key=self._api_key, unit=self._nonce_unit.name)
        metrics.record_nonce_issued()
        with self._nonce_lock:
            self._last_nonce = max(self._last_nonce, nonce) if self._has_issued_nonce else nonce
            self._has_issued_nonce = True
        return nonce

    def _next_order_nonce(self, before_send: BeforeSend, deadline_seconds: float) -> str:
        """Return the next nonce once the order that goes with it is on the disk."""
        nonce = self._nonce_monotonic()
        before_send(nonce, deadline_seconds)
        # The disk may have taken long.
        self._request_lock.check()
        return nonce

    def _nonce_monotonic(self) -> str:
        """Return the next nonce as krakenex wants it; krakenex calls this for every private request."""
        return str(self._next_nonce())

    def _immediate_nonce_jump(self) -> int:
        """Move the nonce to max(clock, last) + 60 s, written down; return it."""
        store = self.shared_store or open_file_store(NONCE_FILE)
        stored_us = (store.peek() or 0) // (self._nonce_unit.units_per_microsecond if self.shared_store else 1)
        return self._next_nonce(max(clock.nonce_clock.now_us(), stored_us) + NONCE_JUMP_SECONDS * 1_000_000)

    def _apply_nonce_jump(self, jump: nonce_recovery.NonceJump) -> None:
        if jump is nonce_recovery.NonceJump.SMALL:
            self._immediate_nonce_jump()
        elif jump is nonce_recovery.NonceJump.LARGE:
            self._next_nonce(clock.nonce_clock.now_us() + nonce_recovery.LARGE_JUMP_SECONDS * 1_000_000)

    # Calls

    def public_call(self, method: str, params: dict[str, Any] | None = None) -> Any:
        """Call a public endpoint; return its `result`. Raises NotSentError, NoAnswerError or a KrakenError."""
        with self._public_lock:
            envelope = transport.request(self._public_api.query_public, method, dict(params or {}))
        return self._unwrap_envelope(method, envelope)

    def private_call(self, method: str, params: dict[str, Any] | None = None) -> Any:
        """Call a private endpoint; return its `result`. `params` is not changed.

        AddOrder is sent once and never again, whatever happens (see `OrderGateway.send`). Reads and cancels are repeated
        after a refused nonce, by the rules in `bot/kraken/nonce_recovery.py`; what is neither is sent once.
        Raises a KrakenError, NotSentError, NoAnswerError, SilenceError, TurnTimeout or StoppingError.
        """
        call_params = dict(params or {})
        if self._order_gateway.is_order_request(method, call_params):
            return self._send_order(call_params)
        if call_params.get("validate"):
            # In Kraken's spelling, whatever was meant as yes.
            call_params["validate"] = True
        return self._call(method, call_params)

    def _call(self, method: str, params: dict[str, Any], before_send: BeforeSend | None = None) -> Any:
        # An AddOrder that is not for the desk is one with `validate`: a read.
        is_repeatable = method in nonce_recovery.RETRYABLE_METHODS or (
            method == "AddOrder" and not self._order_gateway.is_order_request(method, params)
        )
        priority = _PRIORITY_BY_METHOD.get(method, Priority.READ)
        while True:
            try:
                return self._attempt_call(method, params, priority, before_send)
            except NonceRefusedError as refused:
                if not is_repeatable:
                    raise
                retry = refused.retry
            self._pause(retry.wait_seconds, priority)
            self._apply_nonce_jump(retry.jump)

    def _attempt_call(
        self, method: str, params: dict[str, Any], priority: Priority, before_send: BeforeSend | None
    ) -> Any:
        try:
            while True:
                is_stopping_cancel = priority is Priority.CANCEL and self._stopping.is_set()
                wait_started_seconds = clock.boottime_seconds()
                with self._request_lock.hold(
                    priority, STOPPING_CANCEL_TIMEOUT_SECONDS if is_stopping_cancel else LOCK_TIMEOUT_SECONDS
                ):
                    metrics.record_request_lock_wait(clock.boottime_seconds() - wait_started_seconds)
                    self._check_circuit_breaker(self.api)
                    # Booked in the turn, or calls that were booked long before they leave would arrive all at once.
                    wait_seconds = self._rate_limit_wait_seconds(method, priority)
                    if wait_seconds <= 0:
                        return self._send(self.api, method, params, before_send)
                self._pause(wait_seconds, priority)
        except RequestLockTimeout:
            if priority is not Priority.CANCEL:
                raise
        # At worst its nonce is refused; an order that should be gone is the greater harm.
        log.warning("%s goes without the key's turn, which another sender is holding.", method)
        with closing(self._open_private_api()) as api:
            self._check_circuit_breaker(api)
            self._rate_limiter.spend_rest(method, self.now())
            return self._send(api, method, params)

    def _check_circuit_breaker(self, api: krakenex.API) -> None:
        self._circuit_breaker.check(lambda: self._send(api, "GetApiKeyInfo", {}), lambda: self._last_nonce)

    def _send(
        self, api: krakenex.API, method: str, params: dict[str, Any], before_send: BeforeSend | None = None
    ) -> Any:
        # krakenex writes the nonce into the dictionary that it is given.
        data = {name: _form_value(value) for name, value in params.items() if value is not None}
        if method == "AddOrder":
            deadline_seconds = self.now() + ORDER_DEADLINE_SECONDS
            data["deadline"] = clock.format_rfc3339(deadline_seconds)
            if before_send is not None:
                api._nonce = partial(self._next_order_nonce, before_send, deadline_seconds)
        try:
            envelope = transport.request(api.query_private, method, data)
        finally:
            api._nonce = self._nonce_monotonic
        try:
            result = self._unwrap_envelope(method, envelope)
        except InvalidNonceError as refused:
            raise self._circuit_breaker.handle_refusal(refused, self._last_nonce, self._nonce_unit.name) from refused
        except OrderRefusedError:
            # The engine's no: the nonce was accepted.
            self._circuit_breaker.record_accepted(self._last_nonce)
            raise
        except LockoutError:
            self._circuit_breaker.handle_lockout()
            raise
        except RateLimitError as limited:
            self._rate_limiter.record_rate_limit_error(limited, self.now())
            raise
        self._circuit_breaker.record_accepted(self._last_nonce)
        return result

    def _unwrap_envelope(self, method: str, envelope: dict[str, Any]) -> Any:
        strings = [str(string) for string in envelope["error"]]
        errors = error_table.filter_errors(strings)
        if errors:
            error = error_table.make_error(method, errors)
            error.wait_seconds = error_table.retry_after_seconds(errors, self.now())
            raise error
        return envelope.get("result")

    def check_nonce_file(self) -> None:
        """Raise NonceAheadError where the nonce file is more than a day ahead of the clock."""
        check_nonce_file()

    def check_leadership(self) -> None:
        """Raise LeaseLostError or StoreUnavailableError where another instance may lead the account by now."""
        if self.shared_store is not None:
            self.shared_store.check()

    # Waiting and stopping

    def _rate_limit_wait_seconds(self, method: str, priority: Priority) -> float:
        wait_seconds = self._rate_limiter.try_acquire_rest(method, self.now())
        if wait_seconds > 0 and priority is Priority.CANCEL and self._stopping.is_set():
            # An order that should be gone is the greater harm.
            self._rate_limiter.spend_rest(method, self.now())
            return 0.0
        return wait_seconds

    def _pause(self, seconds: float, priority: Priority = Priority.READ) -> None:
        if seconds > 0 and self._market_clock.wait(seconds, self._stopping) and priority is not Priority.CANCEL:
            raise StoppingError("the program is stopping; nothing was sent")

    def stop(self) -> None:
        """Send nothing but cancels from now on; calls that wait for their turn end with StoppingError."""
        self._stopping.set()
        self._request_lock.stop(lowest_allowed=Priority.CANCEL)

    def close(self) -> None:
        """Close the connections and the key's files."""
        self._request_lock.close()
        self._rate_limiter.close()
        self._circuit_breaker.close()
        self.journal.close()
        self.api.close()
        self._public_api.close()


def _form_value(value: object) -> object:
    # The form encoding would write True, which Kraken does not read.
    return str(value).lower() if isinstance(value, bool) else value
