"""Clients that send an order and settle it by rules that leave something out; each is one line of tests/model."""

from __future__ import annotations

import threading
from collections.abc import Callable
from decimal import Decimal

import requests

from bot.base.clock import rfc3339
from bot.simulator.server import Simulator
from tests.simulator_parts import START, Client

SIGNAL = "trace0000000000001"
VOLUME = Decimal("0.01")
# When the order is sent; before it, a broker on a new disk has found out that there is no past.
SENT = START + 100
PLACED, NOT_PLACED = "placed", "not placed"


class Peer:
    """A client of the kind that doubles or loses orders: krakenex, and what its author thought was enough."""

    def __init__(self, simulator: Simulator) -> None:
        self.simulator = simulator
        self.client = Client(simulator)

    def close(self) -> None:
        """Hang up."""
        self.client.close()

    def send(self, price: Decimal, name: str = SIGNAL) -> str:
        """Send one order with a fresh nonce; return the error that it is answered with, "lost" for no answer."""
        order = {"pair": "XBTUSD", "type": "buy", "ordertype": "limit", "price": str(price), "volume": str(VOLUME)}
        try:
            answer = self.client.private("AddOrder", **order, cl_ord_id=name, deadline=rfc3339(self._now() + 8))
        except (requests.RequestException, ValueError):
            return "lost"
        return "".join(answer["error"])

    def sees(self, where: str, name: str = SIGNAL) -> bool:
        """Whether OpenOrders or ClosedOrders have an order of the name."""
        result = self.client.private(where, cl_ord_id=name)["result"]
        return bool(result["open" if where == "OpenOrders" else "closed"])

    def looks(self, first: float, second: float, name: str = SIGNAL, where: str = "OpenOrders ClosedOrders") -> str:
        """Look up twice, so many seconds after the order was sent; return the verdict."""
        for after, method in zip((first, second), where.split(), strict=True):
            self.wait_until(after)
            if self.sees(method, name):
                return PLACED
        return NOT_PLACED

    def wait_until(self, after: float) -> None:
        """Wait until so many seconds after the order was sent."""
        self.simulator.clock.wait_until(SENT + after, threading.Event())

    def _now(self) -> float:
        return self.simulator.clock.now()


def again_after_invalid_nonce(peer: Peer, price: Decimal) -> str:
    """Take Invalid nonce for a reason to send again."""
    while peer.send(price) == "EAPI:Invalid nonce":
        pass
    return PLACED


def invalid_nonce_is_placed(peer: Peer, price: Decimal) -> str:
    """Take Invalid nonce for the echo of a copy that was accepted."""
    return PLACED if peer.send(price) in ("", "EAPI:Invalid nonce") else NOT_PLACED


def a_refusal_is_not_placed(peer: Peer, price: Decimal) -> str:
    """Take every refusal for a no."""
    return NOT_PLACED if peer.send(price) else PLACED


def looks_at_once(peer: Peer, price: Decimal) -> str:
    """Look up right after the lost answer."""
    peer.send(price)
    return peer.looks(0, 0)


def looks_before_the_deadline(peer: Peer, price: Decimal) -> str:
    """Look up five and eight seconds after the fence, whatever the deadline."""
    peer.send(price)
    return peer.looks(5, 8)


def looks_at_the_deadline(peer: Peer, price: Decimal) -> str:
    """Leave the margin out."""
    peer.send(price)
    return peer.looks(8, 11)


def closed_before_open(peer: Peer, price: Decimal) -> str:
    """Look up in the wrong order."""
    peer.send(price)
    return peer.looks(13, 16, where="ClosedOrders OpenOrders")


def no_gap(peer: Peer, price: Decimal) -> str:
    """Make both look-ups together."""
    peer.send(price)
    return peer.looks(13, 13)


def no_fence(peer: Peer, price: Decimal) -> str:
    """Do everything right, but read nothing before."""
    peer.send(price)
    return peer.looks(13, 16)


def time_alone(peer: Peer, price: Decimal) -> str:
    """Believe that what was not answered for 16 s is not there."""
    if not peer.send(price):
        return PLACED
    peer.wait_until(16)
    return NOT_PLACED


def forgets_at_a_crash(peer: Peer, price: Decimal) -> str:
    """Die, forget, and send the same signal under the same id."""
    if peer.send(price) == "lost":
        peer.send(price)
    return PLACED


def no_patience_on_a_new_disk(peer: Peer, price: Decimal) -> str:
    """Die, look the id up as if no order could still be on its way, and send it again."""
    peer.send(price)
    if peer.looks(5, 8) == NOT_PLACED:
        peer.send(price)
    return PLACED


def looks_at_open_orders_only(peer: Peer, price: Decimal) -> str:
    """Look among the open orders, as if nothing filled at once."""
    peer.send(price)
    return PLACED if peer.sees("OpenOrders") else NOT_PLACED


WrongClient = Callable[[Peer, Decimal], str]
