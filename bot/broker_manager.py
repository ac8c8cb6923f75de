"""KrakenBroker, and the one way to get a nonce.

Every private request of this program goes through `KrakenBroker.private_call`: take the request lock, get a nonce,
sign, send, read the answer, release the lock.
"""

from __future__ import annotations

import os
import random
import threading
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, nullcontext, suppress
from decimal import Decimal
from functools import cache
from typing import TYPE_CHECKING, Any

from bot import config
from bot.base import clock, fork_safety, metrics
from bot.base.errors import (
    KeyRuleError,
    KrakenError,
    NonceAheadError,
    NonceError,
    RequestError,
    RequestLockTimeout,
    SettingsError,
    StoppingError,
    TransportError,
    UnknownKrakenError,
)
from bot.base.event_catalog import Event
from bot.base.events import emit
from bot.base.models import (
    Balance,
    Candle,
    Fill,
    KeyInfo,
    Order,
    Pair,
    PlacedOrder,
    Position,
    Side,
    SystemStatus,
)
from bot.base.paths import journal_file_path, key_file_path
from bot.base.private_files import make_folder
from bot.config import credential_problems, url_problems
from bot.kraken import new_order, nonce_recovery
from bot.kraken.account import Account
from bot.kraken.breaker_file import BreakerState
from bot.kraken.circuit_breaker import CircuitBreaker, NonceRefusedError
from bot.kraken.client import ORDER_METHODS, KrakenClient, PrivateRequest, is_validation
from bot.kraken.key_rules import EXPIRY_ALERT_DAYS, EXPIRY_WARNING_DAYS, check_key, days_until_expiry
from bot.kraken.market_data import MarketData
from bot.kraken.rate_counters import STARTER, Tier
from bot.kraken.rate_limiter import RateLimiter
from bot.kraken.transport import KrakenAPI
from bot.nonce.distributed_lock import DistributedRequestLock
from bot.nonce.file_store import MICROSECONDS, UNITS, open_file_store
from bot.nonce.local_lock import LOCK_TIMEOUT_SECONDS, Priority, RequestLock
from bot.nonce.shared_store import SharedStore, file_store_for_key, open_shared_store
from bot.orders.gateway import OrderGateway
from bot.orders.journal import Journal
from bot.orders.reconciler import Reconciler
from bot.orders.reconciliation import Resolution, UnknownOrder

NONCE_FILE: str = config.default_nonce_file()
# The address of a store that hosts share; "" for the file alone.
NONCE_STORE: str = config.default_nonce_store()

NONCE_JUMP_SECONDS = 60
START_JITTER_SECONDS = 0.005
# While the program stops there is no time to wait for a request lock that a lost request holds: each resting entry
# would wait for it.
STOPPING_CANCEL_TIMEOUT_SECONDS = 0.1
# A key may get another expiry, or a query window, while the bot runs.
KEY_CHECK_INTERVAL_SECONDS = 86_400.0
# A cancel that goes without the request lock takes another nonce where the first is older than this: higher ones may
# have been sent since. A store that is always slower must not keep the cancel from being sent.
UNLOCKED_NONCE_SECONDS_MAX = 0.5
UNLOCKED_NONCES_MAX = 3
# How many issued nonces are remembered, to tell our own from another sender's.
RECENT_NONCES = 32


