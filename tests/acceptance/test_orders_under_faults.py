"""Thousands of orders under every fault: none is doubled, none is lost, and all money is where it should be."""

from __future__ import annotations

from pathlib import Path

import pytest

from bot.orders.reconciliation import DEADLINE_SECONDS, GAP_SECONDS, MARGIN_SECONDS
from bot.simulator.options import SimulatorOptions
from tests.acceptance.journal_comparison import check_books
from tests.acceptance.order_storm import PAIRS, Outcome, Sky, Storm, options, prepare, resend_storm, take_time

SEED = 20_261_123
ORDERS, ORDERS_FULL = 300, 10_000


def weather(
    folder: Path, patch: pytest.MonkeyPatch, made: SimulatorOptions, orders: int, *, restart: bool = False
) -> Outcome:
    """Let a storm blow over; fail where the books then differ in anything."""
    prepare(folder, patch)
    print(f"seed {made.seed}")
    with Sky(folder, made) as sky:
        storm = Storm(sky.broker, made.seed)
        storm.blow(orders, halfway=sky.restart_exchange if restart else None)
        faults = sky.simulator.faults
        faults.clear()
        storm.strike(sky.simulator)
        assert len(sky.broker.unknown_orders()) == len(PAIRS)
        faults.clear()
        take_time(patch)
        storm.calm()
        print(storm.outcome, dict(faults.fired))
        assert storm.outcome.wrong == []
        assert storm.outcome.accepted + storm.outcome.refused == orders
        check_books(sky.simulator, folder)
        assert 0 < storm.outcome.waited_seconds <= DEADLINE_SECONDS + MARGIN_SECONDS + GAP_SECONDS
        return storm.outcome


def test_every_signal_becomes_one_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exchange and journal agree order by order, none is doubled or lost, and what is unknown is known 16 s later."""
    outcome = weather(tmp_path, monkeypatch, options(0.2, SEED), ORDERS)
    assert outcome.found > 0
    assert outcome.not_placed > 0


BROKEN: dict[str, dict[str, object]] = {
    "its clock is 3 s ahead": {"clock_offset_seconds": 3.0},
    "its clock is 3 s behind": {"clock_offset_seconds": -3.0},
    "it checks deadlines at the gateway only, and its engine is 8 s behind": {
        "deadline_at": "gateway",
        "queue_seconds": 8.0,
    },
    "it accepts orders after their deadline": {"enforce_deadline": False},
}


@pytest.mark.parametrize("broken", BROKEN)
def test_no_exchange_that_is_broken_in_one_way_doubles_or_loses_an_order(
    broken: str, full_size: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same on an exchange that does not do one of the things that the proof rests on."""
    made = options(0.2, SEED + 3, **BROKEN[broken])
    weather(tmp_path, monkeypatch, made, 2000 if full_size else 15)


def test_a_restart_of_the_exchange_doubles_and_loses_nothing(
    full_size: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same on an exchange that ends in the middle of everything and comes again."""
    outcome = weather(tmp_path, monkeypatch, options(0.1, SEED + 4), 2000 if full_size else 60, restart=True)
    assert outcome.not_sent + outcome.unknown > 0


@pytest.mark.soak
@pytest.mark.parametrize(("share", "seed"), [(0.01, SEED + 5), (0.05, SEED + 6), (0.1, SEED + 7), (0.2, SEED + 8)])
def test_every_one_of_ten_thousand_signals_becomes_one_order(
    share: float, seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same with 10,000 signals, where from 1 to 20 % of all requests meet a fault, each with a seed of its own."""
    weather(tmp_path, monkeypatch, options(share, seed), ORDERS_FULL)


def test_a_client_that_sends_again_doubles_orders_under_the_same_faults(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The peers' way, a retry with a fresh nonce under the same client id, buys twice: this storm is one."""
    prepare(tmp_path, monkeypatch)
    with Sky(tmp_path, options(0.2, SEED)) as sky:
        doubled = resend_storm(sky.simulator, ORDERS)
        print(f"seed {SEED}: {doubled} of {ORDERS} orders were placed twice or more")
        assert doubled > 0
