"""What each status of the exchange and of a pair allows (Kraken: SystemStatus page, AssetPairs page)."""

from __future__ import annotations

import pytest

from bot.kraken.trading_status import OrderClass, block_reason

CANCEL, POST_ONLY, LIMIT, SELL, OTHER = OrderClass
TABLE = {
    "online": {CANCEL, POST_ONLY, LIMIT, SELL, OTHER},
    "maintenance": set(),
    "cancel_only": {CANCEL},
    "post_only": {CANCEL, POST_ONLY},
    "limit_only": {CANCEL, POST_ONLY, LIMIT, SELL},
    "reduce_only": {CANCEL, SELL},
    "a word of tomorrow": set(),
}


def allowed_classes(system: str, pair: str) -> set[OrderClass]:
    """Return the order classes that may be sent."""
    return {order_class for order_class in OrderClass if not block_reason(system, pair, order_class)}


@pytest.mark.parametrize("status", TABLE)
def test_a_status_allows_exactly_the_order_classes_of_the_table(status: str) -> None:
    """For the exchange or the pair, with the other online, a status allows exactly its row of the table."""
    assert allowed_classes(status, "online") == TABLE[status]
    assert allowed_classes("online", status) == TABLE[status]


@pytest.mark.parametrize("system", TABLE)
@pytest.mark.parametrize("pair", TABLE)
def test_exchange_and_pair_must_both_allow(system: str, pair: str) -> None:
    """Whatever the two statuses are, only what both allow may be sent."""
    assert allowed_classes(system, pair) == TABLE[system] & TABLE[pair]


def test_a_pair_without_a_status_is_online() -> None:
    """Everything may be sent for a pair without a status."""
    assert allowed_classes("online", "") == set(OrderClass)


def test_an_exchange_without_a_status_is_in_maintenance() -> None:
    """Nothing may be sent, not even a cancel, while the status of the exchange is missing."""
    assert allowed_classes("", "online") == set()


def test_a_refusal_names_the_source_its_status_and_what_is_allowed() -> None:
    """A refusal names the exchange or the pair, its status, and what is still allowed."""
    assert block_reason("maintenance", "online", CANCEL) == "the exchange's status is maintenance: nothing is sent"
    assert block_reason("online", "reduce_only", LIMIT) == (
        "the pair's status is reduce_only: cancels, sales of what is held and nothing else"
    )
