"""How the exchange behaves where the simulator can be told to deviate; the deviations are in `faults.py`."""

from __future__ import annotations

from decimal import Decimal

from bot.simulator import orders
from bot.simulator.account import SimOrder


class ExchangeBehavior:
    """The behavior of a faithful exchange."""

    def fill_volume(self, order: SimOrder) -> Decimal:
        """Return how much of an order is filled at a time: all of the rest."""
        return order.remaining

    def server_time(self, now: float) -> float:
        """Return the time of the exchange's own clock, which Time shows and deadlines are compared with."""
        return now

    def check_deadline(self, params: orders.Params, server_time: float) -> None:
        """Raise Refusal when the order's deadline has passed or is invalid."""
        orders.check_deadline(params, server_time)

    def is_open_order_visible(self, order: SimOrder, now: float) -> bool:
        """Tell whether OpenOrders shows an open order."""
        return True

    def is_closed_order_visible(self, order: SimOrder, now: float) -> bool:
        """Tell whether ClosedOrders shows a closed order."""
        return True


FAITHFUL = ExchangeBehavior()
