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
    SettingsError,
    StoppingError,
    TurnTimeout,
)
from bot.base.paths import journal_file, key_file
from bot.broker_standing import BrokerStanding
from bot.config import credential_problems, url_problems
from bot.kraken import error_table, nonce_recovery, transport
from bot.kraken.circuit_breaker import KeyGuard, NonceRefusedError
from bot.kraken.rate_counters import STARTER, Tier
from bot.kraken.rate_limiter import KeyBudget
from bot.nonce.distributed_lock import HostTurns
from bot.nonce.file_store import MICROSECONDS, UNITS, store_at
from bot.nonce.local_lock import WAIT_SECONDS_MAX, Turns, Urgency
from bot.nonce.shared_store import SharedStore, file_of_key, shared_store_at
from bot.orders.gateway import Leave
from bot.orders.journal import Journal
from bot.orders.reconciliation import DEADLINE_SECONDS

log = logging.getLogger(__name__)

NONCE_FILE: str = config.default_nonce_file()
# The address of a store that hosts share; "" for the file alone.
NONCE_STORE: str = config.default_nonce_store()

JUMP_SECONDS = 60
START_JITTER_SECONDS = 0.005
# While the program stops there is no time to wait for a turn that a lost request is holding, and each resting
# entry has to wait for it.
LAST_CANCEL_SECONDS = 0.1

