"""Deploys as the platforms make them, with whole bots in separate processes: which one trades, which one waits.

Render starts the new instance, sends the old one SIGTERM a minute later, and SIGKILL half a minute after that. Railway
sends SIGTERM as soon as the new one is healthy, and SIGKILL at once. Market time runs faster than the wall clock;
leases, and the order in which requests arrive, follow the wall clock.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest

from bot.base.clock import sleep
from tests.acceptance.instances import Fleet, Instance, check_signals, trading_fleet
from tests.server_processes import stop_processes

MINUTE = 60.0
MAX_REFUSED_PER_MINUTE = 3
# Market speeds. At the moderate one a minute takes 1.5 s, within which signals must arrive.
FAST, MODERATE = 240.0, 40.0


def render(old: Instance, overlap_seconds: float, kill_after_seconds: float) -> None:
    """Take down the old instance as Render does."""
    sleep(overlap_seconds)
    old.send(signal.SIGTERM)
    old.wait_for_end(kill_after_seconds)
    old.kill()


def render_when_it_hangs(old: Instance, overlap_seconds: float, kill_after_seconds: float) -> None:
    """Take down the old instance as Render does if it does not react."""
    sleep(overlap_seconds)
    old.send(signal.SIGSTOP)
    old.send(signal.SIGTERM)
    sleep(kill_after_seconds)
    old.kill()


def railway(old: Instance, _overlap_seconds: float, _kill_after_seconds: float) -> None:
    """Take down the old instance as Railway does without a draining time."""
    old.send(signal.SIGTERM)
    old.kill()


def print_handover_time(kind: str, old: Instance, new: Instance) -> None:
    """Print the time from the first signal to the old instance to the first accepted request of the new one."""
    new.wait_for_request()
    assert old.first_signal_seconds is not None
    print(f"{kind}: {new.requests()[0].boot_seconds - old.first_signal_seconds:.2f} s until {new.name} leads")


def test_with_a_shared_store(tmp_path: Path, store: str, full_size: bool) -> None:
    """Over several deploys each instance takes over when the one before it ends: no standby sends a private request, no
    nonce is refused, and no signal is traded twice."""
    settings = {"NONCE_STORE": store, "LEASE_SECONDS": "10" if full_size else "3"}
    times = (60.0, 30.0) if full_size else (0.3, 4.0)
    take_downs: list[Callable[[Instance, float, float], None]] = [render, railway, render_when_it_hangs]
    with trading_fleet(tmp_path, speed=FAST) as fleet:
        old = fleet.start("release0", **settings)
        for number, take_down in enumerate(take_downs * (3 if full_size else 1), start=1):
            old.wait_for_request("AddOrder")
            new = fleet.start(f"release{number}", **settings)
            new.wait_for("^Standby: .* leads")
            take_down(old, *times)
            print_handover_time(take_down.__name__, old, new)
            old = new
        old.wait_for_request("AddOrder")
        old.send(signal.SIGTERM)
        assert old.wait_and_check() == 0
        fleet.check_leaders()
        assert fleet.leader_names() == [instance.name for instance in fleet.instances]
        assert fleet.refused_requests == []
        check_signals(fleet.kraken)


def test_restarts_on_the_same_disk(tmp_path: Path, store: str) -> None:
    """A restarted instance leads again, after a stop without standby, after a kill under a new lease; no nonce is
    refused, and no signal is traded twice."""
    settings = {"NONCE_STORE": store, "LEASE_SECONDS": "3"}
    with trading_fleet(tmp_path, speed=FAST) as fleet:
        for signal_number in (signal.SIGTERM, signal.SIGKILL, signal.SIGTERM):
            previous = fleet.instances[-1:]
            instance = fleet.start("only", **settings)
            if previous:
                print_handover_time("restart", previous[0], instance)
            instance.wait_for_request("AddOrder")
            instance.send(signal_number)
            instance.wait_and_check()
        first, after_stop, after_kill = fleet.instances
        first.wait_for("is released: the outcome of (not )?every order is known")
        assert "Standby" not in after_stop.text
        assert after_stop.exit_code == -signal.SIGKILL
        assert after_kill.exit_code == 0
        fleet.check_leaders()
        assert fleet.refused_requests == []
        check_signals(fleet.kraken)


def test_sigterm_ends_a_suspended_instance_once_it_continues(tmp_path: Path) -> None:
    """An instance that was suspended when SIGTERM came ends cleanly as soon as it continues."""
    # The kernel chooses the thread that handles the signal, so one instance would not be enough.
    with trading_fleet(tmp_path, speed=FAST) as fleet:
        instances = [fleet.start(f"host{number}", TRADING_MODE="paper", MARKET_SPEED="1") for number in range(6)]
        for instance in instances:
            instance.wait_for("^Account: ")
            stop_processes([instance.pid])
            instance.send(signal.SIGTERM)
            instance.send(signal.SIGCONT)
        assert {instance.wait_and_check() for instance in instances} == {0}


@pytest.mark.parametrize("signal_number", [signal.SIGTERM, signal.SIGKILL], ids=["SIGTERM", "SIGKILL"])
def test_without_a_store(tmp_path: Path, signal_number: signal.Signals, full_size: bool) -> None:
    """If a new instance on a new disk overlaps the old one for a minute, it reports why it sends no order, sends none
    within a minute of the old one's, no signal is traded twice, and each has at most three refused nonces a minute."""
    # Refusals follow the wall clock, in which the short test sends requests far more often than a real market does.
    speed = 1.0 if full_size else MODERATE
    settings, limit_seconds = {"SKIP_OVERLAP_WAIT": "0"}, 10 * MINUTE
    with trading_fleet(tmp_path, speed=speed, latency_seconds=(0.01, 0.03)) as fleet:
        # There is no instance before the first one.
        old = fleet.start("old", SKIP_OVERLAP_WAIT="1")
        old.wait_for_request("AddOrder", timeout_seconds=limit_seconds)
        new = fleet.start("new", **settings)
        new.wait_for("STATE_DIR has no journal of this key, so another instance may still trade")
        sleep(MINUTE / speed)
        old.send(signal_number)
        old.wait_and_check()
        new.wait_for_request("AddOrder", times=2, timeout_seconds=limit_seconds)
        new.send(signal.SIGTERM)
        assert new.wait_and_check() == 0
        gaps = order_gaps(fleet)
        print(f"{signal_number.name}: {gaps} market seconds between orders; {refused_by_minute(fleet)} nonces refused")
        assert len(gaps) == 1
        assert min(gaps) >= MINUTE
        assert max(refused_by_minute(fleet)) <= MAX_REFUSED_PER_MINUTE
        check_signals(fleet.kraken)


def order_gaps(fleet: Fleet) -> list[float]:
    """Return the market seconds between consecutive orders of different processes."""
    orders = [observed for observed in fleet.observed_requests if observed.request.method == "AddOrder"]
    return [
        round(now.request.time - before.request.time, 1)
        for before, now in pairwise(orders)
        if now.instance is not before.instance
    ]


def refused_by_minute(fleet: Fleet) -> list[int]:
    """Return for each process the maximum number of refused nonces within a minute of the wall clock."""
    return [
        max(
            (
                sum(
                    0 <= refused.boot_seconds - first.boot_seconds < MINUTE
                    for refused in fleet.refused_requests
                    if refused.instance is instance
                )
                for first in fleet.refused_requests
                if first.instance is instance
            ),
            default=0,
        )
        for instance in fleet.instances
    ]
