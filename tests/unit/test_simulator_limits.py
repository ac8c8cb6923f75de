"""Rate counters: Kraken's numbers by tier."""

from __future__ import annotations

import pytest

from bot.simulator.errors import Refusal
from bot.simulator.limits import RateLimits, cancel_penalty, find_tier
from tests.simulator_parts import START, make_exchange, order_error, place_order


def calls_until_refused(tier: str, method: str) -> int:
    """Return how many calls of a method are accepted at one moment (at most 300)."""
    limits = RateLimits(find_tier(tier))
    for count in range(300):
        try:
            limits.spend_rest("key", method, START)
        except Refusal:
            return count
    return 300


@pytest.mark.parametrize(
    ("tier", "method", "calls"),
    [
        ("starter", "Balance", 15),
        ("intermediate", "Balance", 20),
        ("pro", "Balance", 20),
        ("starter", "TradesHistory", 7),
        ("starter", "AddOrder", 300),
        ("starter", "CancelOrder", 300),
        ("unlimited", "Balance", 300),
    ],
)
def test_a_burst_of_calls_is_refused_at_the_tiers_maximum(tier: str, method: str, calls: int) -> None:
    """That many calls are accepted at once; orders and cancels do not count."""
    assert calls_until_refused(tier, method) == calls


def test_the_rest_counter_decays_with_market_time_and_by_key() -> None:
    """A full starter counter has room for one call after 3.1 s (0.33 a second); another key has its own counter."""
    limits = RateLimits(find_tier("starter"))
    for _ in range(15):
        limits.spend_rest("key", "Balance", START)
    limits.spend_rest("other", "Balance", START)
    with pytest.raises(Refusal, match=r"^EAPI:Rate limit exceeded$"):
        limits.spend_rest("key", "Balance", START + 3.0)
    limits.spend_rest("key", "Balance", START + 3.1)


@pytest.mark.parametrize(
    ("age_seconds", "points"), [(0, 8), (4.9, 8), (5, 6), (10, 5), (15, 4), (45, 2), (90, 1), (299, 1), (300, 0)]
)
def test_a_cancel_costs_more_the_younger_the_order(age_seconds: float, points: int) -> None:
    """The penalties of cancels are those of Kraken's table, at its boundaries."""
    assert cancel_penalty(age_seconds) == points


def test_orders_on_a_pair_are_refused_over_the_threshold_and_again_accepted_after_decay() -> None:
    """60 orders of a starter are accepted at once, the next one only a second later; another pair is unaffected."""
    exchange = make_exchange((0, "50000"), tier="starter")
    for _ in range(60):
        place_order(exchange, price="40000", volume="0.0001", timeinforce="IOC")
    assert order_error(exchange, price="40000", volume="0.0001") == "EOrder:Rate limit exceeded"
    assert order_error(exchange, pair="ETHUSD", price="40000", volume="0.001") == ""
    exchange.advance(START + 1)
    assert order_error(exchange, price="40000", volume="0.0001") == ""


def test_a_refused_order_still_counts_against_the_engine_limit() -> None:
    """A refused order leaves one point on the pair's counter."""
    exchange = make_exchange((0, "50000"), tier="starter")
    order_error(exchange, price="no price")
    assert exchange.limits.engine_counter("XXBTZUSD").points(START) == 1


def test_a_cancel_after_thirty_six_seconds_adds_its_penalty() -> None:
    """An order that is canceled 36 s after it was placed costs 1 for the order, decayed, and 4 for the cancel."""
    exchange = make_exchange((0, "50000"), tier="starter")
    txid = place_order(exchange, price="40000")
    exchange.advance(START + 36)
    exchange.cancel({"txid": txid})
    assert exchange.limits.engine_counter("XXBTZUSD").points(START + 36) == 4


def test_a_cancel_over_the_threshold_is_refused_but_cancel_all_is_not() -> None:
    """Seven young orders cost 7 and 8 per cancel: the seventh cancel would be 63 of 60; CancelAll is accepted."""
    exchange = make_exchange((0, "50000"), tier="starter")
    names = [place_order(exchange, price="40000", volume="0.001") for _ in range(7)]
    for name in names[:6]:
        exchange.cancel({"txid": name})
    with pytest.raises(Refusal, match=r"^EOrder:Rate limit exceeded$"):
        exchange.cancel({"txid": names[6]})
    assert exchange.cancel_all() == {"count": 1}


def test_open_orders_per_pair_are_limited_by_tier() -> None:
    """The 61st open order of a starter on one pair is refused, one on another pair is not."""
    exchange = make_exchange((0, "50000"), tier="starter")
    for count in range(60):
        exchange.advance(START + count)
        place_order(exchange, price="40000", volume="0.0001")
    assert order_error(exchange, price="40000", volume="0.0001") == "EOrder:Orders limit exceeded"
    assert order_error(exchange, pair="ETHUSD", price="40000", volume="0.001") == ""
