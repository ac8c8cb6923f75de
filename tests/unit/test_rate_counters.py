"""The client's rate counters are never below Kraken's, so the bot waits instead of being refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot.kraken.rate_counters import (
    CANCEL_RESERVE_POINTS,
    INTERMEDIATE,
    MAX_CLOCK_SKEW_SECONDS,
    PRO,
    STARTER,
    TIERS,
    UNLIMITED,
    Action,
    CounterState,
    EngineCounter,
    RestCounter,
    Tier,
    engine_points,
    rest_points,
)

NOW = 1_790_000_000.0
METHODS = ["Balance", "OpenOrders", "ClosedOrders", "TradesHistory", "QueryOrders", "AddOrder", "CancelOrder"]
KRAKEN_TIERS = [STARTER, INTERMEDIATE, PRO]


def spend_until_full(rest: RestCounter, method: str, now: float) -> int:
    """Send `method` at one moment until the counter requires a wait; return the number of calls."""
    calls = 0
    while not rest.wait_seconds(method, now):
        rest.spend(method, now)
        calls += 1
    return calls


@pytest.mark.parametrize(
    ("tier", "rest", "engine"),
    [
        (STARTER, (15, 0.33), (60, 1.0)),
        (INTERMEDIATE, (20, 0.5), (125, 2.34)),
        (PRO, (20, 1.0), (180, 3.75)),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_tiers_are_those_of_krakens_pages(tier: Tier, rest: tuple[float, float], engine: tuple[float, float]) -> None:
    """Maxima, thresholds and decays are the published ones, and a tier is found by its name."""
    assert (tier.rest_maximum, tier.rest_decay_per_second) == rest
    assert (tier.engine_threshold, tier.engine_decay_per_second) == engine
    assert TIERS[tier.name] is tier


def test_rest_points_are_the_stricter_ones() -> None:
    """Histories and order lists cost two points, orders and cancels none, everything else one."""
    points = [rest_points(method) for method in (*METHODS, "Ledgers", "QueryLedgers", "GetApiKeyInfo", "CancelAll")]
    assert points == [1, 2, 2, 2, 1, 0, 0, 2, 2, 1, 1]


def test_a_full_rest_counter_waits_for_the_decay() -> None:
    """If the next call does not fit, the wait is the excess divided by the decay."""
    rest = RestCounter(PRO)
    assert spend_until_full(rest, "Balance", NOW) == 17
    assert rest.wait_seconds("Balance", NOW) == pytest.approx(1.0)
    assert rest.wait_seconds("OpenOrders", NOW) == pytest.approx(2.0)
    assert rest.wait_seconds("OpenOrders", NOW + 2.0) == 0.0


def test_orders_and_cancels_never_wait_for_the_rest_counter() -> None:
    """AddOrder and CancelOrder never wait for the REST counter."""
    rest = RestCounter(STARTER)
    rest.saturate(NOW)
    assert (rest.wait_seconds("AddOrder", NOW), rest.wait_seconds("CancelOrder", NOW)) == (0.0, 0.0)


@pytest.mark.parametrize(("tier", "expected"), [(STARTER, 6.03), (INTERMEDIATE, 5.0), (PRO, 4.0)])
def test_a_refusal_by_kraken_fills_the_rest_counter(tier: Tier, expected: float) -> None:
    """After `EAPI:Rate limit exceeded` the next read waits a few seconds, whatever was counted before."""
    rest = RestCounter(tier)
    rest.saturate(NOW)
    assert rest.wait_seconds("Balance", NOW) == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize("tier", TIERS.values(), ids=TIERS)
def test_one_wait_after_a_refusal_is_enough(tier: Tier) -> None:
    """After a refusal one wait is enough, at every tier and for every rounding of the seconds."""
    for step in range(100):
        now = NOW + step * 0.123456789
        rest, engine = RestCounter(tier), EngineCounter(tier)
        rest.saturate(now)
        engine.saturate("BTC/USD", now)
        rest_seconds = rest.wait_seconds("Balance", now)
        engine_seconds = engine.wait_seconds("BTC/USD", Action.ADD, now)
        assert rest.wait_seconds("Balance", now + rest_seconds) == 0.0
        assert engine.wait_seconds("BTC/USD", Action.ADD, now + engine_seconds) == 0.0


def test_a_clock_that_is_set_back_neither_frees_nor_freezes_the_counter() -> None:
    """A clock that is set back decays nothing, and the decay continues from there."""
    rest = RestCounter(PRO)
    spend_until_full(rest, "Balance", NOW)
    assert rest.wait_seconds("Balance", NOW - 3600.0) == pytest.approx(1.0)
    assert rest.wait_seconds("Balance", NOW - 3599.0) == 0.0


def test_the_unlimited_tier_never_waits_of_itself() -> None:
    """Ten thousand calls at one moment need no wait."""
    rest, engine = RestCounter(UNLIMITED), EngineCounter(UNLIMITED)
    for _ in range(10_000):
        rest.spend("TradesHistory", NOW)
        engine.spend("BTC/USD", Action.CANCEL, NOW)
    assert rest.wait_seconds("TradesHistory", NOW) == 0.0
    assert engine.wait_seconds("BTC/USD", Action.ADD, NOW) == 0.0


def test_two_clocks_that_are_apart_do_not_decay_twice() -> None:
    """If two processes whose clocks differ by a minute count alternately, nothing decays before the later time."""
    rest = RestCounter(PRO)
    spend_until_full(rest, "Balance", NOW)
    for _ in range(10):
        for now in (NOW, NOW - MAX_CLOCK_SKEW_SECONDS):
            assert rest.wait_seconds("Balance", now) == pytest.approx(1.0 + NOW - now)
    assert rest.wait_seconds("Balance", NOW + 1.0) == 0.0


@pytest.mark.parametrize("ahead_seconds", [0.0, MAX_CLOCK_SKEW_SECONDS, 3600.0, 1e9, 1e300])
@pytest.mark.parametrize("points", [-5.0, 17.0, 1e300])
@pytest.mark.parametrize("tier", KRAKEN_TIERS, ids=lambda tier: tier.name)
def test_any_counter_state_frees_up_within_three_minutes(tier: Tier, points: float, ahead_seconds: float) -> None:
    """Whatever points at whatever time another process has stored, there is room within three minutes."""
    rest, engine = RestCounter(tier), EngineCounter(tier)
    rest.merge(CounterState(points, NOW + ahead_seconds), NOW)
    engine.merge({"BTC/USD": CounterState(points, NOW + ahead_seconds)}, NOW)
    wait_seconds = max(rest.wait_seconds("Ledgers", NOW), engine.wait_seconds("BTC/USD", Action.ADD, NOW))
    assert wait_seconds <= 180.0
    assert rest.wait_seconds("Ledgers", NOW + wait_seconds) == 0.0
    assert engine.wait_seconds("BTC/USD", Action.ADD, NOW + wait_seconds) == 0.0


def test_merge_keeps_the_greater_counter() -> None:
    """After a merge a counter has the greater of both values, decayed to the same time."""
    mine, theirs = RestCounter(PRO), RestCounter(PRO)
    for counter, calls in ((mine, 3), (theirs, 5)):
        for _ in range(calls):
            counter.spend("Balance", NOW)
    for counter, other in ((mine, theirs), (theirs, mine)):
        counter.merge(other.state_at(NOW), NOW + 1.0)
        assert counter.state_at(NOW + 1.0) == (4.0, NOW + 1.0)


@pytest.mark.parametrize(
    "stored", [None, "x", 7.0, [], [1.0], ["1", "2"], [1.0, 2.0, 3.0], [float("nan"), 1.0], [1.0, float("inf")]]
)
def test_invalid_counter_state_reads_as_zero(stored: object) -> None:
    """Anything but two finite numbers counts as zero points."""
    assert CounterState.parse(stored) == (0.0, 0.0)
    assert CounterState.parse([1.5, 2]) == (1.5, 2.0)


def test_decayed_pairs_are_dropped() -> None:
    """Only counters with points left are stored."""
    engine = EngineCounter(STARTER)
    engine.spend("BTC/USD", Action.ADD, NOW)
    engine.spend("ETH/USD", Action.CANCEL, NOW)
    assert engine.states_at(NOW + 2.0) == {"ETH/USD": (6.0, NOW + 2.0)}


@given(
    tier=st.sampled_from(KRAKEN_TIERS),
    step_seconds=st.floats(0.5, 3.0),
    phase=st.floats(0.0, 1.0),
    calls=st.lists(st.tuples(st.sampled_from(METHODS), st.floats(0.0, 20.0)), max_size=120),
)
def test_a_client_that_waits_is_never_refused(
    tier: Tier, step_seconds: float, phase: float, calls: list[tuple[str, float]]
) -> None:
    """Kraken's counter, which decays in steps of up to three seconds at any phase, never exceeds its maximum."""
    rest, now, kraken, steps_done = RestCounter(tier), 0.0, 0.0, 0
    for method, idle_seconds in calls:
        now += idle_seconds if idle_seconds > 10.0 else 0.0
        now += rest.wait_seconds(method, now)
        assert rest.wait_seconds(method, now) == 0.0
        steps = int(now / step_seconds + phase)
        for _ in range(steps - steps_done):
            kraken = max(0.0, kraken - tier.rest_decay_per_second * step_seconds)
        steps_done = steps
        rest.spend(method, now)
        kraken += rest_points(method)
        assert kraken <= tier.rest_maximum + 1e-3


