"""What the bot holds and has earned, folded from its own order rows and nothing else.

Pure: the same rows give the same book on any host and after any crash, so nothing of it is kept
in a file. Fees are taken to be in the quote currency, as Kraken states them in order rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal

from bot.base.models import ZERO, Order, Side

DAY_SECONDS = 86_400

# A share of a cost is cut to this grid, so that every later sum stays within Decimal's 28 digits and exact.
_SHARE_GRID = Decimal("1e-10")
_UNFINISHED = float("inf")


@dataclass(frozen=True, slots=True)
class Holding:
    """Coins of one pair that the bot bought and has not sold.

    `cost` is what they cost without fees and `fees` what was paid on top, both in the quote
    currency. `entry_seconds` is when the latest buy order was opened.
    """

    symbol: str
    quantity: Decimal
    cost: Decimal
    fees: Decimal
    entry_seconds: float

    @property
    def average_price(self) -> Decimal:
        """What one coin cost on average, without fees; zero with nothing held."""
        return self.cost / self.quantity if self.quantity else ZERO


@dataclass(frozen=True, slots=True)
class RealisedProfit:
    """What one selling order earned (negative: lost), net of the fees of both legs, in the quote currency."""

    symbol: str
    time_seconds: float
    amount: Decimal


@dataclass(frozen=True, slots=True)
class Book:
    """The result of the fold: holdings by symbol, and every realised profit, oldest first."""

    holdings: Mapping[str, Holding]
    realised: tuple[RealisedProfit, ...]

    def holding(self, symbol: str) -> Holding:
        """Return what is held of a pair; an empty holding where there is none."""
        return self.holdings.get(symbol) or Holding(symbol, ZERO, ZERO, ZERO, 0.0)

    def realised_total(self) -> Decimal:
        """Return the sum of all realised profits."""
        return sum((profit.amount for profit in self.realised), ZERO)

    def day_loss(self, now_seconds: float) -> Decimal:
        """Return the net realised loss since the last UTC midnight, as a positive amount; zero after a net gain."""
        midnight = now_seconds // DAY_SECONDS * DAY_SECONDS
        today = (profit.amount for profit in self.realised if profit.time_seconds >= midnight)
        return max(ZERO, -sum(today, ZERO))

    def last_loss_seconds(self) -> float | None:
        """Return when the latest losing exit was, or None if there was none."""
        return max((profit.time_seconds for profit in self.realised if profit.amount < 0), default=None)


EMPTY_BOOK = Book({}, ())


def fold(orders: Iterable[Order]) -> Book:
    """Fold the bot's own order rows, in any order and of any status, into a book.

    Canceled and expired rows count with what they executed. Selling more than was bought (coins
    that are not the bot's) counts only up to what was bought.
    """
    holdings: dict[str, Holding] = {}
    realised: list[RealisedProfit] = []
    for order in sorted((row for row in orders if row.executed > 0), key=_when):
        held = holdings.get(order.symbol) or Holding(order.symbol, ZERO, ZERO, ZERO, 0.0)
        if order.side is Side.BUY:
            holdings[order.symbol] = _after_buy(held, order)
        elif held.quantity > 0:
            holdings[order.symbol], profit = _after_sell(held, order)
            realised.append(profit)
    return Book({symbol: held for symbol, held in holdings.items() if held.quantity > 0}, tuple(realised))


def _when(order: Order) -> tuple[float, float, str]:
    # A buy may fill on after its first coins have been sold by their stop, so it counts from when it was opened; an
    # exit that is still open may sell on, so it comes last.
    moment = order.opened_seconds if order.side is Side.BUY else order.closed_seconds or _UNFINISHED
    return (moment, order.opened_seconds, order.txid)


def _after_buy(held: Holding, order: Order) -> Holding:
    return Holding(
        symbol=held.symbol,
        quantity=held.quantity + order.executed,
        cost=held.cost + order.cost,
        fees=held.fees + order.fee,
        entry_seconds=order.opened_seconds,
    )


def _after_sell(held: Holding, order: Order) -> tuple[Holding, RealisedProfit]:
    sold = min(order.executed, held.quantity)
    cost = _share(held.cost, sold, held.quantity)
    fees = _share(held.fees, sold, held.quantity)
    proceeds = _share(order.cost - order.fee, sold, order.executed)
    left = Holding(held.symbol, held.quantity - sold, held.cost - cost, held.fees - fees, held.entry_seconds)
    time_seconds = order.closed_seconds or order.opened_seconds
    return left, RealisedProfit(held.symbol, time_seconds, proceeds - cost - fees)


def _share(amount: Decimal, part: Decimal, whole: Decimal) -> Decimal:
    return amount if part == whole else (amount * part / whole).quantize(_SHARE_GRID)
