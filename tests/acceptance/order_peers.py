"""Clients that send an order and settle it by rules that leave something out; each is one line of tests/model."""

from __future__ import annotations

import threading
from collections.abc import Callable
from decimal import Decimal

import requests

from bot.base.clock import format_rfc3339
from bot.simulator.server import Simulator
from tests.simulator_parts import START, KrakenexClient

SIGNAL = "trace0000000000001"
VOLUME = Decimal("0.01")
# When the order is sent; before it, a broker on a new disk has found out that there is no past.
SENT_SECONDS = START + 100
PLACED, NOT_PLACED = "placed", "not placed"


class NaiveClient:
    """A client of the kind that doubles or loses orders: krakenex, and what its author thought was enough."""

    def __init__(self, simulator: Simulator) -> None:
        self.simulator = simulator
        self.client = KrakenexClient(simulator)

    def close(self) -> None:
        """Hang up."""
        self.client.close()

    def send(self, price: Decimal, cl_ord_id: str = SIGNAL) -> str:
        """Send one order with a fresh nonce; return the error that it is answered with, "lost" for no answer."""
        order = {"pair": "XBTUSD", "type": "buy", "ordertype": "limit", "price": str(price), "volume": str(VOLUME)}
        try:
            answer = self.client.private(
                "AddOrder", **order, cl_ord_id=cl_ord_id, deadline=format_rfc3339(self._now() + 8)
            )
        except (requests.RequestException, ValueError):
            return "lost"
        return "".join(answer["error"])

    def finds_order(self, method: str, cl_ord_id: str = SIGNAL) -> bool:
        """Whether OpenOrders or ClosedOrders have an order of the name."""
        result = self.client.private(method, cl_ord_id=cl_ord_id)["result"]
        return bool(result["open" if method == "OpenOrders" else "closed"])

    def query_twice(
        self, first: float, second: float, cl_ord_id: str = SIGNAL, methods: str = "OpenOrders ClosedOrders"
    ) -> str:
        """Look up twice, so many seconds after the order was sent; return the verdict."""
        for after, method in zip((first, second), methods.split(), strict=True):
            self.wait_until(after)
            if self.finds_order(method, cl_ord_id):
                return PLACED
        return NOT_PLACED

    def wait_until(self, after: float) -> None:
        """Wait until so many seconds after the order was sent."""
        self.simulator.clock.wait_until(SENT_SECONDS + after, threading.Event())

    def _now(self) -> float:
        return self.simulator.clock.now()


def resend_after_invalid_nonce(peer: NaiveClient, price: Decimal) -> str:
    """Take Invalid nonce for a reason to send again."""
    while peer.send(price) == "EAPI:Invalid nonce":
        pass
    return PLACED


def treat_invalid_nonce_as_placed(peer: NaiveClient, price: Decimal) -> str:
    """Take Invalid nonce for the echo of a copy that was accepted."""
    return PLACED if peer.send(price) in ("", "EAPI:Invalid nonce") else NOT_PLACED


def treat_refusal_as_not_placed(peer: NaiveClient, price: Decimal) -> str:
    """Take every refusal for a no."""
    return NOT_PLACED if peer.send(price) else PLACED


def query_at_once(peer: NaiveClient, price: Decimal) -> str:
    """Look up right after the lost answer."""
    peer.send(price)
    return peer.query_twice(0, 0)


def query_before_deadline(peer: NaiveClient, price: Decimal) -> str:
    """Look up five and eight seconds after the fence, whatever the deadline."""
    peer.send(price)
    return peer.query_twice(5, 8)


def query_without_margin(peer: NaiveClient, price: Decimal) -> str:
    """Leave the margin out."""
    peer.send(price)
    return peer.query_twice(8, 11)


def query_closed_before_open(peer: NaiveClient, price: Decimal) -> str:
    """Look up in the wrong order."""
    peer.send(price)
    return peer.query_twice(13, 16, methods="ClosedOrders OpenOrders")


def query_without_gap(peer: NaiveClient, price: Decimal) -> str:
    """Make both look-ups together."""
    peer.send(price)
    return peer.query_twice(13, 13)


def query_without_fence(peer: NaiveClient, price: Decimal) -> str:
    """Do everything right, but read nothing before."""
    peer.send(price)
    return peer.query_twice(13, 16)


def trust_elapsed_time(peer: NaiveClient, price: Decimal) -> str:
    """Believe that what was not answered for 16 s is not there."""
    if not peer.send(price):
        return PLACED
    peer.wait_until(16)
    return NOT_PLACED


def forget_after_crash(peer: NaiveClient, price: Decimal) -> str:
    """Die, forget, and send the same signal under the same id."""
    if peer.send(price) == "lost":
        peer.send(price)
    return PLACED


def query_early_on_new_disk(peer: NaiveClient, price: Decimal) -> str:
    """Die, look the id up as if no order could still be on its way, and send it again."""
    peer.send(price)
    if peer.query_twice(5, 8) == NOT_PLACED:
        peer.send(price)
    return PLACED


def query_open_orders_only(peer: NaiveClient, price: Decimal) -> str:
    """Look among the open orders, as if nothing filled at once."""
    peer.send(price)
    return PLACED if peer.finds_order("OpenOrders") else NOT_PLACED


FaultyProcedure = Callable[[NaiveClient, Decimal], str]
