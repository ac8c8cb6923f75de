"""Clients that send an order and reconcile it with a rule missing; each is one line of tests/model."""

from __future__ import annotations

import threading
from collections.abc import Callable
from decimal import Decimal

import requests

from bot.base.clock import format_rfc3339
from bot.simulator.server import Simulator
from tests.simulator_parts import START, KrakenexClient

SIGNAL = "trace0000000000001"
NEXT_ATTEMPT = "trace0000000000002"
VOLUME = Decimal("0.01")
# When the order is sent; by then a broker on a new disk has finished its start-up reconciliation.
SENT_SECONDS = START + 100
PLACED, NOT_PLACED = "placed", "not placed"


class NaiveClient:
    """A client of the kind that duplicates or loses orders: krakenex with an incomplete procedure."""

    def __init__(self, simulator: Simulator) -> None:
        self.simulator = simulator
        self.client = KrakenexClient(simulator)

    def close(self) -> None:
        """Close the connection."""
        self.client.close()

    def send(self, price: Decimal, cl_ord_id: str = SIGNAL) -> str:
        """Send one order with a new nonce; return the error of the response, or "lost" for no response."""
        order = {"pair": "XBTUSD", "type": "buy", "ordertype": "limit", "price": str(price), "volume": str(VOLUME)}
        try:
            answer = self.client.private(
                "AddOrder", **order, cl_ord_id=cl_ord_id, deadline=format_rfc3339(self._now() + 8)
            )
        except (requests.RequestException, ValueError):
            return "lost"
        return "".join(answer["error"])

    def finds_order(self, method: str, cl_ord_id: str = SIGNAL) -> bool:
        """Whether OpenOrders or ClosedOrders return an order with this client order id."""
        result = self.client.private(method, cl_ord_id=cl_ord_id)["result"]
        return bool(result["open" if method == "OpenOrders" else "closed"])

    def query_twice(
        self, first: float, second: float, cl_ord_id: str = SIGNAL, methods: str = "OpenOrders ClosedOrders"
    ) -> str:
        """Query twice, `first` and `second` seconds after the order was sent; return the verdict."""
        for after, method in zip((first, second), methods.split(), strict=True):
            self.wait_until(after)
            if self.finds_order(method, cl_ord_id):
                return PLACED
        return NOT_PLACED

    def sees_its_orders(self) -> bool:
        """Whether the key has no query window now."""
        return bool(self.client.private("GetApiKeyInfo")["result"]["queryTo"] == "0")

    def wait_until(self, after: float) -> None:
        """Wait until `after` seconds after the order was sent."""
        self.simulator.clock.wait_until(SENT_SECONDS + after, threading.Event())

    def _now(self) -> float:
        return self.simulator.clock.now()


def resend_after_invalid_nonce(client: NaiveClient, price: Decimal) -> str:
    """Treat Invalid nonce as a reason to send again."""
    while client.send(price) == "EAPI:Invalid nonce":
        pass
    return PLACED


def treat_invalid_nonce_as_placed(client: NaiveClient, price: Decimal) -> str:
    """Treat Invalid nonce as the response to a duplicate of an accepted request."""
    return PLACED if client.send(price) in ("", "EAPI:Invalid nonce") else NOT_PLACED


def treat_refusal_as_not_placed(client: NaiveClient, price: Decimal) -> str:
    """Treat every error as a final refusal."""
    return NOT_PLACED if client.send(price) else PLACED


def query_at_once(client: NaiveClient, price: Decimal) -> str:
    """Query right after the lost response."""
    client.send(price)
    return client.query_twice(0, 0)


def query_before_deadline(client: NaiveClient, price: Decimal) -> str:
    """Query five and eight seconds after the fencing read, whatever the deadline."""
    client.send(price)
    return client.query_twice(5, 8)


def query_without_margin(client: NaiveClient, price: Decimal) -> str:
    """Query without the margin after the deadline."""
    client.send(price)
    return client.query_twice(8, 11)


def query_closed_before_open(client: NaiveClient, price: Decimal) -> str:
    """Query in the wrong order."""
    client.send(price)
    return client.query_twice(13, 16, methods="ClosedOrders OpenOrders")


def query_without_gap(client: NaiveClient, price: Decimal) -> str:
    """Make both queries at the same time."""
    client.send(price)
    return client.query_twice(13, 13)


def query_without_fence(client: NaiveClient, price: Decimal) -> str:
    """Do everything right, but without a fencing read."""
    client.send(price)
    return client.query_twice(13, 16)


def check_key_before_queries(client: NaiveClient, price: Decimal) -> str:
    """Check what the key sees before the queries, and never after them."""
    client.send(price)
    client.wait_until(12)
    return client.query_twice(13, 16) if client.sees_its_orders() else PLACED


def check_key_after_queries(client: NaiveClient, price: Decimal) -> str:
    """Check what the key sees after the queries, whenever it was changed."""
    client.send(price)
    verdict = client.query_twice(13, 16)
    client.wait_until(18)
    return verdict if client.sees_its_orders() else PLACED


def send_next_attempt_after_refusal(client: NaiveClient, price: Decimal) -> str:
    """Send the next attempt of the signal after any refusal."""
    if client.send(price):
        client.send(price, NEXT_ATTEMPT)
    return PLACED


def trust_elapsed_time(client: NaiveClient, price: Decimal) -> str:
    """Assume that an order without a response for 16 s was not placed."""
    if not client.send(price):
        return PLACED
    client.wait_until(16)
    return NOT_PLACED


def forget_after_crash(client: NaiveClient, price: Decimal) -> str:
    """Crash, forget, and send the same signal under the same id."""
    if client.send(price) == "lost":
        client.send(price)
    return PLACED


def query_early_on_new_disk(client: NaiveClient, price: Decimal) -> str:
    """Crash, query the id as if no order could still be in flight, and send it again."""
    client.send(price)
    if client.query_twice(5, 8) == NOT_PLACED:
        client.send(price)
    return PLACED


def query_open_orders_only(client: NaiveClient, price: Decimal) -> str:
    """Query open orders only, as if no order filled at once."""
    client.send(price)
    return PLACED if client.finds_order("OpenOrders") else NOT_PLACED


FaultyProcedure = Callable[[NaiveClient, Decimal], str]
