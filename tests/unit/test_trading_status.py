"""What each status of the exchange and of a pair lets through (Kraken: SystemStatus page, AssetPairs page)."""

from __future__ import annotations

import pytest

from bot.kraken.trading_status import What, refusal

CANCEL, POST_ONLY, LIMIT, SELL, OTHER = What
TABLE = {
    "online": {CANCEL, POST_ONLY, LIMIT, SELL, OTHER},
    "maintenance": set(),
    "cancel_only": {CANCEL},
    "post_only": {CANCEL, POST_ONLY},
    "limit_only": {CANCEL, POST_ONLY, LIMIT, SELL},
    "reduce_only": {CANCEL, SELL},
    "a word of tomorrow": set(),
}


def let_through(system: str, pair: str) -> set[What]:
    """Return what may be sent."""
    return {what for what in What if not refusal(system, pair, what)}


@pytest.mark.parametrize("status", TABLE)
def test_a_status_lets_through_what_the_table_says(status: str) -> None:
    """Of the exchange or of the pair, with the other online, a status allows exactly its row of the table."""
    assert let_through(status, "online") == TABLE[status]
    assert let_through("online", status) == TABLE[status]


@pytest.mark.parametrize("system", TABLE)
@pytest.mark.parametrize("pair", TABLE)
def test_exchange_and_pair_must_both_allow(system: str, pair: str) -> None:
    """Whatever the two say, only what both of them allow may be sent."""
    assert let_through(system, pair) == TABLE[system] & TABLE[pair]


def test_a_pair_without_a_status_is_online() -> None:
    """Everything may be sent for a pair whose status is missing."""
    assert let_through("online", "") == set(What)


def test_an_exchange_without_a_status_is_in_maintenance() -> None:
    """Nothing may be sent, not even a cancel, to an exchange that says nothing of itself."""
    assert let_through("", "online") == set()


def test_a_refusal_says_who_and_what_is_still_possible() -> None:
    """A refusal names the exchange or the pair, its status, and what it still lets through."""
    assert refusal("maintenance", "online", CANCEL) == "the exchange's status is maintenance: nothing is sent"
    assert refusal("online", "reduce_only", LIMIT) == (
        "the pair's status is reduce_only: cancels, sales of what is held and nothing else"
    )
