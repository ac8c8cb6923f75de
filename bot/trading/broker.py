"""The protocol between the trader and a broker, which `KrakenBroker` implements."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Literal, Protocol

from bot.base.models import Balance, Candle, Fill, Order, Pair, PlacedOrder, Side, SystemStatus
from bot.orders.journal import Journal
from bot.orders.reconciliation import Resolution, UnknownOrder


class Broker(Protocol):
    """The methods of a broker that the trader uses. Times are Unix seconds of the market."""

    @property
    def refused_nonces(self) -> int:
        """The number of requests that were refused for their nonce since the start."""

    @property
    def journal(self) -> Journal:
        """The journal that records the orders."""

    @property
    def bot_id(self) -> str:
        """The prefix of the `cl_ord_id` of every order of this bot."""

    def now(self) -> float:
        """Return the market's time."""

    def has_room(self, points: float) -> bool:
        """Tell whether so many points fit on the key's REST counter now, so that their calls would not wait."""

    def pair(self, symbol: str) -> Pair:
        """Return the rules of a pair. Raises SymbolError."""

    def system_status(self) -> SystemStatus:
        """Return the status of the exchange."""

    def pair_status(self, symbol: str) -> str:
        """Return the status of one pair."""

    def get_candles(self, symbol: str, timeframe: str, count: int) -> list[Candle]:
        """Return the latest closed candles, oldest first."""

    def get_current_price(self, symbol: str) -> Decimal:
        """Return the last price."""

    def get_best_bid(self, symbol: str) -> Decimal:
        """Return the book's best price for a sale."""

    def get_account_balance(self) -> dict[str, Balance]:
        """Return the balances by asset name."""

    def get_open_orders(self) -> list[Order]:
        """Return the open orders of the whole account."""

    def get_closed_orders(self, since_seconds: float = 0) -> list[Order]:
        """Return the orders of the whole account that are no longer open."""

    def query_order(self, txid: str) -> Order | None:
        """Return an order by its id; None where Kraken says that there is none."""

    def get_trades_page(self, since_seconds: float, offset: int) -> tuple[list[Fill], int]:
        """Return a page of the account's fills, newest first, and the total number of fills."""

    def is_own_order(self, order: Order) -> bool:
        """Tell whether an order is this bot's."""

    def client_order_id(self, symbol: str, strategy: str, candle_seconds: int, kind: str, attempt: int = 0) -> str:
        """Return the client order id of an order: the same arguments give the same id, on every host."""

    def place_limit_order(
        self,
        symbol: str,
        side: Side,
        quantity: Decimal,
        price: Decimal,
        *,
        cl_ord_id: str = "",
        expire_seconds: int | None = None,
    ) -> PlacedOrder:
        """Send a limit order that expires `expire_seconds` from now."""

    def place_market_order(
        self, symbol: str, side: Side, quantity: Decimal, size_type: Literal["base", "quote"], *, cl_ord_id: str = ""
    ) -> PlacedOrder:
        """Send an order that fills now or not at all, within the broker's maximum slippage."""

    def place_stop_order(
        self, symbol: str, side: Side, quantity: Decimal, stop_price: Decimal, *, cl_ord_id: str = ""
    ) -> PlacedOrder:
        """Send a stop that rests at Kraken, also while the bot is gone."""

    def cancel_order(self, txid: str, symbol: str | None = None) -> bool:
        """Cancel one order; False if it was already gone."""

    def arm_dead_man_switch(self, timeout_seconds: int) -> None:
        """Let the exchange cancel every order of the account after so many seconds, unless armed again; 0: never."""

    def unknown_orders(self) -> Sequence[UnknownOrder]:
        """Return the orders whose outcome is unknown."""

    def history_wait_seconds(self) -> float:
        """Return the minimum time for which orders of an earlier run may still appear."""

    def check_leadership(self) -> None:
        """Raise LeaseLostError or StoreUnavailableError where another instance may lead the account by now."""

    def reconcile_unknown_orders(self) -> Sequence[Resolution]:
        """Query the unknown orders, if it is time to; return those whose outcome is now known."""

    def history_is_complete(self) -> bool:
        """Tell whether the journal has every order of this bot; `reconcile_unknown_orders` finds missing ones."""

    def next_query_seconds(self) -> float | None:
        """Return in how many seconds `reconcile_unknown_orders` has something to query; None where no order is
        unknown."""