def get_kraken_nonce(at_least: int = 0, *, api_key: str | None = None, unit: str = MICROSECONDS.name) -> int:
    """Return the next nonce: max(clock in microseconds, last + 1, at_least), saved first.

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
    # A key that was used in a finer unit has a file of its own, which starts from the common one.
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
    """Hold the key's request lock for a `with` block: get one nonce in it, send the request, read the answer.

    For programs that send by other means than KrakenBroker. `api_key` is the settings' by default; `unit` is what
    `get_kraken_nonce` is given. Raises RequestLockTimeout where the lock did not become free in time, NonceError where
    this thread holds it already, SettingsError where there is no key; with NONCE_STORE, StoreUnavailableError.
    """
    request_lock = _script_request_lock(NONCE_FILE, NONCE_STORE, api_key or config.default_api_key(), unit)
    # With the process: a forked child does not hold its parent's lock.
    holder = os.getpid(), threading.get_ident(), request_lock
    if holder in _script_lock_holders:
        raise NonceError("this thread holds the key's request lock already; it is for one request at a time")
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


class KrakenBroker:
    """One account at Kraken, by one API key. Safe to share between threads.

    The broker takes nonces, holds the request lock, repeats a request after a refused nonce, and provides the two calls
    `public_call` and `private_call`. `market_data`, `account` and `orders` (the gateway) are built on these, and the
    broker's verbs delegate to them.

    `max_order_value` is in quote currency, `max_slippage_percent` how far from the current price a market order may
    fill. `market_clock` also paces waits. `tier` is the account's verification level, which decides Kraken's rate
    limits. For `overlap_seconds` after its start another instance that nothing here knows of may still send orders,
    where there is no journal yet.
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
        self.bot_id = bot_id or new_order.derive_bot_id(api_key)
        self.key_info: KeyInfo | None = None
        self._key_checked_seconds = 0.0
        self._api_key, self._nonce_unit = api_key, UNITS[nonce_unit]
        self._allow_withdraw_key = allow_withdraw_key
        self._stopping = threading.Event()
        self._market_clock = market_clock or clock.MarketClock()
        self._server_time = clock.ServerTime(self._market_clock)
        self._nonce_lock = threading.Lock()
        self._server = api_key, api_secret, api_url, proxy
        self.api = self._open_api()
        # None where the file alone holds the nonces.
        self.shared_store = _open_shared_store(api_key, nonce_unit) if NONCE_STORE else None
        self._request_lock = _make_request_lock(NONCE_FILE, api_key, self.shared_store)
        self._rate_limiter = RateLimiter(key_file_path(NONCE_FILE, api_key, "budget"), tier)
        self._circuit_breaker = CircuitBreaker(
            key_file_path(NONCE_FILE, api_key, "silence"), key_file_path(NONCE_FILE, api_key, "refused")
        )
        self._client = KrakenClient(self, self._circuit_breaker, self._rate_limiter, self._server_time, nonce_unit)
        self.journal = Journal(journal_file_path(NONCE_FILE, api_key))
        with suppress(OSError):  # reported where the journal is used
            make_folder(os.path.dirname(self.journal.path))
        self.market_data = MarketData(self, self._server_time, self._market_clock)
        self.account = Account(self, self.market_data, self.bot_id)
        self._reconciler = Reconciler(self.journal, self.account, self.bot_id, self._server_time, overlap_seconds)
        self.orders = OrderGateway(
            self,
            self.market_data,
            self.journal,
            self._reconciler,
            bot_id=self.bot_id,
            rate_limiter=self._rate_limiter,
            max_order_value=max_order_value,
            max_slippage_percent=max_slippage_percent,
            server_time=self._server_time,
            market_clock=self._market_clock,
            stopping=self._stopping,
        )
        # Two instances that a platform starts in the same instant take their first nonces apart.
        clock.sleep(random.uniform(0, START_JITTER_SECONDS))
        # No nonce is taken yet: `connect` may find that the clock is wrong.
        self._last_nonce = clock.nonce_clock.now_us() * self._nonce_unit.units_per_microsecond
        self._has_issued_nonce = False
        self._recent_nonces = deque([self._last_nonce], maxlen=RECENT_NONCES)
        fork_safety.register_after_fork(self)

    def _open_api(self) -> KrakenAPI:
        api = KrakenAPI(*self._server)
        api._nonce = self._nonce_monotonic
        return api

    def after_fork_in_child(self) -> None:
        """Replace the locks, which a thread of the parent may have held."""
        self._nonce_lock = threading.Lock()
        self.orders.after_fork_in_child()
        self._reconciler.after_fork_in_child()

    # Nonces: these and the retry loop all write through get_kraken_nonce().

    def _next_nonce(self, at_least_us: int = 0) -> int:
        with nullcontext() if self.shared_store else metrics.time_store_operation("next_nonce"):
            nonce = get_kraken_nonce(at_least_us, api_key=self._api_key, unit=self._nonce_unit.name)
        metrics.record_nonce_issued()
        with self._nonce_lock:
            self._last_nonce = max(self._last_nonce, nonce) if self._has_issued_nonce else nonce
            self._has_issued_nonce = True
            self._recent_nonces.append(nonce)
        return nonce

    def _nonce_monotonic(self) -> str:
        """Return the next nonce as text: the `_nonce` of `api`, from which every private request gets its own."""
        return str(self._next_nonce())

    def _nonce_without_lock(self) -> str:
        """Return the next nonce for a cancel that goes without the request lock. Raises LeaseLostError or
        StoreUnavailableError where another instance may lead by now, whose nonces are higher."""
        for _ in range(UNLOCKED_NONCES_MAX):
            started_seconds = clock.boottime_seconds()
            nonce = self._nonce_monotonic()
            # This process may have been suspended since.
            self.check_leadership()
            if clock.boottime_seconds() - started_seconds <= UNLOCKED_NONCE_SECONDS_MAX:
                break
        return nonce

    def _immediate_nonce_jump(self) -> int:
        """Move the nonce to max(clock, last) + 60 s, save it and return it."""
        # The common file is in microseconds, also for a key in nanoseconds; a shared store is in the key's unit.
        store = self.shared_store or open_file_store(NONCE_FILE)
        stored_us = (store.peek() or 0) // (self._nonce_unit.units_per_microsecond if self.shared_store else 1)
        return self._next_nonce(max(clock.nonce_clock.now_us(), stored_us) + NONCE_JUMP_SECONDS * 1_000_000)

    def apply_nonce_jump(self, jump: nonce_recovery.NonceJump) -> None:
        """Raise the nonce as a nonce jump says."""
        if jump is nonce_recovery.NonceJump.SMALL:
            self._immediate_nonce_jump()
        elif jump is nonce_recovery.NonceJump.LARGE:
            self._next_nonce(clock.nonce_clock.now_us() + nonce_recovery.LARGE_JUMP_SECONDS * 1_000_000)

    def check_request_lock(self) -> None:
        """Raise RequestLockExpiredError, LeaseLostError or StoreUnavailableError where nothing may be sent any more."""
        self._request_lock.check()

    def check_not_stopping(self, priority: Priority) -> None:
        """Raise StoppingError where the program stops and a request of this priority is no cancel."""
        if self._stopping.is_set() and priority is not Priority.CANCEL:
            raise StoppingError("the program is stopping; nothing was sent")

    def newest_nonce_before(self, nonce: int) -> int | None:
        """Return the highest nonce below `nonce` that this object has issued, or None where it remembers none.

        The clock at the start counts as one: no nonce that this object issues is below it.
        """
        with self._nonce_lock:
            return max((recent for recent in self._recent_nonces if recent < nonce), default=None)

    # The two calls

    def public_call(self, method: str, params: Mapping[str, Any] | None = None) -> Any:
        """Call a public endpoint; return its `result`. Raises NotSentError, NoAnswerError or a KrakenError."""
        return self._client.send_public(self.api, method, params or {})

    def response_date(self) -> float | None:
        """Return the HTTP Date of the last answer in Unix seconds, or None where it had none."""
        return self.api.response_date()

    def private_call(self, method: str, params: Mapping[str, Any] | None = None) -> Any:
        """Call a private endpoint; return its `result`. `params` is not changed.

        AddOrder goes through the order gateway, and raises what `OrderGateway.send_params` raises; it is sent once and
        never again. For other methods see `send_request`.
        """
        if method in ORDER_METHODS and not is_validation(method, params or {}):
            return self.orders.send_params(method, params or {})
        return self.send_request(PrivateRequest(method, dict(params or {})))

    def send_request(self, request: PrivateRequest) -> Any:
        """Send a private request; return its `result`. Scripts use `private_call`, which does not bypass the gateway.

        Reads and cancels are repeated after a refused nonce, by the rules in `bot/kraken/nonce_recovery.py`; anything
        else is sent once. Raises a KrakenError, NotSentError, NoAnswerError, CircuitOpenError, RequestLockTimeout or
        StoppingError.
        """
        while True:
            try:
                return self._attempt(request)
            except NonceRefusedError as refused:
                if refused.retry is None:
                    raise
                retry = refused.retry
            self._pause(retry.wait_seconds, request.priority)
            self.apply_nonce_jump(retry.jump)

    def _attempt(self, request: PrivateRequest) -> Any:
        """Send a request once, while the request lock is held. A cancel goes without the lock where it stays held."""
        priority = request.priority
        try:
            while True:
                is_stopping = priority is Priority.CANCEL and self._stopping.is_set()
                timeout_seconds = STOPPING_CANCEL_TIMEOUT_SECONDS if is_stopping else LOCK_TIMEOUT_SECONDS
                with self._request_lock.hold(priority, timeout_seconds) as waited_seconds:
                    metrics.record_request_lock_wait(waited_seconds)
                    # While the program stops, an order that stays open is a greater harm than a full rate counter.
                    must_send = priority is Priority.CANCEL and self._stopping.is_set()
                    wait_seconds, result = self._client.try_send(self.api, request, must_send=must_send)
                if wait_seconds <= 0:
                    return result
                self._pause(wait_seconds, priority)
        except RequestLockTimeout:
            if priority is not Priority.CANCEL:
                raise
        # At worst its nonce is refused; an order that stays open is the greater harm.
        emit(Event.REQUEST_LOCK_SKIPPED, method=request.method)
        with closing(self._open_api()) as api:
            api._nonce = self._nonce_without_lock
            _, result = self._client.try_send(api, request, must_send=True)
            return result

    def _pause(self, seconds: float, priority: Priority) -> None:
        if seconds > 0 and self._market_clock.wait(seconds, self._stopping):
            self.check_not_stopping(priority)

    # Start and end

    def connect(self) -> dict[str, Balance]:
        """Set the clock by Kraken's, check the nonce file and the key, and read the account once; return its balances.

        The first private call is GetApiKeyInfo, so that no order is the first to meet the key's nonce floor. Raises
        NonceAheadError, KeyRuleError, or what `private_call` raises.
        """
        self.market_data.sync_time()
        check_nonce_file()
        try:
            self._read_key_info()
        except (RequestError, UnknownKrakenError) as error:
            emit(Event.KEY_NOT_CHECKED, error=error)
        if self.key_info is not None and self.key_info.ip_allowlist:
            emit(Event.KEY_LIMITED_TO_ADDRESSES, addresses=self.key_info.ip_allowlist)
        return self.get_account_balance()

    def _read_key_info(self) -> None:
        """Read what Kraken knows of the key, and report its expiry. Raises KeyRuleError."""
        self._key_checked_seconds = self.now()
        self.key_info = self.account.get_key_info()
        check_key(self.key_info, self._allow_withdraw_key)
        days = days_until_expiry(self.key_info, self.now())
        if days is not None and days <= EXPIRY_WARNING_DAYS:
            event = Event.KEY_EXPIRES if days > EXPIRY_ALERT_DAYS else Event.KEY_EXPIRES_SOON
            emit(event, until=clock.format_utc(self.key_info.valid_until_seconds))

    def _refresh_key_info(self) -> None:
        """Check the key again once a day. One that may no longer be used is reported; exits and stops go on."""
        if self.key_info is None or self.now() - self._key_checked_seconds < KEY_CHECK_INTERVAL_SECONDS:
            return
        try:
            self._read_key_info()
        except KeyRuleError as error:
            emit(Event.KEY_FOUND_UNSUITABLE, error=error)
        except (KrakenError, TransportError) as error:
            # Whatever it is, the next request meets it too.
            emit(Event.KEY_NOT_CHECKED, error=error)

    def check_leadership(self) -> None:
        """Raise LeaseLostError or StoreUnavailableError where another instance may lead the account by now."""
        if self.shared_store is not None:
            self.shared_store.check()

    def stop(self) -> None:
        """Send nothing but cancels from now on; calls that wait for the request lock end with StoppingError."""
        self._stopping.set()
        self._request_lock.stop(lowest_allowed=Priority.CANCEL)

    def close(self) -> None:
        """Close the connections and the key's files."""
        self._request_lock.close()
        self._rate_limiter.close()
        self._circuit_breaker.close()
        self.journal.close()
        self.api.close()

    # State, from memory and from the key's own files: nothing is sent

    @property
    def refused_nonces(self) -> int:
        """How many nonces Kraken has refused since this object was made."""
        return self._circuit_breaker.refused_total

    @property
    def last_nonce(self) -> int | None:
        """The last nonce that this object has issued, or None."""
        return self._last_nonce if self._has_issued_nonce else None

    @property
    def breaker_state(self) -> BreakerState | None:
        """The circuit breaker's state while it is open or half open; None while it is closed."""
        return self._circuit_breaker.state

    @property
    def rest_level(self) -> tuple[float, float]:
        """The points on the key's REST counter now, and Kraken's maximum for the tier."""
        return self._rate_limiter.rest_level(self._server_time.now())

    @property
    def engine_levels(self) -> dict[str, float]:
        """The points on the matching engine's counter of each pair that has any now."""
        return self._rate_limiter.engine_levels(self._server_time.now())

    def has_room(self, points: float) -> bool:
        """Whether so many points fit on the key's REST counter now, so that their calls would not wait."""
        return self._rate_limiter.has_rest_room(points, self._server_time.now())

    # Market data

    def now(self) -> float:
        """Return Kraken's time in Unix seconds, carried forward from the last synchronization."""
        return self._server_time.now()

    def pair(self, symbol: str) -> Pair:
        """Return a pair by any of its names: BTC/USD, XBTUSD, XXBTZUSD. Raises SymbolError."""
        return self.market_data.pair(symbol)

    def system_status(self) -> SystemStatus:
        """Ask Kraken for its system status."""
        return self.market_data.system_status()

    def pair_status(self, symbol: str) -> str:
        """Ask Kraken for the status of one pair (`bot/kraken/trading_status.py`). Raises SymbolError."""
        return self.market_data.pair_status(symbol)

    def get_candles(self, symbol: str, timeframe: str, count: int) -> list[Candle]:
        """Return the last `count` closed candles (at most 719), oldest first."""
        return self.market_data.get_candles(symbol, timeframe, count)

    def get_current_price(self, symbol: str) -> Decimal:
        """Return the last trade's price."""
        return self.market_data.get_current_price(symbol)

    def get_best_bid(self, symbol: str) -> Decimal:
        """Return the book's best price for a sale."""
        return self.market_data.get_best_bid(symbol)

    # Account

    def get_account_balance(self) -> dict[str, Balance]:
        """Return what the account holds, by asset name (BTC, USD); `free` excludes what open orders hold."""
        return self.account.get_balances()

    def get_positions(self) -> list[Position]:
        """Return the coins that the account holds, without fiat money."""
        return self.account.get_positions()

    def get_open_orders(self) -> list[Order]:
        """Return all open orders of the account, those of other programs too.

        The answer serves the reconciliation of unknown orders, too, as that of `get_closed_orders` does.
        """
        return self._reconciler.get_open_orders()

    def get_closed_orders(self, since_seconds: float = 0.0) -> list[Order]:
        """Return the orders of the account that closed after `since_seconds`, newest first, from all pages; while an
        order is unknown, earlier ones too."""
        return self._reconciler.get_closed_orders(since_seconds)

    def query_order(self, txid: str) -> Order | None:
        """Return an order by its id, open or closed; None where Kraken says that there is none."""
        return self.account.query_order(txid)

    def get_trades(self, since_seconds: float = 0.0) -> list[Fill]:
        """Return the fills of the account after `since_seconds`, newest first, from all pages."""
        return self.account.get_trades(since_seconds)

    def get_trades_page(self, since_seconds: float, offset: int) -> tuple[list[Fill], int]:
        """Return one page of the account's fills, newest first, and how many there are after `since_seconds`."""
        return self.account.get_trades_page(since_seconds, offset)

    def is_own_order(self, order: Order) -> bool:
        """Whether this bot placed the order, on this host or another."""
        return self.account.is_own_order(order)

    # Orders

    def client_order_id(self, symbol: str, strategy: str, candle_seconds: int, kind: str, attempt: int = 0) -> str:
        """Return the `cl_ord_id` of a signal: the same on any host, after any crash."""
        return new_order.client_order_id(self.bot_id, symbol, strategy, candle_seconds, kind=kind, attempt=attempt)

    def place_limit_order(
        self,
        symbol: str,
        side: Side | str,
        quantity: Decimal,
        price: Decimal,
        *,
        cl_ord_id: str = "",
        expire_seconds: int | None = None,
        post_only: bool = False,
    ) -> PlacedOrder:
        """Place a limit order (see `OrderGateway.place_limit_order`)."""
        return self.orders.place_limit_order(
            symbol, side, quantity, price, cl_ord_id=cl_ord_id, expire_seconds=expire_seconds, post_only=post_only
        )

    def place_market_order(
        self, symbol: str, side: Side | str, quantity: Decimal, size_type: str, *, cl_ord_id: str = ""
    ) -> PlacedOrder:
        """Buy or sell at once, within the slippage limit (see `OrderGateway.place_market_order`)."""
        return self.orders.place_market_order(symbol, side, quantity, size_type, cl_ord_id=cl_ord_id)

    def place_stop_order(
        self, symbol: str, side: Side | str, quantity: Decimal, stop_price: Decimal, *, cl_ord_id: str = ""
    ) -> PlacedOrder:
        """Place a stop that rests at Kraken (see `OrderGateway.place_stop_order`)."""
        return self.orders.place_stop_order(symbol, side, quantity, stop_price, cl_ord_id=cl_ord_id)

    def cancel_order(self, txid: str, symbol: str | None = None) -> bool:
        """Cancel one order. True: Kraken canceled it. False: it was gone already, and may have filled."""
        return self.orders.cancel(txid, symbol)

    def cancel_all_orders(self) -> int:
        """Cancel this bot's open orders one by one, never anybody else's; return how many were canceled."""
        own_orders = [order for order in self.get_open_orders() if self.is_own_order(order)]
        return sum(self.cancel_order(order.txid, order.symbol) for order in own_orders)

    def arm_dead_man_switch(self, timeout_seconds: int) -> None:
        """Have Kraken cancel all orders of the account, whoever's, after so many seconds, unless armed again; 0: never.

        At most a day (Kraken: CancelAllOrdersAfter page). The call is repeated after a refused nonce.
        """
        self.private_call("CancelAllOrdersAfter", {"timeout": timeout_seconds})

    # Reconciliation

    def unknown_orders(self) -> list[UnknownOrder]:
        """Return the orders whose outcome is not known; each blocks its pair."""
        return self._reconciler.unknown_orders()

    def history_is_complete(self) -> bool:
        """Whether the journal has every order of this bot. A new journal, or one of an older disk, may lack some:
        `reconcile_unknown_orders` finds them, within 16 s of Kraken's answering."""
        return self._reconciler.history_is_complete()

    def history_wait_seconds(self) -> float:
        """Return the minimum time for which orders of an earlier run may still appear; 0.0 where none can."""
        return self._reconciler.history_wait_seconds()

    def begin_takeover(self, *, is_clean: bool, is_first_leader: bool) -> None:
        """Look for the orders of another instance that may have traded, before any order is sent here.

        `is_clean`: it released its lease with every order reconciled, so none is in flight. `is_first_leader`: nobody
        has led before, so an instance that does not know of leases may still trade (see `overlap_seconds`).
        """
        self._reconciler.begin_takeover(is_clean, is_first_leader)

    def is_reconciled(self) -> bool:
        """Whether no order of this bot has an unknown outcome."""
        return self._reconciler.history_is_complete() and not self.unknown_orders()

    def reconcile_unknown_orders(self) -> list[Resolution]:
        """Send the next query about unknown orders, if one is due; return the outcomes that were not returned before.

        An order that waits for the start-up reconciliation sends queries as well. Once a day the key is checked again.
        """
        self._refresh_key_info()
        return self._reconciler.reconcile()

    def next_query_seconds(self) -> float | None:
        """Return in how many seconds `reconcile_unknown_orders` has something to ask; None where nothing is unknown."""
        due_seconds = self._reconciler.unknown.due_seconds()
        return None if due_seconds is None else max(0.0, due_seconds - self.now())


if not TYPE_CHECKING:  # a type checker takes a module with `__getattr__` for one that has every name

    def __getattr__(name: str) -> object:
        # Scripts of users import it. Only ImportError keeps its text in `from bot.broker_manager import kraken_turn`.
        if name == "kraken_turn":
            raise ImportError(
                f"kraken_turn was renamed: import kraken_request_lock from {__name__}", name=__name__, path=__file__
            )
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
