"""Position and P&L of the bot, built from its own order records and nothing else.

Pure: the same records give the same book on any host and after any crash, so no file keeps it. Fees are taken to be in
the quote currency, as Kraken states them in order records.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Protocol

from bot.base.errors import SymbolError
from bot.base.models import ZERO, Balance, Order, Pair, Side, total_with_swept

DAY_SECONDS = 86_400

# A share of a cost is rounded to this grid, so that every later sum stays within Decimal's 28 digits and exact.
_SHARE_QUANTUM = Decimal("1e-10")
_NOT_CLOSED_SECONDS = float("inf")


@dataclass(frozen=True, slots=True)
class Holding:
    """Coins of one pair that the bot bought and has not sold.

    `cost` is their cost without fees and `fees` the fees on top, both in the quote currency. `entry_seconds` is the
    time at which the latest buy order was opened.
    """

    symbol: str
    quantity: Decimal
    cost: Decimal
    fees: Decimal
    entry_seconds: float

    @property
    def average_price(self) -> Decimal:
        """The average cost of one coin, without fees; zero without a position."""
        return self.cost / self.quantity if self.quantity else ZERO


@dataclass(frozen=True, slots=True)
class RealisedPnl:
    """The realised P&L of one selling order (negative: a loss), net of the fees of both legs, in the quote currency."""

    symbol: str
    time_seconds: float
    amount: Decimal


@dataclass(frozen=True, slots=True)
class PositionBook:
    """The result: holdings by symbol, and every realised P&L, oldest first."""

    holdings: Mapping[str, Holding]
    realised: tuple[RealisedPnl, ...]

    def holding(self, symbol: str) -> Holding:
        """Return the holding of a pair; an empty one where there is none."""
        return self.holdings.get(symbol) or Holding(symbol, ZERO, ZERO, ZERO, 0.0)

    def realised_total(self) -> Decimal:
        """Return the sum of all realised P&L."""
        return sum((pnl.amount for pnl in self.realised), ZERO)

    def realised_loss_today(self, now_seconds: float) -> Decimal:
        """Return the net realised loss since the last UTC midnight, as a positive amount; zero after a net gain."""
        midnight_seconds = now_seconds // DAY_SECONDS * DAY_SECONDS
        amounts_today = (pnl.amount for pnl in self.realised if pnl.time_seconds >= midnight_seconds)
        return max(ZERO, -sum(amounts_today, ZERO))

    def last_loss_seconds(self) -> float | None:
        """Return the time of the latest losing exit, or None if there was none."""
        return max((pnl.time_seconds for pnl in self.realised if pnl.amount < 0), default=None)

    def last_loss_symbol(self) -> str:
        """Return the pair of the latest losing exit, or "" if there was none."""
        losses = [pnl for pnl in self.realised if pnl.amount < 0]
        return max(losses, key=lambda pnl: pnl.time_seconds).symbol if losses else ""


class PairLookup(Protocol):
    """Knows the pairs, as a broker does."""

    def pair(self, symbol: str) -> Pair:
        """Return the rules of a pair. Raises SymbolError."""


@dataclass(frozen=True, slots=True)
class OpenPair:
    """What the bot has in a pair: a holding, which may be empty, open orders, and accepted ones in no list yet."""

    holding: Holding
    open_orders: tuple[Order, ...]
    unlisted_txids: tuple[str, ...] = ()

    def event_fields(self) -> dict[str, Any]:
        """Return the fields of an event that reports it."""
        held = self.holding.quantity
        return {
            "symbol": self.holding.symbol,
            "volume": held or None,
            "price": self.holding.average_price if held else None,
            "orders": [
                *map(describe_open_order, self.open_orders),
                *(f"accepted and not listed yet ({txid})" for txid in self.unlisted_txids),
            ],
        }


def describe_open_order(order: Order) -> str:
    """Describe an open order in a few words."""
    kind = "stop " if order.kind.startswith("stop") else ""
    return f"{kind}{order.side} {order.volume - order.executed:f} at {order.price:f} ({order.txid})"


def find_open_pairs(
    book: PositionBook,
    open_orders: Iterable[Order],
    except_symbols: Iterable[str] = (),
    unlisted: Mapping[str, str] | None = None,
) -> list[OpenPair]:
    """Return what the bot has in each pair but these, by symbol.

    `open_orders` are its own; `unlisted` are the pairs of its accepted orders that are in no list yet, by txid.
    """
    orders, unlisted = tuple(open_orders), unlisted or {}
    symbols = {*book.holdings, *(order.symbol for order in orders), *unlisted.values()} - set(except_symbols)
    return [
        OpenPair(
            book.holding(symbol),
            tuple(order for order in orders if order.symbol == symbol),
            tuple(txid for txid, unlisted_symbol in unlisted.items() if unlisted_symbol == symbol),
        )
        for symbol in sorted(symbols)
    ]


def without_rests(
    pairs: Iterable[OpenPair], broker: PairLookup, balances: Mapping[str, Balance] | None
) -> list[OpenPair]:
    """Leave out the pairs that have nothing to look after: no order, and too little to sell, or sold by hand since.

    `balances`: None where they are unknown.
    """
    return [
        pair
        for pair in pairs
        if pair.open_orders or pair.unlisted_txids or not _is_rest(pair.holding, broker, balances)
    ]


def _is_rest(holding: Holding, broker: PairLookup, balances: Mapping[str, Balance] | None) -> bool:
    try:
        pair = broker.pair(holding.symbol)
    except SymbolError:
        # Kraken lists it no more. What is left there is for a person to see.
        return False
    if balances is None:
        return holding.quantity < pair.order_minimum
    return min(holding.quantity, total_with_swept(balances, pair.base)) < pair.order_minimum


def build_positions(orders: Iterable[Order]) -> PositionBook:
    """Build the book from the bot's own order records, in any order and with any status.

    Canceled and expired orders count with what they executed. A sale of more than was bought (coins that are not the
    bot's) counts only up to what was bought.
    """
    holdings: dict[str, Holding] = {}
    realised: list[RealisedPnl] = []
    for order in sorted((candidate for candidate in orders if candidate.executed > 0), key=_sort_key):
        holding = holdings.get(order.symbol) or Holding(order.symbol, ZERO, ZERO, ZERO, 0.0)
        if order.side is Side.BUY:
            holdings[order.symbol] = _after_buy(holding, order)
        elif holding.quantity > 0:
            holdings[order.symbol], pnl = _after_sell(holding, order)
            realised.append(pnl)
    return PositionBook(
        {symbol: holding for symbol, holding in holdings.items() if holding.quantity > 0}, tuple(realised)
    )


def _sort_key(order: Order) -> tuple[float, float, str]:
    # A buy may continue to fill after a stop has sold its first coins, so it counts from its opening time; an open exit
    # may sell on, so it comes last.
    sort_seconds = order.opened_seconds if order.side is Side.BUY else order.closed_seconds or _NOT_CLOSED_SECONDS
    return (sort_seconds, order.opened_seconds, order.txid)


def _after_buy(holding: Holding, order: Order) -> Holding:
    return Holding(
        symbol=holding.symbol,
        quantity=holding.quantity + order.executed,
        cost=holding.cost + order.cost,
        fees=holding.fees + order.fee,
        entry_seconds=order.opened_seconds,
    )


def _after_sell(holding: Holding, order: Order) -> tuple[Holding, RealisedPnl]:
    sold = min(order.executed, holding.quantity)
    cost = _share(holding.cost, sold, holding.quantity)
    fees = _share(holding.fees, sold, holding.quantity)
    proceeds = _share(order.cost - order.fee, sold, order.executed)
    remaining = Holding(
        holding.symbol, holding.quantity - sold, holding.cost - cost, holding.fees - fees, holding.entry_seconds
    )
    time_seconds = order.closed_seconds or order.opened_seconds
    return remaining, RealisedPnl(holding.symbol, time_seconds, proceeds - cost - fees)


def _share(amount: Decimal, part: Decimal, total: Decimal) -> Decimal:
    return amount if part == total else (amount * part / total).quantize(_SHARE_QUANTUM)
