"""Queries that lag behind, fills between two requests, and all faults together."""

from __future__ import annotations

import random
from contextlib import suppress

import pytest
import requests

from bot.simulator.faults import FAULT_NAMES, PARTIAL_FILL
from tests.simulator_parts import RESTING_ORDER, TAKER_ORDER, SimulatorHarness, open_harness

STOP_ORDER = RESTING_ORDER | {"ordertype": "stop-loss", "price": "60000"}


# Queries


def count_visible_orders(harness: SimulatorHarness) -> tuple[int, int]:
    """Return the number of orders in OpenOrders and in ClosedOrders."""
    closed = harness.call("ClosedOrders")
    assert closed["count"] == len(closed["closed"])
    return len(harness.call("OpenOrders")["open"]), len(closed["closed"])


def test_queries_lag_by_a_different_time_per_order() -> None:
    """Of 20 orders some are listed within 3 s and all after 3 s in each query; in between some are in neither."""
    with open_harness(open_lag_seconds=3, closed_lag_seconds=3) as harness:
        for _ in range(20):
            harness.call("AddOrder", **RESTING_ORDER)
        counts = [count_visible_orders(harness)]
        for _ in range(2):
            harness.advance_time(1.5)
            counts.append(count_visible_orders(harness))
        harness.call("CancelAll")
        counts.append(count_visible_orders(harness))
        for _ in range(2):
            harness.advance_time(1.5)
            counts.append(count_visible_orders(harness))
    some_open, some_closed = counts[1][0], counts[4][1]
    assert counts == [(0, 0), (some_open, 0), (20, 0), (0, 0), (0, some_closed), (0, 20)]
    assert 0 < some_open < 20
    assert 0 < some_closed < 20


def test_an_immediately_filled_order_is_in_neither_query_at_first() -> None:
    """The order is in ClosedOrders 3 s later; QueryOrders and TradesHistory have it at once."""
    with open_harness(open_lag_seconds=3, closed_lag_seconds=3) as harness:
        txid = harness.call("AddOrder", **TAKER_ORDER)["txid"][0]
        assert count_visible_orders(harness) == (0, 0)
        assert harness.call("QueryOrders", txid=txid)[txid]["status"] == "closed"
        assert harness.call("TradesHistory")["count"] == 1
        harness.advance_time(3)
        assert count_visible_orders(harness) == (0, 1)


def test_without_lag_queries_are_current() -> None:
    """By default an order is in OpenOrders or ClosedOrders as soon as it was answered."""
    with open_harness() as harness:
        harness.call("AddOrder", **RESTING_ORDER)
        harness.call("AddOrder", **TAKER_ORDER)
        assert count_visible_orders(harness) == (1, 1)


# Fills between requests


@pytest.mark.parametrize(
    ("order", "price"), [(RESTING_ORDER, "40000.0"), (STOP_ORDER, "60000.1")], ids=["limit", "stop"]
)
def test_a_cancel_can_race_with_a_fill(order: dict[str, str], price: str) -> None:
    """The cancel is refused because the order is closed; it filled at its own price; another order is still open."""
    with open_harness() as harness:
        harness.call("AddOrder", **RESTING_ORDER)
        txid = harness.call("AddOrder", **order)["txid"][0]
        assert harness.call_with_fault("cancel_race", "CancelOrder", txid=txid) == ["EOrder:Invalid order"]
        row = harness.call("QueryOrders", txid=txid)[txid]
        assert (row["status"], row["vol_exec"], row["price"]) == ("closed", "0.00100000", f"{price}0000")
        state = harness.simulator.api.state()
        assert (state["open_orders"], state["problems"]) == (1, [])


def test_the_rest_of_a_partly_filled_order_is_filled_later() -> None:
    """An order that fills by halves is partly filled in one query, more in the next, and completely in the end."""
    with open_harness(fault_rates={PARTIAL_FILL: 1.0}) as harness:
        txid = harness.call("AddOrder", **TAKER_ORDER | {"timeinforce": "GTC"})["txid"][0]
        filled = []
        for _ in range(6):
            filled.append(harness.call("QueryOrders", txid=txid)[txid]["vol_exec"])
            harness.advance_time(1)
        assert filled == ["0.00050000", "0.00075000", "0.00087500", "0.00100000", "0.00100000", "0.00100000"]


# All faults together


@pytest.mark.parametrize("seed", range(3))
def test_the_account_is_consistent_after_any_mix_of_faults(seed: int, full_size: bool) -> None:
    """Orders and cancels under all faults: every fault fires, the audit is clean, and no order is duplicated."""
    calls = 4000 if full_size else 500
    rates = dict.fromkeys((*FAULT_NAMES, PARTIAL_FILL), 0.03) | {"slow": 0.0}
    rates |= dict.fromkeys(("cancel_race", PARTIAL_FILL), 0.3)
    chooser = random.Random(seed)
    with open_harness(
        fault_rates=rates, seed=seed, queue_seconds=5, open_lag_seconds=3, closed_lag_seconds=3
    ) as harness:
        for number in range(calls):
            harness.advance_time(chooser.choice((0.0, 0.1, 1.0)))
            order = chooser.choice((RESTING_ORDER, TAKER_ORDER, STOP_ORDER)) | {"cl_ord_id": f"order {number}"}
            cancel = {"cl_ord_id": f"order {chooser.randrange(number + 1)}"}
            method, params = chooser.choice((("AddOrder", order), ("CancelOrder", cancel)))
            with suppress(requests.RequestException, ValueError):
                harness.call(method, **params)
        state = harness.simulator.api.state()
        missed = set(rates) - set(harness.simulator.faults.fired_counts) - {"slow"}
    assert (state["problems"], state["doubled"]) == ([], []), f"seed {seed}"
    assert state["trades"] > 20, f"seed {seed}"
    assert missed == set(), f"seed {seed}"
