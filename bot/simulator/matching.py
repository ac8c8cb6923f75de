"""The matching engine: orders against the price path, fills, fees, holds, expiry.

Depth is unlimited: an order that meets the price fills at once. The last price is the path; a buyer pays one tick above
it and a seller gets one tick below. A resting limit order fills at its own price (as maker) when the path touches it; a
stop or take-profit that the path touches becomes a market order.

An order never trades with a resting order of the same account (self-trade prevention). By default the one that arrives,
or triggers, is canceled; its `stptype` may have the resting one canceled, or both (Kraken: AddOrder page).
"""

from __future__ import annotations

from decimal import ROUND_HALF_UP, ROUND_UP, Decimal

from bot.simulator.account import ZERO, Account, SimOrder, SimTrade
from bot.simulator.errors import Refusal
from bot.simulator.faults import ExchangeBehavior
from bot.simulator.fees import fee_tier_at
from bot.simulator.instruments import Instruments, PairRules
from bot.simulator.prices import PriceSource

MAX_STEP_SECONDS = 86400.0
PERCENT = Decimal(100)
# Kraken does not publish its own text.
SELF_TRADE_REASON = "Self trade prevention"


class MatchingEngine:
    """Moves along the price path and fills the orders it meets."""

    def __init__(
        self,
        account: Account,
        instruments: Instruments,
        prices: PriceSource,
        now: float,
        behavior: ExchangeBehavior,
    ) -> None:
        self.account = account
        self.instruments = instruments
        self.prices = prices
        self.now = now
        self.dead_man_switch_at: float | None = None
        self._behavior = behavior

    def advance(self, now: float) -> None:
        """Move to `now` and process everything on the way. Time never goes back."""
        while self.now < now:
            if not self.account.open_orders:
                self.now = now
                break
            boundary = min(now, self.now + MAX_STEP_SECONDS)
            end_times = [order.expires for order in self.account.open_orders.values() if order.expires]
            end_times += [] if self.dead_man_switch_at is None else [self.dead_man_switch_at]
            boundary = max(self.now, min([boundary, *end_times]))
            self._follow_price_path(boundary)
            self.now = boundary
            self._end_due_orders()
        self._end_due_orders()

    def submit(self, order: SimOrder) -> None:
        """Fill, rest or end a new order. Raises Refusal when there are not enough funds, or a post-only order would
        fill."""
        pair = self.instruments.get(order.pair_id)
        last = self.prices.price(pair, self.now)
        touch = self._touch(pair, order.is_buy, last)
        if order.kind == "market":
            self._check_funds(order, self._required_funds(order, pair, touch, ROUND_HALF_UP))
            if not self._prevent_self_trade(order, touch, self.now):
                self._fill_as_taker(order, pair, touch)
        elif order.kind == "limit":
            marketable = order.price >= touch if order.is_buy else order.price <= touch
            self._submit_limit(order, pair, touch if marketable else None)
        else:
            required = self._required_funds(order, pair, self._touch(pair, order.is_buy, order.price), ROUND_UP)
            self._check_funds(order, required)
            self.account.open_order(order, required)
            if self._triggers_on_fall(order) == (last <= order.price) or last == order.price:
                self._trigger(order, pair, last, self.now)

    def fill_now(self, order: SimOrder) -> None:
        """Fill the rest of a resting order at its own price, as if the path had just touched it."""
        pair = self.instruments.get(order.pair_id)
        if order.kind == "limit":
            self._fill(order, pair, order.price, order.remaining, self.now, maker=True)
        else:
            self._trigger(order, pair, order.price, self.now)

    def required_hold(self, order: SimOrder, pair: PairRules) -> Decimal:
        """Return the hold of a resting order: quote with the taker's fee for a buy, base for a sell."""
        return self._required_funds(order, pair, order.price, ROUND_UP)

    def _submit_limit(self, order: SimOrder, pair: PairRules, touch: Decimal | None) -> None:
        if touch is not None and "post" in order.flags:
            raise Refusal("EOrder:Post only order")
        required = self.required_hold(order, pair)
        self._check_funds(order, required)
        if self._prevent_self_trade(order, order.price if touch is None else touch, self.now):
            return
        if touch is not None:
            self._fill_as_taker(order, pair, touch)
        elif order.time_in_force in ("IOC", "FOK"):
            self.account.close_order(order, "canceled", f"{order.time_in_force} order not filled", self.now)
        else:
            self.account.open_order(order, required)

    def _prevent_self_trade(self, order: SimOrder, price: Decimal, timestamp: float) -> bool:
        """Cancel what `stptype` says where the order would trade at `price` with one of the account; return whether the
        order itself is canceled."""
        met_orders = [
            other
            for other in self.account.open_orders.values()
            if (other.pair_id, other.kind) == (order.pair_id, "limit")
            and other.is_buy != order.is_buy
            and (other.price <= price if order.is_buy else other.price >= price)
        ]
        if not met_orders:
            return False
        if order.stptype in ("cancel-oldest", "cancel-both"):
            for other in met_orders:
                self.account.close_order(other, "canceled", SELF_TRADE_REASON, timestamp)
        if order.stptype == "cancel-oldest":
            return False
        self.account.close_order(order, "canceled", SELF_TRADE_REASON, timestamp)
        return True

    def _fill_as_taker(self, order: SimOrder, pair: PairRules, price: Decimal) -> None:
        """Fill an arriving order as taker; the unfilled rest becomes a resting order, or ends if it may not rest."""
        self._check_funds(order, self._required_funds(order, pair, price, ROUND_HALF_UP))
        is_full_fill = order.kind == "market" or order.time_in_force == "FOK"
        volume = order.remaining if is_full_fill else self._behavior.fill_volume(order)
        self.account.open_order(order, ZERO)
        self._fill(order, pair, price, volume, self.now, maker=False)
        if order.remaining and order.time_in_force == "IOC":
            self.account.close_order(order, "canceled", "IOC order not filled", self.now)
        elif order.remaining:
            self._hold_remainder(order, pair)

    def _check_funds(self, order: SimOrder, required: Decimal) -> None:
        if required > self.account.free_balance(order.spends) + order.held:
            raise Refusal("EOrder:Insufficient funds")

    def _required_funds(self, order: SimOrder, pair: PairRules, price: Decimal, rounding: str) -> Decimal:
        if not order.is_buy:
            return order.remaining
        cost = (price * order.remaining).quantize(pair.quote.smallest_unit, rounding)
        if "fcib" in order.flags:
            return cost
        rate = fee_tier_at(self.account.volume_30_days(self.now)).taker
        return cost + (cost * rate / PERCENT).quantize(pair.quote.smallest_unit, rounding)

    @staticmethod
    def _touch(pair: PairRules, is_buy: bool, last: Decimal) -> Decimal:
        return last + pair.tick_size if is_buy else max(pair.tick_size, last - pair.tick_size)

    @staticmethod
    def _triggers_on_fall(order: SimOrder) -> bool:
        """Tell whether the order acts when the price falls to it (rather than rises)."""
        return order.is_buy == (order.kind in ("limit", "take-profit"))

    def _follow_price_path(self, until: float) -> None:
        pairs = {order.pair_id for order in self.account.open_orders.values()}
        last_points = {
            pair_id: (self.now, self.prices.price(self.instruments.get(pair_id), self.now)) for pair_id in pairs
        }
        points = sorted(
            (timestamp, pair_id, price)
            for pair_id in pairs
            for timestamp, price in self.prices.price_points(self.instruments.get(pair_id), self.now, until)
        )
        for timestamp, pair_id, price in points:
            self._match_segment(pair_id, *last_points[pair_id], timestamp, price)
            last_points[pair_id] = (timestamp, price)
            if not self.account.open_orders:
                return

    def _match_segment(
        self, pair_id: str, start_time: float, start_price: Decimal, end_time: float, end_price: Decimal
    ) -> None:
        """Act on every order that the line from start to end touches, nearest first."""
        low, high = min(start_price, end_price), max(start_price, end_price)
        touched_orders = [
            order
            for order in self.account.open_orders.values()
            if order.pair_id == pair_id
            and (low <= order.price if self._triggers_on_fall(order) else order.price <= high)
        ]
        touched_orders.sort(key=lambda order: abs(order.price - start_price))
        pair = self.instruments.get(pair_id)
        for order in touched_orders:
            if order.txid not in self.account.open_orders:
                continue  # canceled by a stop before it
            crossing_price = min(max(order.price, low), high)
            fraction = (crossing_price - start_price) / (end_price - start_price) if end_price != start_price else ZERO
            timestamp = start_time + (end_time - start_time) * float(fraction)
            if order.kind == "limit":
                self._fill(order, pair, order.price, self._behavior.fill_volume(order), timestamp, maker=True)
            else:
                self._trigger(order, pair, crossing_price, timestamp)

    def _trigger(self, order: SimOrder, pair: PairRules, last: Decimal, timestamp: float) -> None:
        order.misc = "stopped" if order.kind == "stop-loss" else "touched"
        price = self._touch(pair, order.is_buy, last)
        if not self._prevent_self_trade(order, price, timestamp):
            self._fill(order, pair, price, order.remaining, timestamp, maker=False)

    def _fill(
        self, order: SimOrder, pair: PairRules, price: Decimal, volume: Decimal, timestamp: float, *, maker: bool
    ) -> None:
        trade = self._build_trade(order, pair, price, volume, timestamp, maker)
        if -trade.quote_change > self.account.free_balance(pair.quote.asset_id) + order.held and order.is_buy:
            self.account.close_order(order, "canceled", "Insufficient funds", timestamp)
            return
        self.account.record_fill(order, trade)
        if order.remaining == 0:
            self.account.close_order(order, "closed", "", timestamp)
        elif order.held:
            self._hold_remainder(order, pair)

    def _hold_remainder(self, order: SimOrder, pair: PairRules) -> None:
        """Hold what the rest of an order needs. Rounding in its fills never makes the free balance negative."""
        self.account.set_hold(
            order, min(self.required_hold(order, pair), self.account.free_balance(order.spends) + order.held)
        )

    def _build_trade(
        self, order: SimOrder, pair: PairRules, price: Decimal, volume: Decimal, timestamp: float, maker: bool
    ) -> SimTrade:
        account, tier = self.account, fee_tier_at(self.account.volume_30_days(timestamp))
        rate = tier.maker if maker else tier.taker
        cost = (price * volume).quantize(pair.quote.smallest_unit, ROUND_HALF_UP)
        fee = (cost * rate / PERCENT).quantize(pair.quote.smallest_unit, ROUND_HALF_UP)
        base_change, quote_change = (volume, -cost) if order.is_buy else (-volume, cost)
        base_fee = (volume * rate / PERCENT).quantize(pair.base.smallest_unit, ROUND_HALF_UP)
        spare_base = account.free_balance(pair.base.asset_id) + (
            volume if order.is_buy else order.held - order.remaining
        )
        # Fee in base is a preference: where the account has no coins beyond the sold ones, the quote pays.
        if "fcib" in order.flags and base_fee <= spare_base:
            base_change -= base_fee
        else:
            quote_change -= fee
        return SimTrade(
            account.new_id("T"), len(account.trades) + 1, order.txid, order.pair_id, order.side, order.kind, timestamp,
            price, volume, cost, fee, maker, pair.base.asset_id, pair.quote.asset_id, base_change, quote_change,
        )  # fmt: skip

    def _end_due_orders(self) -> None:
        for order in list(self.account.open_orders.values()):
            if order.expires and order.expires <= self.now:
                self.account.close_order(order, "expired", "Order expired", order.expires)
        if self.dead_man_switch_at is not None and self.dead_man_switch_at <= self.now:
            self.dead_man_switch_at = None
            for order in list(self.account.open_orders.values()):
                self.account.close_order(order, "canceled", "Cancelled by the dead man's switch", self.now)
