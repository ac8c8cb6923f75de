"""Thousands of orders under every fault: none is duplicated, none is lost, and all balances are right."""

from __future__ import annotations

from pathlib import Path

import pytest

from bot.kraken.new_order import ORDER_DEADLINE_SECONDS
from bot.orders.reconciliation import DEADLINE_MARGIN_SECONDS, QUERY_GAP_SECONDS
from bot.simulator.options import SimulatorOptions
from tests.acceptance.journal_comparison import check_journal_against_exchange
from tests.acceptance.order_storm import (
    PAIRS,
    OrderStressTest,
    StressEnvironment,
    StressResult,
    make_options,
    resend_orders,
    restore_timeouts,
    speed_up_timeouts,
)

SEED = 20_261_123
ORDERS, ORDERS_FULL = 300, 10_000


def run_stress_test(
    folder: Path, patch: pytest.MonkeyPatch, simulator_options: SimulatorOptions, orders: int, *, restart: bool = False
) -> StressResult:
    """Run a stress test; fail if journal and exchange differ at the end."""
    speed_up_timeouts(folder, patch)
    print(f"seed {simulator_options.seed}")
    with StressEnvironment(folder, simulator_options) as environment:
        stress_test = OrderStressTest(environment.broker, simulator_options.seed)
        stress_test.run(orders, at_halfway=environment.restart_exchange if restart else None)
        faults = environment.simulator.faults
        faults.clear()
        stress_test.leave_orders_unanswered(environment.simulator)
        assert len(environment.broker.unknown_orders()) == len(PAIRS)
        faults.clear()
        restore_timeouts(patch)
        stress_test.finish()
        print(stress_test.result, dict(faults.fired_counts))
        assert stress_test.result.errors == []
        assert stress_test.result.accepted + stress_test.result.refused == orders
        check_journal_against_exchange(environment.simulator, folder)
        assert (
            0
            < stress_test.result.waited_seconds
            <= ORDER_DEADLINE_SECONDS + DEADLINE_MARGIN_SECONDS + QUERY_GAP_SECONDS
        )
        return stress_test.result


def test_each_signal_places_exactly_one_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exchange and journal agree order by order, none is duplicated or lost, and unknown orders resolve within 16 s."""
    result = run_stress_test(tmp_path, monkeypatch, make_options(0.2, SEED), ORDERS)
    assert result.resolved_placed > 0
    assert result.resolved_not_placed > 0


BROKEN_EXCHANGES: dict[str, dict[str, object]] = {
    "its clock is 3 s ahead": {"clock_offset_seconds": 3.0},
    "its clock is 3 s behind": {"clock_offset_seconds": -3.0},
    "it checks deadlines at the gateway only, and its engine is 8 s behind": {
        "deadline_checked_at": "gateway",
        "queue_seconds": 8.0,
    },
    "it accepts orders after their deadline": {"enforce_deadline": False},
}


@pytest.mark.parametrize("broken", BROKEN_EXCHANGES)
def test_broken_exchange_neither_duplicates_nor_loses_orders(
    broken: str, full_size: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same holds on an exchange that violates one assumption of the proof."""
    simulator_options = make_options(0.2, SEED + 3, **BROKEN_EXCHANGES[broken])
    run_stress_test(tmp_path, monkeypatch, simulator_options, 2000 if full_size else 15)


def test_exchange_restart_neither_duplicates_nor_loses_orders(
    full_size: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same holds on an exchange that is restarted in the middle of the test."""
    result = run_stress_test(
        tmp_path, monkeypatch, make_options(0.1, SEED + 4), 2000 if full_size else 60, restart=True
    )
    assert result.not_sent + result.unknown > 0


@pytest.mark.soak
@pytest.mark.parametrize(("share", "seed"), [(0.01, SEED + 5), (0.05, SEED + 6), (0.1, SEED + 7), (0.2, SEED + 8)])
def test_ten_thousand_signals_place_exactly_one_order_each(
    share: float, seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same holds for 10,000 signals with faults in 1 to 20 % of all requests, each with a seed of its own."""
    run_stress_test(tmp_path, monkeypatch, make_options(share, seed), ORDERS_FULL)


def test_resending_client_duplicates_orders_under_the_same_faults(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that retries with a new nonce and the same client order id buys twice under the same faults."""
    speed_up_timeouts(tmp_path, monkeypatch)
    with StressEnvironment(tmp_path, make_options(0.2, SEED)) as environment:
        duplicated = resend_orders(environment.simulator, ORDERS)
        print(f"seed {SEED}: {duplicated} of {ORDERS} orders were placed twice or more")
        assert duplicated > 0
