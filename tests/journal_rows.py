"""Intents, orders and fills for tests of the journal: defaults, of which a test overrides what it is about."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from typing import Any

from bot.base.models import Fill, Order, OrderStatus, Side
from bot.orders.order_state import Intent

BOT_ID = "mybot"


def make_intent(cl_ord_id: str = "mybot0000000000001", **overrides: Any) -> Intent:
    """Return an intent that has not been sent."""
    default = Intent(cl_ord_id, "BTC/USD", Side.BUY, "limit", Decimal("0.01000000"), Decimal("50000.0"), 100.0)
    return replace(default, **overrides)


def make_kraken_order(
    cl_ord_id: str = "mybot0000000000001", txid: str = "OAAAAA-AAAAA-AAAAAA", **overrides: Any
) -> Order:
    """Return Kraken's record of an order that filled at its limit price."""
    default = Order(
        txid,
        cl_ord_id,
        "BTC/USD",
        Side.BUY,
        "limit",
        OrderStatus.CLOSED,
        price=Decimal("50000.0"),
        volume=Decimal("0.01000000"),
        executed=Decimal("0.01000000"),
        cost=Decimal("500.00000"),
        fee=Decimal("1.25000"),
        average_price=Decimal("50000.0"),
        opened_seconds=101.0,
        closed_seconds=102.0,
        expires_seconds=0.0,
        reason="",
    )
    return replace(default, **overrides)


def make_open_kraken_order(
    cl_ord_id: str = "mybot0000000000001", txid: str = "OAAAAA-AAAAA-AAAAAA", **overrides: Any
) -> Order:
    """Return Kraken's record of an open order without a fill."""
    zeros = dict.fromkeys(("executed", "cost", "fee", "average_price"), Decimal(0))
    return make_kraken_order(
        cl_ord_id, txid, **{"status": OrderStatus.OPEN, "closed_seconds": 0.0, **zeros, **overrides}
    )


def make_fill(trade_id: str = "TAAAAA-AAAAA-AAAAAA", order_txid: str = "OAAAAA-AAAAA-AAAAAA", **overrides: Any) -> Fill:
    """Return the one fill of `make_kraken_order()`."""
    default = Fill(
        trade_id,
        order_txid,
        "BTC/USD",
        Side.BUY,
        price=Decimal("50000.0"),
        volume=Decimal("0.01000000"),
        cost=Decimal("500.00000"),
        fee=Decimal("1.25000"),
        time_seconds=102.0,
    )
    return replace(default, **overrides)
