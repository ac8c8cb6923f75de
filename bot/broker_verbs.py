"""What a broker can do, in the bot's words: every verb is a call to Kraken and a reading of its answer."""

from __future__ import annotations

import logging
import threading
from abc import abstractmethod
from collections.abc import Callable
from decimal import Decimal
from typing import Any, TypeVar

from bot.base.clock import MarketClock
from bot.base.errors import OrderRuleError, RequestError, SymbolError, UnknownKrakenError
from bot.base.models import Balance, Fill, KeyInfo, Order, Pair, PlacedOrder, Position, Side
from bot.kraken import order_requests, responses
from bot.kraken.key_rules import check_key
from bot.kraken.market_data import MarketData
from bot.kraken.pairs import PairTable, check_order, round_volume
from bot.kraken.rate_limiter import RateLimiter
from bot.orders.gateway import BeforeSend, OrderGateway
from bot.orders.journal import Journal
from bot.orders.reconciler import OrderQueries, Reconciler
from bot.orders.reconciliation import Resolution, UnknownOrder

log = logging.getLogger(__name__)

HISTORY_PAGE_SIZE = 50
Record = TypeVar("Record")
_FIAT_ASSETS = frozenset({"USD", "EUR", "GBP", "CAD", "JPY", "AUD", "CHF"})


