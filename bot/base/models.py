"""The data model: frozen values, money as Decimal, times as Unix seconds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from typing import Protocol

from bot.base.errors import SettingsError

ZERO = Decimal(0)


class Side(StrEnum):
    """The side of an order."""

    BUY = "buy"
    SELL = "sell"


class OrderStatus(StrEnum):
    """Kraken's own status words for an order."""

    PENDING = "pending"
    OPEN = "open"
    CLOSED = "closed"
    CANCELED = "canceled"
    EXPIRED = "expired"


OPEN_STATUSES = (OrderStatus.PENDING, OrderStatus.OPEN)


@dataclass(frozen=True, slots=True)
class Pair:
    """One entry of AssetPairs. `symbol` is the bot's name for it, such as BTC/USD."""

    symbol: str
    pair_id: str
    altname: str
    wsname: str
    base: str
    quote: str
    base_id: str
    quote_id: str
    price_decimals: int
    lot_decimals: int
    cost_decimals: int
    tick_size: Decimal
    order_minimum: Decimal
    cost_minimum: Decimal


class Priced(Protocol):
    """Something with a price in a quote currency."""

    @property
    def quote(self) -> str:
        """The quote currency."""


def common_quote(pairs: Iterable[Priced]) -> str:
    """Return the one quote currency of these pairs. Raises SettingsError where they have several."""
    quotes = sorted({pair.quote for pair in pairs})
    if len(quotes) != 1:
        raise SettingsError([f"PAIRS has to have one quote currency for its limits and sums, not {', '.join(quotes)}."])
    return quotes[0]


@dataclass(frozen=True, slots=True)
class Candle:
    """One OHLC candle; `time_seconds` is its start."""

    time_seconds: int
    open: Decimal
    high: Decimal
    low: Decimal
    close: Decimal
    volume: Decimal


@dataclass(frozen=True, slots=True)
class Balance:
    """The account's balance of one asset; `held` is reserved for open orders."""

    asset: str
    total: Decimal
    held: Decimal

    @property
    def free(self) -> Decimal:
        """Return the amount that an order could use now."""
        return self.total - self.held


def swept_asset(asset: str) -> str:
    """Return the name of the row to which auto-earn moves an asset: BTC.F (Kraken: BalanceEx page).

    An order for the asset itself can sell what is there (Kraken: Balance page).
    """
    return f"{asset}.F"


def total_with_swept(balances: Mapping[str, Balance], asset: str) -> Decimal:
    """Return what the account has of an asset, with what auto-earn has moved."""
    return sum((balances[name].total for name in (asset, swept_asset(asset)) if name in balances), ZERO)


@dataclass(frozen=True, slots=True)
class Position:
    """A coin that the account holds; `symbol` is its pair with USD, "" where Kraken has none (BTC.F, KFEE)."""

    symbol: str
    asset: str
    quantity: Decimal


@dataclass(frozen=True, slots=True)
class Order:
    """An order as Kraken reports it.

    `price` is the order's own limit or trigger price (zero for market orders), `average_price` that of its fills (zero
    without one). `cl_ord_id` is "" for orders placed without one.
    """

    txid: str
    cl_ord_id: str
    symbol: str
    side: Side
    kind: str
    status: OrderStatus
    price: Decimal
    volume: Decimal
    executed: Decimal
    cost: Decimal
    fee: Decimal
    average_price: Decimal
    opened_seconds: float
    closed_seconds: float
    expires_seconds: float
    reason: str

    def bounded_average(self, average_price: Decimal) -> Decimal:
        """Return an average price of fills of this order that is no worse than its limit.

        A cost is rounded, so its quotient with the volume can be worse than every price that was paid.
        """
        if self.kind != "limit" or not self.price or not average_price:
            return average_price
        return min(average_price, self.price) if self.side is Side.BUY else max(average_price, self.price)

    @property
    def is_open(self) -> bool:
        """Whether the order may still fill."""
        return self.status in OPEN_STATUSES


@dataclass(frozen=True, slots=True)
class Fill:
    """One entry of TradesHistory."""

    trade_id: str
    order_txid: str
    symbol: str
    side: Side
    price: Decimal
    volume: Decimal
    cost: Decimal
    fee: Decimal
    time_seconds: float


@dataclass(frozen=True, slots=True)
class PlacedOrder:
    """An order that Kraken has accepted. Accepted is not filled."""

    txid: str
    cl_ord_id: str
    symbol: str
    side: Side
    volume: Decimal
    price: Decimal


@dataclass(frozen=True, slots=True)
class KeyInfo:
    """GetApiKeyInfo: what Kraken knows of the key. The key itself is left out on purpose.

    Times are Unix seconds; zero stands for no limit. `modified_seconds` is None where Kraken does not tell it. An empty
    `ip_allowlist` allows every address.
    """

    name: str
    nonce: int
    nonce_window: int
    permissions: frozenset[str]
    valid_until_seconds: float = 0.0
    query_from_seconds: float = 0.0
    query_to_seconds: float = 0.0
    modified_seconds: float | None = None
    ip_allowlist: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SystemStatus:
    """SystemStatus, and the time of the request (Unix seconds of the market's clock)."""

    status: str
    checked_seconds: float


@dataclass(frozen=True, slots=True)
class OrderRequest:
    """An order that a strategy requests.

    `quantity` is in base units; `price` is a limit price, or None for a market order. `kind` is "entry", "exit" or
    "stop"; `candle_seconds` is the candle that gave the signal, for a stop the opening time of the latest buy order
    that it protects.
    """

    symbol: str
    side: Side
    quantity: Decimal
    price: Decimal | None
    kind: str
    candle_seconds: int
    reason: str
