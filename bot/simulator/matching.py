"""The engine: orders against the price path, fills, fees, holds, expiry.

Depth is unlimited: an order that meets the price fills at once. The last price is the path; one may buy one tick
above it and sell one tick below. A resting limit order fills at its own price (as maker) when the path touches it; a
stop or take-profit that the path touches is then a market order.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from decimal import ROUND_HALF_UP, ROUND_UP, Decimal

from bot.simulator.account import ZERO, Account, Order, Trade
from bot.simulator.errors import Refusal
from bot.simulator.fees import tier_at
from bot.simulator.instruments import Catalogue, PairRules
from bot.simulator.prices import PriceSource

WALK_SECONDS = 86400.0
PERCENT = Decimal(100)


def whole(order: Order) -> Decimal:
    """Fill all that is left of an order."""
    return order.remaining


class Matching:
    """Moves along the price path and fills what it meets. `portion` says how much of an order is filled at a time."""

    def __init__(
        self,
        account: Account,
        catalogue: Catalogue,
        prices: PriceSource,
        now: float,
        portion: Callable[[Order], Decimal] = whole,
    ) -> None:
        self.account = account
        self.catalogue = catalogue
        self.prices = prices
        self.now = now
        self.switch_at: float | None = None
        self._portion = portion

    def advance(self, now: float) -> None:
        """Move to `now` and do everything that happens on the way. Time never goes back."""
        while self.now < now:
            if not self.account.open_orders:
                self.now = now
                break
            boundary = min(now, self.now + WALK_SECONDS)
            ends = [order.expires for order in self.account.open_orders.values() if order.expires]
            ends += [] if self.switch_at is None else [self.switch_at]
            boundary = max(self.now, min([boundary, *ends]))
            self._walk(boundary)
            self.now = boundary
            self._end_orders()
        self._end_orders()

    def submit(self, order: Order) -> None:
        """Fill, rest or end a new order. Raises Refusal when there are not enough funds, or a post-only would fill."""
        pair = self.catalogue.get(order.pair_id)
        last = self.prices.price(pair, self.now)
        touch = self._touch(pair, order.is_buy, last)
        if order.kind == "market":
            self._take(order, pair, touch)
        elif order.kind == "limit":
            marketable = order.price >= touch if order.is_buy else order.price <= touch
            self._submit_limit(order, pair, touch if marketable else None)
        else:
            held = self._needed(order, pair, self._touch(pair, order.is_buy, order.price), ROUND_UP)
            self._check_funds(order, held)
            self.account.open(order, held)
            if self._falls(order) == (last <= order.price) or last == order.price:
                self._trigger(order, pair, last, self.now)

    def fill_now(self, order: Order) -> None:
        """Fill all that is left of a resting order at its own price, as if the path had just touched it."""
        pair = self.catalogue.get(order.pair_id)
        if order.kind == "limit":
            self._fill(order, pair, order.price, order.remaining, self.now, maker=True)
        else:
            self._trigger(order, pair, order.price, self.now)

    def needed_to_rest(self, order: Order, pair: PairRules) -> Decimal:
        """Return what a resting order ties up: quote with the taker's fee for a buy, base for a sell."""
        return self._needed(order, pair, order.price, ROUND_UP)

    def _submit_limit(self, order: Order, pair: PairRules, touch: Decimal | None) -> None:
        if touch is not None and "post" in order.flags:
            raise Refusal("EOrder:Post only order")
        if touch is None and order.time_in_force in ("IOC", "FOK"):
            self._check_funds(order, self.needed_to_rest(order, pair))
            self.account.close(order, "canceled", f"{order.time_in_force} order not filled", self.now)
        elif touch is None:
            held = self.needed_to_rest(order, pair)
            self._check_funds(order, held)
            self.account.open(order, held)
        else:
            self._take(order, pair, touch)

    def _take(self, order: Order, pair: PairRules, price: Decimal) -> None:
        """Fill an arriving order as taker; what the portion leaves rests, or ends if it may not."""
        if order.kind == "limit":
            self._check_funds(order, self.needed_to_rest(order, pair))
        self._check_funds(order, self._needed(order, pair, price, ROUND_HALF_UP))
        full = order.kind == "market" or order.time_in_force == "FOK"
        volume = order.remaining if full else self._portion(order)
        self.account.open(order, ZERO)
        self._fill(order, pair, price, volume, self.now, maker=False)
        if order.remaining and order.time_in_force == "IOC":
            self.account.close(order, "canceled", "IOC order not filled", self.now)
        elif order.remaining:
            self._hold_rest(order, pair)

    def _check_funds(self, order: Order, needed: Decimal) -> None:
        if needed > self.account.free(order.spends) + order.held:
            raise Refusal("EOrder:Insufficient funds")

    def _needed(self, order: Order, pair: PairRules, price: Decimal, rounding: str) -> Decimal:
        if not order.is_buy:
            return order.remaining
        cost = (price * order.remaining).quantize(pair.quote.unit, rounding)
        if "fcib" in order.flags:
            return cost
        rate = tier_at(self.account.volume_30_days(self.now)).taker
        return cost + (cost * rate / PERCENT).quantize(pair.quote.unit, rounding)

    @staticmethod
    def _touch(pair: PairRules, is_buy: bool, last: Decimal) -> Decimal:
        return last + pair.tick_size if is_buy else max(pair.tick_size, last - pair.tick_size)

    @staticmethod
    def _falls(order: Order) -> bool:
        """Whether the order acts when the price comes down to it (rather than up)."""
        return order.is_buy == (order.kind in ("limit", "take-profit"))

    def _walk(self, until: float) -> None:
        pairs = {order.pair_id for order in self.account.open_orders.values()}
        at = {pair_id: (self.now, self.prices.price(self.catalogue.get(pair_id), self.now)) for pair_id in pairs}
        steps = heapq.merge(
            *([(when, pair_id, price) for when, price in self._knots(pair_id, until)] for pair_id in sorted(pairs))
        )
        for when, pair_id, price in steps:
            self._segment(pair_id, *at[pair_id], when, price)
            at[pair_id] = (when, price)
            if not self.account.open_orders:
                return

    def _knots(self, pair_id: str, until: float) -> list[tuple[float, Decimal]]:
        return self.prices.knots(self.catalogue.get(pair_id), self.now, until)

    def _segment(self, pair_id: str, begin: float, start: Decimal, end: float, stop: Decimal) -> None:
        """Act on every order that the line from (begin, start) to (end, stop) touches, nearest first."""
        low, high = min(start, stop), max(start, stop)
        touched = [
            order
            for order in self.account.open_orders.values()
            if order.pair_id == pair_id and (low <= order.price if self._falls(order) else order.price <= high)
        ]
        touched.sort(key=lambda order: abs(order.price - start))
        pair = self.catalogue.get(pair_id)
        for order in touched:
            crossed = min(max(order.price, low), high)
            share = (crossed - start) / (stop - start) if stop != start else ZERO
            moment = begin + (end - begin) * float(share)
            if order.kind == "limit":
                self._fill(order, pair, order.price, self._portion(order), moment, maker=True)
            else:
                self._trigger(order, pair, crossed, moment)

    def _trigger(self, order: Order, pair: PairRules, last: Decimal, moment: float) -> None:
        order.misc = "stopped" if order.kind == "stop-loss" else "touched"
        self._fill(order, pair, self._touch(pair, order.is_buy, last), order.remaining, moment, maker=False)

    def _fill(
        self, order: Order, pair: PairRules, price: Decimal, volume: Decimal, moment: float, *, maker: bool
    ) -> None:
        trade = self._trade(order, pair, price, volume, moment, maker)
        if -trade.quote_change > self.account.free(pair.quote.asset_id) + order.held and order.is_buy:
            self.account.close(order, "canceled", "Insufficient funds", moment)
            return
        self.account.fill(order, trade)
        if order.remaining == 0:
            self.account.close(order, "closed", "", moment)
        elif order.held:
            self._hold_rest(order, pair)

    def _hold_rest(self, order: Order, pair: PairRules) -> None:
        """Hold what the rest of an order needs. Cents rounded in its fills never make the free balance negative."""
        self.account.hold(order, min(self.needed_to_rest(order, pair), self.account.free(order.spends) + order.held))

    def _trade(
        self, order: Order, pair: PairRules, price: Decimal, volume: Decimal, moment: float, maker: bool
    ) -> Trade:
        account, tier = self.account, tier_at(self.account.volume_30_days(moment))
        rate = tier.maker if maker else tier.taker
        cost = (price * volume).quantize(pair.quote.unit, ROUND_HALF_UP)
        fee = (cost * rate / PERCENT).quantize(pair.quote.unit, ROUND_HALF_UP)
        base_change, quote_change = (volume, -cost) if order.is_buy else (-volume, cost)
        base_fee = (volume * rate / PERCENT).quantize(pair.base.unit, ROUND_HALF_UP)
        spare = account.free(pair.base.asset_id) + (volume if order.is_buy else order.held - order.remaining)
        # Fee in base is a preference: where the account has no coins beyond those it sells, the quote pays.
        if "fcib" in order.flags and base_fee <= spare:
            base_change -= base_fee
        else:
            quote_change -= fee
        return Trade(
            account.new_id("T"), len(account.trades) + 1, order.txid, order.pair_id, order.side, order.kind, moment,
            price, volume, cost, fee, maker, pair.base.asset_id, pair.quote.asset_id, base_change, quote_change,
        )  # fmt: skip

    def _end_orders(self) -> None:
        for order in list(self.account.open_orders.values()):
            if order.expires and order.expires <= self.now:
                self.account.close(order, "expired", "Order expired", order.expires)
        if self.switch_at is not None and self.switch_at <= self.now:
            self.switch_at = None
            for order in list(self.account.open_orders.values()):
                self.account.close(order, "canceled", "Cancelled by the dead man's switch", self.now)
