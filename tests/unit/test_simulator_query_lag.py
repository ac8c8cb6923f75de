"""Look-ups that lie behind, fills between two requests, and all faults at once."""

from __future__ import annotations

import random
from contextlib import suppress

import pytest
import requests

from bot.simulator.faults import NAMES, PARTIAL_FILL
from tests.simulator_parts import LIMIT, TAKING, Desk, open_desk

STOP = LIMIT | {"ordertype": "stop-loss", "price": "60000"}


# Look-ups


def seen(desk: Desk) -> tuple[int, int]:
    """Return how many orders OpenOrders and ClosedOrders show."""
    closed = desk.call("ClosedOrders")
    assert closed["count"] == len(closed["closed"])
    return len(desk.call("OpenOrders")["open"]), len(closed["closed"])


def test_look_ups_lie_behind_and_every_order_has_its_own_lag() -> None:
    """Of 20 orders some are shown within 3 s, each look-up shows all after 3 s, and in between they are in neither."""
    with open_desk(open_lag_seconds=3, closed_lag_seconds=3) as desk:
        for _ in range(20):
            desk.call("AddOrder", **LIMIT)
        shown = [seen(desk)]
        for _ in range(2):
            desk.pass_time(1.5)
            shown.append(seen(desk))
        desk.call("CancelAll")
        shown.append(seen(desk))
        for _ in range(2):
            desk.pass_time(1.5)
            shown.append(seen(desk))
    some_open, some_closed = shown[1][0], shown[4][1]
    assert shown == [(0, 0), (some_open, 0), (20, 0), (0, 0), (0, some_closed), (0, 20)]
    assert 0 < some_open < 20
    assert 0 < some_closed < 20


def test_an_order_that_fills_at_once_is_in_neither_look_up_at_first() -> None:
    """It is in ClosedOrders 3 s later; QueryOrders and TradesHistory have it at once."""
    with open_desk(open_lag_seconds=3, closed_lag_seconds=3) as desk:
        txid = desk.call("AddOrder", **TAKING)["txid"][0]
        assert seen(desk) == (0, 0)
        assert desk.call("QueryOrders", txid=txid)[txid]["status"] == "closed"
        assert desk.call("TradesHistory")["count"] == 1
        desk.pass_time(3)
        assert seen(desk) == (0, 1)


def test_without_lag_look_ups_show_everything_at_once() -> None:
    """By default an order is in OpenOrders or in ClosedOrders as soon as it was answered."""
    with open_desk() as desk:
        desk.call("AddOrder", **LIMIT)
        desk.call("AddOrder", **TAKING)
        assert seen(desk) == (1, 1)


# Fills between requests


@pytest.mark.parametrize(("order", "price"), [(LIMIT, "40000.0"), (STOP, "60000.1")], ids=["limit", "stop"])
def test_a_cancel_may_find_that_the_order_was_just_filled(order: dict[str, str], price: str) -> None:
    """The cancel is refused as one of a gone order, which is filled at its own price; another one is still open."""
    with open_desk() as desk:
        desk.call("AddOrder", **LIMIT)
        txid = desk.call("AddOrder", **order)["txid"][0]
        assert desk.fail("cancel_race", "CancelOrder", txid=txid) == ["EOrder:Invalid order"]
        row = desk.call("QueryOrders", txid=txid)[txid]
        assert (row["status"], row["vol_exec"], row["price"]) == ("closed", "0.00100000", f"{price}0000")
        state = desk.simulator.api.state()
        assert (state["open_orders"], state["problems"]) == (1, [])


def test_the_rest_of_a_partly_filled_order_is_filled_later() -> None:
    """An order that fills by halves is partly filled at one look-up, more at the next, and whole in the end."""
    with open_desk(fault_rates={PARTIAL_FILL: 1.0}) as desk:
        txid = desk.call("AddOrder", **TAKING | {"timeinforce": "GTC"})["txid"][0]
        filled = []
        for _ in range(6):
            filled.append(desk.call("QueryOrders", txid=txid)[txid]["vol_exec"])
            desk.pass_time(1)
        assert filled == ["0.00050000", "0.00075000", "0.00087500", "0.00100000", "0.00100000", "0.00100000"]


# All of it at once


@pytest.mark.parametrize("seed", range(3))
def test_the_account_adds_up_after_any_mix_of_faults(seed: int, full_size: bool) -> None:
    """Orders and cancels under all faults together: all of them fire, the audit is clean, and no order is doubled."""
    calls = 4000 if full_size else 500
    rates = dict.fromkeys((*NAMES, PARTIAL_FILL), 0.03) | {"slow": 0.0}
    rates |= dict.fromkeys(("cancel_race", PARTIAL_FILL), 0.3)
    chooser = random.Random(seed)
    with open_desk(fault_rates=rates, seed=seed, queue_seconds=5, open_lag_seconds=3, closed_lag_seconds=3) as desk:
        for number in range(calls):
            desk.pass_time(chooser.choice((0.0, 0.1, 1.0)))
            order = chooser.choice((LIMIT, TAKING, STOP)) | {"cl_ord_id": f"order {number}"}
            cancel = {"cl_ord_id": f"order {chooser.randrange(number + 1)}"}
            method, params = chooser.choice((("AddOrder", order), ("CancelOrder", cancel)))
            with suppress(requests.RequestException, ValueError):
                desk.call(method, **params)
        state = desk.simulator.api.state()
        missed = set(rates) - set(desk.simulator.faults.fired) - {"slow"}
    assert (state["problems"], state["doubled"]) == ([], []), f"seed {seed}"
    assert state["trades"] > 20, f"seed {seed}"
    assert missed == set(), f"seed {seed}"