class Account(MarketData):
    """The verbs of KrakenBroker, over its two calls."""

    def __init__(
        self,
        *,
        api_key: str,
        bot_id: str,
        rate_limiter: RateLimiter,
        max_order_value: Decimal | None,
        max_slippage_percent: Decimal,
        allow_withdraw_key: bool,
        overlap_seconds: float,
        market_clock: MarketClock,
        stopping: threading.Event,
        journal: Journal,
    ) -> None:
        self.journal = journal
        self.bot_id = bot_id or order_requests.derive_bot_id(api_key)
        self.key_info: KeyInfo | None = None
        self._max_slippage_percent = max_slippage_percent
        self._allow_withdraw_key = allow_withdraw_key
        super().__init__(market_clock)
        order_queries = OrderQueries(self.get_open_orders, self.get_closed_orders, self.is_own_order)
        self._reconciler = Reconciler(journal, order_queries, self.bot_id, self._server_time, overlap_seconds)
        self._order_gateway = OrderGateway(
            self._call,
            self.pair,
            self._worst_case_price,
            self._status_block_reason,
            journal,
            self._reconciler,
            bot_id=self.bot_id,
            rate_limiter=rate_limiter,
            max_order_value=max_order_value,
            server_time=self._server_time,
            market_clock=market_clock,
            stopping=stopping,
        )

    @abstractmethod
    def private_call(self, method: str, params: dict[str, Any] | None = None) -> Any:
        """Call a private endpoint; return its result."""

    @abstractmethod
    def _call(self, method: str, params: dict[str, Any], before_send: BeforeSend | None = None) -> Any:
        """Send a private request as it is; `leave` is called before its first byte leaves."""

    @abstractmethod
    def check_nonce_file(self) -> None:
        """Raise NonceAheadError where the nonce file is far ahead of the clock."""

    @abstractmethod
    def check_leadership(self) -> None:
        """Raise LeaseLostError or StoreUnavailableError where another instance may lead the account by now."""

    # Start and time

    def connect(self) -> dict[str, Balance]:
        """Set the clock by Kraken's, check the nonce file and the key, and read the account once; return its balances.

        The first private call is GetApiKeyInfo, so that no order ever learns the key's floor. Raises
        NonceAheadError, KeyRuleError, or what `private_call` raises.
        """
        self.sync_time()
        self.check_nonce_file()
        try:
            self.key_info = responses.read_key_info(self.private_call("GetApiKeyInfo"))
        except (RequestError, UnknownKrakenError) as error:
            log.warning("The key could not be checked (%s): its permissions and nonce window are unknown.", error)
        else:
            check_key(self.key_info, self._allow_withdraw_key)
        return self.get_account_balance()

    # Account

    def get_account_balance(self) -> dict[str, Balance]:
        """Return what the account has, by asset name (BTC, USD); `free` leaves out what open orders hold."""
        return responses.read_balance_ex(self.private_call("BalanceEx"), self._get_pair_table())

    def get_positions(self) -> list[Position]:
        """Return the coins that the account holds; fiat money, also where it earns interest (USD.M), is none."""
        return [
            Position(_usd_symbol(self._get_pair_table(), asset), asset, balance.total)
            for asset, balance in self.get_account_balance().items()
            if balance.total > 0 and asset.partition(".")[0] not in _FIAT_ASSETS
        ]

    def get_open_orders(self) -> list[Order]:
        """Return all open orders of the account, those of other programs too."""
        return responses.read_open_orders(self.private_call("OpenOrders"), self._get_pair_table())

    def get_closed_orders(self, since_seconds: float = 0.0) -> list[Order]:
        """Return the orders of the account that closed after `first_seconds`, newest first, from all pages."""

        def fetch_page(offset: int) -> tuple[list[Order], int]:
            params = {"start": int(since_seconds), "ofs": offset, "closetime": "close"}
            return responses.read_closed_orders(self.private_call("ClosedOrders", params), self._get_pair_table())

        return sorted(_fetch_all_pages(fetch_page, lambda order: order.txid), key=lambda order: -order.closed_seconds)

    def get_trades(self, since_seconds: float = 0.0) -> list[Fill]:
        """Return the fills of the account after `first_seconds`, newest first, from all pages."""
        fills = _fetch_all_pages(lambda offset: self.get_trades_page(since_seconds, offset), lambda fill: fill.trade_id)
        return sorted(fills, key=lambda fill: -fill.time_seconds)

    def get_trades_page(self, since_seconds: float, offset: int) -> tuple[list[Fill], int]:
        """Return one page of the account's fills, newest first, and how many there are after `first_seconds`."""
        params = {"start": int(since_seconds), "ofs": offset}
        return responses.read_trades(self.private_call("TradesHistory", params), self._get_pair_table())

    def is_own_order(self, order: Order) -> bool:
        """Whether this bot placed the order, on this host or another."""
        return order.cl_ord_id.startswith(self.bot_id)

    # Orders

    def client_order_id(self, symbol: str, strategy: str, candle_seconds: int, kind: str, attempt: int = 0) -> str:
        """Return the `cl_ord_id` of a signal: the same on any host, after any crash."""
        return order_requests.client_order_id(self.bot_id, symbol, strategy, candle_seconds, kind=kind, attempt=attempt)

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
        """Place a limit order of `quantity` base units; `expire_seconds` from now it is gone.

        Raises OrderRuleError (not sent), OrderRefusedError, OrderUnknownError, and what `OrderGateway.send` raises.
        """
        pair, side = self.pair(symbol), Side(side)
        check_order(pair, side, quantity, price)
        expires_seconds = None if expire_seconds is None else int(self.now()) + expire_seconds
        params = order_requests.limit_order_params(
            pair, side, quantity, price, cl_ord_id, expires_seconds=expires_seconds, post_only=post_only
        )
        return self._place_order(pair, side, quantity, price, params)

    def place_market_order(
        self, symbol: str, side: Side | str, quantity: Decimal, size_type: str, *, cl_ord_id: str = ""
    ) -> PlacedOrder:
        """Buy or sell at once: a limit order, immediate or cancel, no worse than the collar around the price.

        `size_type` says what `quantity` counts: "base" (coins) or "quote" (money: a buy never spends more than this).
        Raises as `place_limit_order`.
        """
        if size_type not in ("base", "quote"):
            raise OrderRuleError(f'size_type must be "base" or "quote", not {size_type!r}', "size_type")
        pair, side = self.pair(symbol), Side(side)
        if not isinstance(quantity, Decimal):
            raise TypeError(f"quantity must be a Decimal, not {type(quantity).__name__}: floats lose money")
        current_price = self.get_current_price(symbol)
        limit_price = order_requests.max_slippage_price(pair, side, current_price, self._max_slippage_percent)
        volume = quantity if size_type == "base" else round_volume(pair, quantity / max(limit_price, current_price))
        check_order(pair, side, volume, limit_price)
        params = order_requests.limit_order_params(pair, side, volume, limit_price, cl_ord_id, immediate_or_cancel=True)
        return self._place_order(pair, side, volume, limit_price, params)

    def place_stop_order(
        self, symbol: str, side: Side | str, quantity: Decimal, stop_price: Decimal, *, cl_ord_id: str = ""
    ) -> PlacedOrder:
        """Place a stop that rests at Kraken: once the last price meets `stop_price` it is a market order there.

        Then no collar bounds its price: the bot may be down, and this is what the stop is for. Raises as
        `place_limit_order`.
        """
        pair, side = self.pair(symbol), Side(side)
        check_order(pair, side, quantity, stop_price)
        params = order_requests.stop_order_params(pair, side, quantity, stop_price, cl_ord_id)
        return self._place_order(pair, side, quantity, stop_price, params)

    def _worst_case_price(self, pair: Pair, side: Side) -> Decimal:
        """Return what a coin may be worth in a market order: a buy may go up to its collar."""
        current_price = self.get_current_price(pair.symbol)
        return max(
            current_price, order_requests.max_slippage_price(pair, side, current_price, self._max_slippage_percent)
        )

    def _place_order(
        self, pair: Pair, side: Side, volume: Decimal, price: Decimal, params: dict[str, str]
    ) -> PlacedOrder:
        txid = responses.read_add_order_txid(self._send_order(params))
        return PlacedOrder(txid, params["cl_ord_id"], pair.symbol, side, volume, price)

    def _send_order(self, params: dict[str, Any]) -> dict[str, Any]:
        # Its deadline is in Kraken's time.
        self.sync_time()
        return self._order_gateway.send(params)

    def cancel_order(self, txid: str, symbol: str | None = None) -> bool:
        """Cancel one order. True: Kraken has cancelled it. False: it was gone already, and may have filled."""
        return self._order_gateway.cancel(txid, symbol)

    def cancel_all_orders(self) -> int:
        """Cancel this bot's open orders one by one, never those of anybody else; return how many were."""
        own_orders = [order for order in self.get_open_orders() if self.is_own_order(order)]
        return sum(self.cancel_order(order.txid, order.symbol) for order in own_orders)

    def arm_dead_man_switch(self, timeout_seconds: int) -> None:
        """Let Kraken cancel every order of the account, whoever's, after so many seconds, unless armed again; 0: never.

        At most a day (Kraken: CancelAllOrdersAfter page). May be repeated, and is after a refused nonce.
        """
        self.private_call("CancelAllOrdersAfter", {"timeout": timeout_seconds})

    def unknown_orders(self) -> list[UnknownOrder]:
        """Return the orders whose outcome is not known; each blocks its pair."""
        return self._reconciler.unknown_orders()

    def history_is_complete(self) -> bool:
        """Whether the journal has every order of this bot. Where it is new or of a former disk, `reconcile_unknown_orders` finds
        what is missing, within 16 s of Kraken's answering."""
        return self._reconciler.history_is_complete()

    def history_wait_seconds(self) -> float:
        """Return for how long orders of an earlier life may still turn up at least; 0.0 where none can."""
        return self._reconciler.history_wait_seconds()

    def begin_takeover(self, *, is_clean: bool, is_first_leader: bool) -> None:
        """Another instance may have traded: look for the orders that it has sent before any is sent here.

        `clean`: it had signed off with every order settled, so none of them is still on its way. `first`: nobody has
        led before, so an instance that knows nothing of leading may still trade (see `overlap_seconds`).
        """
        self._reconciler.begin_takeover(is_clean, is_first_leader)

    def is_reconciled(self) -> bool:
        """Whether no order of this bot has an unknown fate."""
        return self._reconciler.history_is_complete() and not self.unknown_orders()

    def reconcile_unknown_orders(self) -> list[Resolution]:
        """Make the next look-up for unknown orders, if one is due; return those whose fate is known and not yet told.

        An order that waits for what an earlier life sent makes look-ups as well.
        """
        return self._reconciler.reconcile()

    def next_query_seconds(self) -> float | None:
        """Return in how many seconds `reconcile_unknown_orders` has something to ask; None where nothing is unknown."""
        due_seconds = self._reconciler.due_seconds()
        return None if due_seconds is None else max(0.0, due_seconds - self.now())


def _usd_symbol(pair_table: PairTable, asset: str) -> str:
    try:
        return pair_table.find(f"{asset}/USD").symbol
    except SymbolError:
        return ""


def _fetch_all_pages(
    fetch_page: Callable[[int], tuple[list[Record], int]], key_of: Callable[[Record], str]
) -> list[Record]:
    """Return the rows of all pages of a history. What is new meanwhile moves the pages on, so a row may come twice."""
    records: dict[str, Record] = {}
    while True:
        page, total = fetch_page(len(records))
        new_records = {key_of(row): row for row in page if key_of(row) not in records}
        records |= new_records
        if not new_records or len(records) >= total or len(page) < HISTORY_PAGE_SIZE:
            return list(records.values())
