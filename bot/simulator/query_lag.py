"""The lag of order queries behind the engine: OpenOrders and ClosedOrders, each order with a lag of its own."""

from __future__ import annotations

import random

from bot.simulator.account import SimOrder
from bot.simulator.options import SimulatorOptions


class QueryLag:
    """Decides which orders a query does not show yet.

    An order that closes leaves OpenOrders at once, so for a while it may be in neither answer. A lag depends on the
    seed and on the order's id (the client order id, if there is one) alone: it is the same after a restart.
    """

    def __init__(self, options: SimulatorOptions) -> None:
        self._seed = options.seed
        self._open_seconds = options.open_lag_seconds
        self._closed_seconds = options.closed_lag_seconds

    def hides_open(self, order: SimOrder, now: float) -> bool:
        """Tell whether OpenOrders does not show an order yet."""
        return now < order.opened + self._lag_seconds(order, "open", self._open_seconds)

    def hides_closed(self, order: SimOrder, now: float) -> bool:
        """Tell whether ClosedOrders does not show an order yet."""
        return now < order.closed + self._lag_seconds(order, "closed", self._closed_seconds)

    def _lag_seconds(self, order: SimOrder, query: str, max_seconds: float) -> float:
        if not max_seconds:
            return 0.0
        return random.Random(f"{self._seed} {query} {order.cl_ord_id or order.txid}").uniform(0.0, max_seconds)
