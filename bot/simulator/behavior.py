"""How the exchange behaves where the simulator can be told to deviate; by default it is faithful."""

from __future__ import annotations

import random
from decimal import Decimal

from bot.simulator import orders
from bot.simulator.account import SimOrder
from bot.simulator.faults import FaultInjector
from bot.simulator.options import SimulatorOptions


class ExchangeBehavior:
    """The behavior that the options describe: partial fills, query lag, and the clock and enforcement of deadlines.

    An order that closes leaves OpenOrders at once, so for a while it may be in neither query. Each order has its own
    lags, which depend on the seed and on the order's id (the client order id, if there is one) alone: they are the same
    after a restart.
    """

    def __init__(self, options: SimulatorOptions | None = None, injector: FaultInjector | None = None) -> None:
        self._options = options or SimulatorOptions()
        self._injector = injector or FaultInjector()

    def fill_volume(self, order: SimOrder) -> Decimal:
        """Return how much of an order is filled at a time: all of the rest, or half of it by fault."""
        return self._injector.fill_volume(order)

    def server_time(self, now: float) -> float:
        """Return the time of the exchange's own clock, which Time shows and deadlines are compared with."""
        return now + self._options.clock_offset_seconds

    def check_deadline(self, params: orders.Params, server_time: float) -> None:
        """Raise Refusal when the order's deadline has passed or is invalid, unless deadlines are not enforced."""
        if self._options.enforce_deadline:
            orders.check_deadline(params, server_time)

    def is_open_order_visible(self, order: SimOrder, now: float) -> bool:
        """Tell whether OpenOrders shows an open order yet."""
        return now >= order.opened + self._lag_seconds(order, "open", self._options.open_lag_seconds)

    def is_closed_order_visible(self, order: SimOrder, now: float) -> bool:
        """Tell whether ClosedOrders shows a closed order yet."""
        return now >= order.closed + self._lag_seconds(order, "closed", self._options.closed_lag_seconds)

    def _lag_seconds(self, order: SimOrder, query: str, max_seconds: float) -> float:
        if not max_seconds:
            return 0.0
        return random.Random(f"{self._options.seed} {query} {order.cl_ord_id or order.txid}").uniform(0.0, max_seconds)


FAITHFUL = ExchangeBehavior()