_URGENCY = {
    "CancelOrder": Urgency.CANCEL,
    "CancelAll": Urgency.CANCEL,
    "CancelAllOrdersAfter": Urgency.CANCEL,
    "AddOrder": Urgency.ORDER,
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
        return store_at(NONCE_FILE).draw(at_least)
    key, fine = api_key or config.default_api_key(), UNITS[unit]
    if NONCE_STORE:
        return _shared_store(key, unit).draw(at_least * fine.ticks)
    # A key that was burnt in a finer unit has a file of its own, which starts from the common one.
    common = store_at(NONCE_FILE).draw(at_least)
    return file_of_key(NONCE_FILE, key, fine).draw(common * fine.ticks)


def _shared_store(api_key: str, unit: str) -> SharedStore:
    return shared_store_at(NONCE_STORE, api_key, NONCE_FILE, UNITS[unit])


@contextmanager
def kraken_turn(
    timeout_seconds: float = WAIT_SECONDS_MAX, *, api_key: str | None = None, unit: str = MICROSECONDS.name
) -> Iterator[None]:
    """Hold the key's turn for the length of a `with` block: draw one nonce in it, send the request, read the answer.

    For programs that send by other means than KrakenBroker. `api_key` is the settings' by default; `unit` is what
    `get_kraken_nonce` is given. Raises TurnTimeout where the turn was not given in time, NonceError where this thread
    has the key's turn already, SettingsError where there is no key; with NONCE_STORE, StoreUnavailableError.
    """
    turns = _script_turns(NONCE_FILE, NONCE_STORE, api_key or config.default_api_key(), unit)
    # With the process: a forked child does not have its parent's turn.
    holder = os.getpid(), threading.get_ident(), turns
    if holder in _script_holders:
        raise NonceError("this thread has the key's turn already; a turn is for one request, with no other turn in it")
    with turns.turn(Urgency.READ, timeout_seconds):
        _script_holders.add(holder)
        try:
            yield
        finally:
            _script_holders.discard(holder)


_script_holders: set[tuple[int, int, Turns | HostTurns]] = set()


@cache
def _script_turns(nonce_file: str, nonce_store: str, api_key: str, unit: str) -> Turns | HostTurns:
    store = shared_store_at(nonce_store, api_key, nonce_file, UNITS[unit]) if nonce_store else None
    return _turns(nonce_file, api_key, store)


def _turns(nonce_file: str, api_key: str, store: SharedStore | None) -> Turns | HostTurns:
    local = Turns(key_file(nonce_file, api_key, "lock"))
    return HostTurns(local, store) if store else local


def check_nonce_file() -> None:
    """Raise NonceAheadError where NONCE_FILE is more than a day ahead of the clock."""
    stored = store_at(NONCE_FILE).peek() or 0
    ahead_us = stored - clock.nonce_clock.now_us()
    if ahead_us > clock.DAY_US:
        raise NonceAheadError(
            f"the nonce file {os.path.abspath(NONCE_FILE)} holds {stored}, {ahead_us / clock.DAY_US:.1f} days "
            "ahead of the clock. Check the clock of this machine. If it is right, the file was written while it "
            "was wrong: delete the file. If Kraken then refuses every nonce, the key has seen these high ones: "
            "make a new API key"
        )


class KrakenBroker(BrokerStanding):
    """One account at Kraken, by one API key. Safe to share between threads.

    `max_order_value` is in quote currency, `market_collar_percent` how far from the current price a market
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
        market_collar_percent: Decimal = Decimal(1),
        allow_withdraw_key: bool = False,
        overlap_seconds: float = 0.0,
        market: clock.MarketClock | None = None,
    ) -> None:
        problems = credential_problems(api_key, api_secret) + url_problems("KRAKEN_API_URL", api_url)
        if problems:
            raise SettingsError(problems)
        self._stopping = threading.Event()
        self._open_api = partial(transport.open_api, api_key, api_secret, api_url, proxy)
        self._open_connections()
        self._budget = KeyBudget(key_file(NONCE_FILE, api_key, "budget"), tier)
        super().__init__(
            api_key=api_key,
            bot_id=bot_id,
            budget=self._budget,
            max_order_value=max_order_value,
            market_collar_percent=market_collar_percent,
            allow_withdraw_key=allow_withdraw_key,
            overlap_seconds=overlap_seconds,
            market=market or clock.MarketClock(),
            stopping=self._stopping,
            journal=Journal(journal_file(NONCE_FILE, api_key)),
        )
        self._api_key, self._unit = api_key, UNITS[nonce_unit]
        # None where the file alone holds the nonces.
        self.shared_store = _shared_store(api_key, nonce_unit) if NONCE_STORE else None
        self._turns = _turns(NONCE_FILE, api_key, self.shared_store)
        self._guard = KeyGuard(key_file(NONCE_FILE, api_key, "silence"), key_file(NONCE_FILE, api_key, "refused"))
        # Two instances that a platform starts in the same instant draw apart.
        clock.sleep(random.uniform(0, START_JITTER_SECONDS))
        # Nothing is drawn yet: `connect` may find that the clock is wrong.
        self._last_nonce = clock.nonce_clock.now_us() * self._unit.ticks
        self._has_drawn = False
        fork_safety.forget_in_child(self)

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
        self._desk.after_fork_in_child()
        self._settlement.after_fork_in_child()

    # Nonces: these three and the retry loop below all write through get_kraken_nonce().

    def _draw(self, at_least_us: int = 0) -> int:
        with nullcontext() if self.shared_store else metrics.timed_step("draw"):
            nonce = get_kraken_nonce(at_least_us, api_key=self._api_key, unit=self._unit.name)
        metrics.nonce_issued()
        with self._nonce_lock:
            self._last_nonce = max(self._last_nonce, nonce) if self._has_drawn else nonce
            self._has_drawn = True
        return nonce

    def _nonce_written_down(self, leave: Leave, deadline_seconds: float) -> str:
        """Return the next nonce once the order that goes with it is on the disk."""
        nonce = self._nonce_monotonic()
        leave(nonce, deadline_seconds)
        # The disk may have taken long.
        self._turns.check()
        return nonce

    def _nonce_monotonic(self) -> str:
        """Return the next nonce as krakenex wants it; krakenex calls this for every private request."""
        return str(self._draw())

    def _immediate_nonce_jump(self) -> int:
        """Move the nonce to max(clock, last) + 60 s, written down; return it."""
        store = self.shared_store or store_at(NONCE_FILE)
        stored_us = (store.peek() or 0) // (self._unit.ticks if self.shared_store else 1)
        return self._draw(max(clock.nonce_clock.now_us(), stored_us) + JUMP_SECONDS * 1_000_000)

    def _climb(self, climb: nonce_recovery.Climb) -> None:
        if climb is nonce_recovery.Climb.JUMP:
            self._immediate_nonce_jump()
        elif climb is nonce_recovery.Climb.LONG:
            self._draw(clock.nonce_clock.now_us() + nonce_recovery.LONG_CLIMB_SECONDS * 1_000_000)

    # Calls

    def public_call(self, method: str, params: dict[str, Any] | None = None) -> Any:
        """Call a public endpoint; return its `result`. Raises NotSentError, NoAnswerError or a KrakenError."""
        with self._public_lock:
            envelope = transport.ask(self._public_api.query_public, method, dict(params or {}))
        return self._result(method, envelope)

    def private_call(self, method: str, params: dict[str, Any] | None = None) -> Any:
        """Call a private endpoint; return its `result`. `params` is not changed.

        AddOrder is sent once and never again, whatever happens (see `OrderDesk.send`). Reads and cancels are repeated
        after a refused nonce, by the rules in `bot/kraken/nonce_recovery.py`; what is neither is sent once.
        Raises a KrakenError, NotSentError, NoAnswerError, SilenceError, TurnTimeout or StoppingError.
        """
        given = dict(params or {})
        if self._desk.takes(method, given):
            return self._send_order(given)
        if given.get("validate"):
            # In Kraken's spelling, whatever was meant as yes.
            given["validate"] = True
        return self._call(method, given)

    def _call(self, method: str, params: dict[str, Any], leave: Leave | None = None) -> Any:
        # An AddOrder that is not for the desk is one with `validate`: a read.
        may_repeat = method in nonce_recovery.REPEATABLE or (
            method == "AddOrder" and not self._desk.takes(method, params)
        )
        urgency = _URGENCY.get(method, Urgency.READ)
        while True:
            try:
                return self._take_turn(method, params, urgency, leave)
            except NonceRefusedError as refused:
                if not may_repeat:
                    raise
                again = refused.again
            self._pause(again.wait_seconds, urgency)
            self._climb(again.climb)

    def _take_turn(self, method: str, params: dict[str, Any], urgency: Urgency, leave: Leave | None) -> Any:
        try:
            while True:
                hurried = urgency is Urgency.CANCEL and self._stopping.is_set()
                asked = clock.boottime_seconds()
                with self._turns.turn(urgency, LAST_CANCEL_SECONDS if hurried else WAIT_SECONDS_MAX):
                    metrics.turn_taken(clock.boottime_seconds() - asked)
                    self._check_silence(self.api)
                    # Booked in the turn, or calls that were booked long before they leave would arrive all at once.
                    wait_seconds = self._seconds_until_room(method, urgency)
                    if wait_seconds <= 0:
                        return self._send(self.api, method, params, leave)
                self._pause(wait_seconds, urgency)
        except TurnTimeout:
            if urgency is not Urgency.CANCEL:
                raise
        # At worst its nonce is refused; an order that should be gone is the greater harm.
        log.warning("%s goes without the key's turn, which another sender is holding.", method)
        with closing(self._open_private_api()) as api:
            self._check_silence(api)
            self._budget.spend_rest(method, self.now())
            return self._send(api, method, params)

    def _check_silence(self, api: krakenex.API) -> None:
        self._guard.check(lambda: self._send(api, "GetApiKeyInfo", {}), lambda: self._last_nonce)

    def _send(self, api: krakenex.API, method: str, params: dict[str, Any], leave: Leave | None = None) -> Any:
        # krakenex writes the nonce into the dictionary that it is given.
        data = {name: _as_field(value) for name, value in params.items() if value is not None}
        if method == "AddOrder":
            deadline_seconds = self.now() + DEADLINE_SECONDS
            data["deadline"] = clock.rfc3339(deadline_seconds)
            if leave is not None:
                api._nonce = partial(self._nonce_written_down, leave, deadline_seconds)
        try:
            envelope = transport.ask(api.query_private, method, data)
        finally:
            api._nonce = self._nonce_monotonic
        try:
            result = self._result(method, envelope)
        except InvalidNonceError as refused:
            raise self._guard.refused(refused, self._last_nonce, self._unit.name) from refused
        except OrderRefusedError:
            # The engine's no: the nonce was accepted.
            self._guard.accepted(self._last_nonce)
            raise
        except LockoutError:
            self._guard.locked_out()
            raise
        except RateLimitError as limited:
            self._budget.note_limit(limited, self.now())
            raise
        self._guard.accepted(self._last_nonce)
        return result

    def _result(self, method: str, envelope: dict[str, Any]) -> Any:
        strings = [str(string) for string in envelope["error"]]
        errors = error_table.errors_in(strings)
        if errors:
            error = error_table.error_for(method, errors)
            error.wait_seconds = error_table.wait_seconds(errors, self.now())
            raise error
        return envelope.get("result")

    def check_nonce_file(self) -> None:
        """Raise NonceAheadError where the nonce file is more than a day ahead of the clock."""
        check_nonce_file()

    def check_lead(self) -> None:
        """Raise LeaseLostError or StoreUnavailableError where another instance may lead the account by now."""
        if self.shared_store is not None:
            self.shared_store.check()

    # Waiting and stopping

    def _seconds_until_room(self, method: str, urgency: Urgency) -> float:
        wait_seconds = self._budget.take_rest(method, self.now())
        if wait_seconds > 0 and urgency is Urgency.CANCEL and self._stopping.is_set():
            # An order that should be gone is the greater harm.
            self._budget.spend_rest(method, self.now())
            return 0.0
        return wait_seconds

    def _pause(self, seconds: float, urgency: Urgency = Urgency.READ) -> None:
        if seconds > 0 and self._market.wait(seconds, self._stopping) and urgency is not Urgency.CANCEL:
            raise StoppingError("the program is stopping; nothing was sent")

    def stop(self) -> None:
        """Send nothing but cancels from now on; calls that wait for their turn end with StoppingError."""
        self._stopping.set()
        self._turns.stop(above=Urgency.CANCEL)

    def close(self) -> None:
        """Close the connections and the key's files."""
        self._turns.close()
        self._budget.close()
        self._guard.close()
        self.journal.close()
        self.api.close()
        self._public_api.close()


def _as_field(value: object) -> object:
    # The form encoding would write True, which Kraken does not read.
    return str(value).lower() if isinstance(value, bool) else value
