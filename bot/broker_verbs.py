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
from bot.kraken.market_data import MarketVerbs
from bot.kraken.pairs import PairTable, check_order, round_volume
from bot.kraken.rate_limiter import KeyBudget
from bot.orders.gateway import Leave, OrderDesk
from bot.orders.journal import Journal
from bot.orders.reconciler import LookUps, Settlement
from bot.orders.reconciliation import Settled, UnknownOrder

log = logging.getLogger(__name__)

HISTORY_PAGE_ROWS = 50
Row = TypeVar("Row")
_FIAT = frozenset({"USD", "EUR", "GBP", "CAD", "JPY", "AUD", "CHF"})


class BrokerVerbs(MarketVerbs):
    """The verbs of KrakenBroker, over its two calls."""

    def __init__(
        self,
        *,
        api_key: str,
        bot_id: str,
        budget: KeyBudget,
        max_order_value: Decimal | None,
        market_collar_percent: Decimal,
        allow_withdraw_key: bool,
        overlap_seconds: float,
        market: MarketClock,
        stopping: threading.Event,
        journal: Journal,
    ) -> None:
        self.journal = journal
        self.bot_id = bot_id or order_requests.bot_id_of(api_key)
        self.key_info: KeyInfo | None = None
        self._collar_percent = market_collar_percent
        self._allow_withdraw_key = allow_withdraw_key
        super().__init__(market)
        look_ups = LookUps(self.get_open_orders, self.get_closed_orders, self.owns)
        self._settlement = Settlement(journal, look_ups, self.bot_id, self._time, overlap_seconds)
        self._desk = OrderDesk(
            self._call,
            self.pair,
            self._highest_price,
            self._status_refusal,
            journal,
            self._settlement,
            bot_id=self.bot_id,
            budget=budget,
            max_order_value=max_order_value,
            time=self._time,
            market=market,
            stopping=stopping,
        )

    @abstractmethod
    def private_call(self, method: str, params: dict[str, Any] | None = None) -> Any:
        """Call a private endpoint; return its result."""

    @abstractmethod
    def _call(self, method: str, params: dict[str, Any], leave: Leave | None = None) -> Any:
        """Send a private request as it is; `leave` is called before its first byte leaves."""

    @abstractmethod
    def check_nonce_file(self) -> None:
        """Raise NonceAheadError where the nonce file is far ahead of the clock."""

    @abstractmethod
    def check_lead(self) -> None:
        """Raise LeaseLostError or StoreUnavailableError where another instance may lead the account by now."""

    # Start and time

    def connect(self) -> dict[str, Balance]:
        """Set the clock by Kraken's, check the nonce file and the key, and read the account once; return its balances.

        The first private call is GetApiKeyInfo, so that no order ever learns the key's floor. Raises
        NonceAheadError, KeyRuleError, or what `private_call` raises.
        """
        self.keep_time()
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
        return responses.read_balance_ex(self.private_call("BalanceEx"), self._pairs())

    def get_positions(self) -> list[Position]:
        """Return the coins that the account holds; fiat money, also where it earns interest (USD.M), is none."""
        return [
            Position(_symbol_in_usd(self._pairs(), asset), asset, balance.total)
            for asset, balance in self.get_account_balance().items()
            if balance.total > 0 and asset.partition(".")[0] not in _FIAT
        ]

    def get_open_orders(self) -> list[Order]:
        """Return all open orders of the account, those of other programs too."""
        return responses.read_open_orders(self.private_call("OpenOrders"), self._pairs())

    def get_closed_orders(self, since_seconds: float = 0.0) -> list[Order]:
        """Return the orders of the account that closed after `since_seconds`, newest first, from all pages."""

        def page(offset: int) -> tuple[list[Order], int]:
            params = {"start": int(since_seconds), "ofs": offset, "closetime": "close"}
            return responses.read_closed_orders(self.private_call("ClosedOrders", params), self._pairs())

        return sorted(_all_pages(page, lambda order: order.txid), key=lambda order: -order.closed_seconds)

    def get_trades(self, since_seconds: float = 0.0) -> list[Fill]:
        """Return the fills of the account after `since_seconds`, newest first, from all pages."""
        fills = _all_pages(lambda offset: self.get_trades_page(since_seconds, offset), lambda fill: fill.trade_id)
        return sorted(fills, key=lambda fill: -fill.time_seconds)

    def get_trades_page(self, since_seconds: float, offset: int) -> tuple[list[Fill], int]:
        """Return one page of the account's fills, newest first, and how many there are after `since_seconds`."""
        params = {"start": int(since_seconds), "ofs": offset}
        return responses.read_trades(self.private_call("TradesHistory", params), self._pairs())

    def owns(self, order: Order) -> bool:
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

        Raises OrderRuleError (not sent), OrderRefusedError, OrderUnknownError, and what `OrderDesk.send` raises.
        """
        pair, side = self.pair(symbol), Side(side)
        check_order(pair, side, quantity, price)
        expires = None if expire_seconds is None else int(self.now()) + expire_seconds
        params = order_requests.limit_order(
            pair, side, quantity, price, cl_ord_id, expires_seconds=expires, post_only=post_only
        )
        return self._place(pair, side, quantity, price, params)

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
        current = self.get_current_price(symbol)
        price = order_requests.collared_price(pair, side, current, self._collar_percent)
        volume = quantity if size_type == "base" else round_volume(pair, quantity / max(price, current))
        check_order(pair, side, volume, price)
        params = order_requests.limit_order(pair, side, volume, price, cl_ord_id, immediate_or_cancel=True)
        return self._place(pair, side, volume, price, params)

    def place_stop_order(
        self, symbol: str, side: Side | str, quantity: Decimal, stop_price: Decimal, *, cl_ord_id: str = ""
    ) -> PlacedOrder:
        """Place a stop that rests at Kraken: once the last price meets `stop_price` it is a market order there.

        Then no collar bounds its price: the bot may be down, and this is what the stop is for. Raises as
        `place_limit_order`.
        """
        pair, side = self.pair(symbol), Side(side)
        check_order(pair, side, quantity, stop_price)
        params = order_requests.stop_order(pair, side, quantity, stop_price, cl_ord_id)
        return self._place(pair, side, quantity, stop_price, params)

    def _highest_price(self, pair: Pair, side: Side) -> Decimal:
        """Return what a coin may be worth in a market order: a buy may go up to its collar."""
        current = self.get_current_price(pair.symbol)
        return max(current, order_requests.collared_price(pair, side, current, self._collar_percent))

    def _place(self, pair: Pair, side: Side, volume: Decimal, price: Decimal, params: dict[str, str]) -> PlacedOrder:
        txid = responses.read_placed(self._send_order(params))
        return PlacedOrder(txid, params["cl_ord_id"], pair.symbol, side, volume, price)

    def _send_order(self, params: dict[str, Any]) -> dict[str, Any]:
        # Its deadline is in Kraken's time.
        self.keep_time()
        return self._desk.send(params)

    def cancel_order(self, txid: str, symbol: str | None = None) -> bool:
        """Cancel one order. True: Kraken has cancelled it. False: it was gone already, and may have filled."""
        return self._desk.cancel(txid, symbol)

    def cancel_all_orders(self) -> int:
        """Cancel this bot's open orders one by one, never those of anybody else; return how many were."""
        own = [order for order in self.get_open_orders() if self.owns(order)]
        return sum(self.cancel_order(order.txid, order.symbol) for order in own)

    def arm_dead_man_switch(self, timeout_seconds: int) -> None:
        """Let Kraken cancel every order of the account, whoever's, after so many seconds, unless armed again; 0: never.

        At most a day (Kraken: CancelAllOrdersAfter page). May be repeated, and is after a refused nonce.
        """
        self.private_call("CancelAllOrdersAfter", {"timeout": timeout_seconds})

    def unknown_orders(self) -> list[UnknownOrder]:
        """Return the orders whose outcome is not known; each blocks its pair."""
        return self._settlement.unknown_orders()

    def knows_the_past(self) -> bool:
        """Whether the journal has every order of this bot. Where it is new or of a former disk, `settle_unknown` finds
        what is missing, within 16 s of Kraken's answering."""
        return self._settlement.knows_the_past()

    def past_wait_seconds(self) -> float:
        """Return for how long orders of an earlier life may still turn up at least; 0.0 where none can."""
        return self._settlement.past_wait_seconds()

    def take_over(self, *, clean: bool, first: bool) -> None:
        """Another instance may have traded: look for the orders that it has sent before any is sent here.

        `clean`: it had signed off with every order settled, so none of them is still on its way. `first`: nobody has
        led before, so an instance that knows nothing of leading may still trade (see `overlap_seconds`).
        """
        self._settlement.take_over(clean, first)

    def is_settled(self) -> bool:
        """Whether no order of this bot has an unknown fate."""
        return self._settlement.knows_the_past() and not self.unknown_orders()

    def settle_unknown(self) -> list[Settled]:
        """Make the next look-up for unknown orders, if one is due; return those whose fate is known and not yet told.

        An order that waits for what an earlier life sent makes look-ups as well.
        """
        return self._settlement.settle()

    def next_look_up_seconds(self) -> float | None:
        """Return in how many seconds `settle_unknown` has something to ask; None where nothing is unknown."""
        due_seconds = self._settlement.due_seconds()
        return None if due_seconds is None else max(0.0, due_seconds - self.now())


def _symbol_in_usd(table: PairTable, asset: str) -> str:
    try:
        return table.find(f"{asset}/USD").symbol
    except SymbolError:
        return ""


def _all_pages(page_at: Callable[[int], tuple[list[Row], int]], name_of: Callable[[Row], str]) -> list[Row]:
    """Return the rows of all pages of a history. What is new meanwhile moves the pages on, so a row may come twice."""
    rows: dict[str, Row] = {}
    while True:
        page, total = page_at(len(rows))
        new = {name_of(row): row for row in page if name_of(row) not in rows}
        rows |= new
        if not new or len(rows) >= total or len(page) < HISTORY_PAGE_ROWS:
            return list(rows.values())
