"""Deploys as the platforms make them, with the whole bot in processes of its own: who trades, and who waits.

Render starts the new instance, sends the old one SIGTERM a minute later, and SIGKILL half a minute after that. Railway
sends SIGTERM as soon as the new one is healthy, and SIGKILL at once. The market runs faster than the wall; leases, and
how requests overtake each other, know the wall's time only.
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
REFUSED_A_MINUTE_MAX = 3
# How much faster than the wall the market is. A minute of the moderate one is 1.5 s, within which signals must arrive.
FAST, MODERATE = 240.0, 40.0


def render(old: Instance, overlap_seconds: float, more_seconds: float) -> None:
    """Take down the old instance as Render does."""
    sleep(overlap_seconds)
    old.send(signal.SIGTERM)
    old.wait_for_end(more_seconds)
    old.kill()


def render_when_it_hangs(old: Instance, overlap_seconds: float, more_seconds: float) -> None:
    """The same with an old instance that does not react any more."""
    sleep(overlap_seconds)
    old.send(signal.SIGSTOP)
    old.send(signal.SIGTERM)
    sleep(more_seconds)
    old.kill()


def railway(old: Instance, _overlap_seconds: float, _more_seconds: float) -> None:
    """Take down the old instance as Railway does where no draining time is set."""
    old.send(signal.SIGTERM)
    old.kill()


def tell_hand_over(how: str, old: Instance, new: Instance) -> None:
    """Print how long nobody traded: from the first signal to the old one until the new one's first accepted request."""
    new.wait_for_request()
    assert old.first_signal_seconds is not None
    print(f"{how}: {new.requests()[0].boot_seconds - old.first_signal_seconds:.2f} s until {new.name} leads")


def test_with_a_shared_store(tmp_path: Path, store: str, full_size: bool) -> None:
    """In several deploys in a row each instance begins where the one before it is done: no standby sends a private
    request, no nonce is refused, and no signal is traded twice."""
    settings = {"NONCE_STORE": store, "LEASE_SECONDS": "10" if full_size else "3"}
    times = (60.0, 30.0) if full_size else (0.3, 4.0)
    ways: list[Callable[[Instance, float, float], None]] = [render, railway, render_when_it_hangs]
    with trading_fleet(tmp_path, speed=FAST) as fleet:
        old = fleet.start("release0", **settings)
        for number, take_down in enumerate(ways * (3 if full_size else 1), start=1):
            old.wait_for_request("AddOrder")
            new = fleet.start(f"release{number}", **settings)
            new.wait_for("^standby .* leads")
            take_down(old, *times)
            tell_hand_over(take_down.__name__, old, new)
            old = new
        old.wait_for_request("AddOrder")
        old.send(signal.SIGTERM)
        assert old.wait_and_check() == 0
        fleet.check_leaders()
        assert fleet.leader_names() == [life.name for life in fleet.instances]
        assert fleet.refused_requests == []
        check_signals(fleet.kraken)


def test_restarts_on_the_same_disk(tmp_path: Path, store: str) -> None:
    """An instance that was stopped leads again without standing by, one that was killed under a new lease; no nonce is
    refused, and no signal is traded twice."""
    settings = {"NONCE_STORE": store, "LEASE_SECONDS": "3"}
    with trading_fleet(tmp_path, speed=FAST) as fleet:
        for number in (signal.SIGTERM, signal.SIGKILL, signal.SIGTERM):
            if fleet.instances:
                tell_hand_over("restart", fleet.instances[-1], life := fleet.start("only", **settings))
            else:
                life = fleet.start("only", **settings)
            life.wait_for_request("AddOrder")
            life.send(number)
            life.wait_and_check()
        first, after_stop, after_kill = fleet.instances
        first.wait_for("^leader .* has signed off, (not )?every order settled")
        assert "standby" not in after_stop.text
        assert after_stop.exit_code == -signal.SIGKILL
        assert after_kill.exit_code == 0
        fleet.check_leaders()
        assert fleet.refused_requests == []
        check_signals(fleet.kraken)


def test_a_signal_to_an_instance_that_stands_still(tmp_path: Path) -> None:
    """An instance that was stopped when SIGTERM came ends in good order as soon as it goes on."""
    # Which of its threads the signal wakes is the kernel's choice, so that one would not be enough.
    with trading_fleet(tmp_path, speed=FAST) as fleet:
        lives = [fleet.start(f"host{number}", TRADING_MODE="paper", MARKET_SPEED="1") for number in range(6)]
        for life in lives:
            life.wait_for("^account")
            stop_processes([life.pid])
            life.send(signal.SIGTERM)
            life.send(signal.SIGCONT)
        assert {life.wait_and_check() for life in lives} == {0}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["SIGTERM", "SIGKILL"])
def test_without_a_store(tmp_path: Path, number: signal.Signals, full_size: bool) -> None:
    """Where a new instance on a new disk overlaps the old one for a minute, it says why it sends no order, none comes
    within a minute of the other's, no signal is traded twice, and at most three nonces a minute are refused to each."""
    # Refusals are a matter of the wall's time, in which the shorter test asks far more often than a real market does.
    speed = 1.0 if full_size else MODERATE
    settings, limit_seconds = {"SINGLE_INSTANCE": "0"}, 10 * MINUTE
    with trading_fleet(tmp_path, speed=speed, latency_seconds=(0.01, 0.03)) as fleet:
        # Nobody is there before the first one.
        old = fleet.start("old", SINGLE_INSTANCE="1")
        old.wait_for_request("AddOrder", timeout_seconds=limit_seconds)
        new = fleet.start("new", **settings)
        new.wait_for("because STATE_DIR has no journal of this key, an instance elsewhere may still trade")
        sleep(MINUTE / speed)
        old.send(number)
        old.wait_and_check()
        new.wait_for_request("AddOrder", times=2, timeout_seconds=limit_seconds)
        new.send(signal.SIGTERM)
        assert new.wait_and_check() == 0
        gaps = order_gaps(fleet)
        print(
            f"{number.name}: {gaps} s of the market's between their orders; {refused_by_minute(fleet)} nonces refused"
        )
        assert len(gaps) == 1
        assert min(gaps) >= MINUTE
        assert max(refused_by_minute(fleet)) <= REFUSED_A_MINUTE_MAX
        check_signals(fleet.kraken)


def order_gaps(fleet: Fleet) -> list[float]:
    """Return how many market seconds lay between an order of one life and the next, wherever it was another's."""
    orders = [heard for heard in fleet.observed_requests if heard.request.method == "AddOrder"]
    return [
        round(now.request.time - before.request.time, 1)
        for before, now in pairwise(orders)
        if now.instance is not before.instance
    ]


def refused_by_minute(fleet: Fleet) -> list[int]:
    """Return for each life how many nonces were refused to it at most within a minute of the wall's."""
    return [
        max(
            (
                sum(
                    0 <= late.boot_seconds - first.boot_seconds < MINUTE
                    for late in fleet.refused_requests
                    if late.instance is life
                )
                for first in fleet.refused_requests
                if first.instance is life
            ),
            default=0,
        )
        for life in fleet.instances
    ]