@pytest.mark.parametrize(
    ("action", "expected"),
    [
        (Action.ADD, [1, 1, 1, 1, 1, 1, 1]),
        (Action.CANCEL, [8, 6, 5, 4, 2, 1, 0]),
    ],
)
def test_engine_points_by_age(action: Action, expected: list[int]) -> None:
    """Each action costs what Kraken's table says at the lower edge of each age."""
    assert [engine_points(action, age) for age in (0.0, 5.0, 10.0, 15.0, 45.0, 90.0, 300.0)] == expected


def test_the_engine_counter_adds_up_and_decays() -> None:
    """The counter is the points spent less the decay since, and never below zero."""
    engine = EngineCounter(STARTER)
    engine.spend("BTC/USD", Action.ADD, NOW)
    engine.spend("BTC/USD", Action.CANCEL, NOW, age_seconds=4.0)
    assert engine.points("BTC/USD", NOW) == 9.0
    assert engine.points("BTC/USD", NOW + 4.0) == 5.0
    engine.spend("BTC/USD", Action.ADD, NOW + 60.0)
    assert engine.points("BTC/USD", NOW + 60.0) == 1.0


def test_pairs_do_not_share_an_engine_counter() -> None:
    """A full counter of one pair does not affect another pair."""
    engine = EngineCounter(PRO)
    engine.saturate("BTC/USD", NOW)
    assert engine.wait_seconds("BTC/USD", Action.ADD, NOW) > 0.0
    assert engine.wait_seconds("ETH/USD", Action.ADD, NOW) == 0.0


@pytest.mark.parametrize("tier", KRAKEN_TIERS, ids=lambda tier: tier.name)
def test_orders_reserve_room_for_two_recent_cancels(tier: Tier) -> None:
    """When new orders must wait, two cancels of orders a second old still need no wait."""
    engine, added = EngineCounter(tier), 0
    while not engine.wait_seconds("BTC/USD", Action.ADD, NOW):
        engine.spend("BTC/USD", Action.ADD, NOW)
        added += 1
    assert added == tier.engine_threshold - CANCEL_RESERVE_POINTS
    for _ in range(2):
        assert engine.wait_seconds("BTC/USD", Action.CANCEL, NOW, age_seconds=1.0) == 0.0
        engine.spend("BTC/USD", Action.CANCEL, NOW, age_seconds=1.0)
    assert engine.points("BTC/USD", NOW) <= tier.engine_threshold
    assert engine.wait_seconds("BTC/USD", Action.CANCEL, NOW, age_seconds=1.0) > 0.0


def test_an_order_of_unknown_age_counts_as_new() -> None:
    """Without an age a cancel costs the maximum."""
    assert engine_points(Action.CANCEL) == 8
