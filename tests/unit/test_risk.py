"""Which orders risk allows, and with what reason it refuses the others."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

import pytest

from bot.base.models import Side, SystemStatus, WantedOrder
from bot.trading.risk import RiskLimits, RiskState, check, exit_parts
from tests.trading_fakes import make_pair

LIMITS = RiskLimits(
    largest_order_value=Decimal(100),
    largest_position_value=Decimal(200),
    largest_daily_loss=Decimal(50),
    cool_down_seconds=600.0,
)
CALM = RiskState(
    pair=make_pair(),
    timeframe_seconds=60,
    now_seconds=10_000.0,
    price=Decimal(10),
    closed_seconds=9_999.0,
    status=SystemStatus("online", 9_990.0),
    pair_status="online",
    halted=False,
    stopping=False,
    history_known=True,
    unsettled="",
    held_quantity=Decimal(5),
    committed_quantity=Decimal(5),
    day_loss=Decimal(0),
    last_loss_seconds=None,
)
ENTRY = WantedOrder("BTC/USD", Side.BUY, Decimal(10), Decimal(10), "entry", 9_900, "the test")
EXIT = WantedOrder("BTC/USD", Side.SELL, Decimal(5), None, "exit", 9_900, "the test")

REFUSES_ALL: dict[str, dict[str, object]] = {
    "kill switch": {"halted": True},
    "trading status": {"status": SystemStatus("maintenance", 9_990.0)},
    "stale prices": {"closed_seconds": 9_879.0},
    "unsettled order": {"unsettled": "X, sent 3 s ago, was not answered"},
}
REFUSES_ENTRIES: dict[str, dict[str, object]] = {
    "entries stopped": {"entries_stopped": True},
    "stopping": {"stopping": True},
    "history": {"history_known": False},
    "position value": {"committed_quantity": Decimal("10.01")},
    "daily loss": {"day_loss": Decimal(50)},
    "cool-down": {"last_loss_seconds": 9_401.0},
}


def verdict_on(order: WantedOrder, **fields: object) -> list[str]:
    """Return the rules that refuse an order in the calm state with these fields changed."""
    state = replace(CALM, **fields)  # type: ignore[arg-type]  # the test names the fields
    return [refusal.rule for refusal in check([order], state, LIMITS).refusals]


@pytest.mark.parametrize("order", [ENTRY, EXIT], ids=["entry", "exit"])
def test_nothing_is_refused_within_the_limits(order: WantedOrder) -> None:
    """At the largest order and the largest position exactly, with fresh data, an order is allowed."""
    verdict = check([order], CALM, LIMITS)
    assert (verdict.allowed, verdict.refusals) == ((order,), ())


@pytest.mark.parametrize("order", [ENTRY, EXIT], ids=["entry", "exit"])
@pytest.mark.parametrize("rule", REFUSES_ALL)
def test_what_is_not_known_refuses_every_order(rule: str, order: WantedOrder) -> None:
    """Entries and exits are both refused, and by this rule."""
    assert verdict_on(order, **REFUSES_ALL[rule]) == [rule]


@pytest.mark.parametrize("rule", REFUSES_ENTRIES)
def test_limits_refuse_entries_and_never_an_exit(rule: str) -> None:
    """The rule refuses an entry and lets an exit pass."""
    assert verdict_on(ENTRY, **REFUSES_ENTRIES[rule]) == [rule]
    assert verdict_on(EXIT, **REFUSES_ENTRIES[rule]) == []


@pytest.mark.parametrize(
    ("status", "entry", "exit_"),
    [
        ("maintenance", False, False),
        ("cancel_only", False, False),
        ("post_only", False, False),
        ("limit_only", True, True),
        ("reduce_only", False, True),
        ("a new word", False, False),
    ],
)
def test_an_order_goes_where_exchange_and_pair_are_open_for_it(status: str, entry: bool, exit_: bool) -> None:
    """Of the exchange or the pair, the status decides: entries are limit orders, exits sales of what is held."""
    for order, allowed in ((ENTRY, entry), (EXIT, exit_)):
        refused = [] if allowed else ["trading status"]
        assert verdict_on(order, status=SystemStatus(status, 9_990.0)) == refused
        assert verdict_on(order, pair_status=status) == refused


def test_a_pair_without_a_status_is_traded() -> None:
    """Where Kraken gives no status for a pair, an entry is allowed."""
    assert verdict_on(ENTRY, pair_status="") == []


def test_a_stop_is_refused_where_it_could_not_rest() -> None:
    """The kill switch, any status but online, and more coins than are held refuse a stop; nothing else does."""
    stop = replace(EXIT, kind="stop", price=Decimal(9))
    assert verdict_on(stop, halted=True) == ["kill switch"]
    for status in ("maintenance", "cancel_only", "post_only", "limit_only", "reduce_only"):
        assert verdict_on(stop, pair_status=status) == ["trading status"]
    assert verdict_on(stop, held_quantity=Decimal("4.9")) == ["own coins"]
    others: dict[str, object] = {"closed_seconds": 0.0, "unsettled": "X"}
    for fields in (others, *REFUSES_ENTRIES.values()):
        assert verdict_on(stop, **fields) == []


def test_an_old_or_missing_system_status_refuses() -> None:
    """A status of 60 s ago is good, one of 61 s ago or none at all is not."""
    assert verdict_on(EXIT, status=SystemStatus("online", 9_940.0)) == []
    assert verdict_on(EXIT, status=SystemStatus("online", 9_939.0)) == ["trading status"]
    assert verdict_on(EXIT, status=None) == ["trading status"]


def test_a_last_candle_older_than_two_timeframes_refuses() -> None:
    """A candle that closed 120 s ago is good with a timeframe of 60 s, one of 121 s ago is not."""
    assert verdict_on(EXIT, closed_seconds=9_880.0) == []
    assert verdict_on(EXIT, closed_seconds=9_879.0) == ["stale prices"]


def test_an_entry_over_the_largest_order_is_refused_with_both_numbers() -> None:
    """An entry of 10.1 at 10 is refused, because it is worth 101.00 USD, more than 100."""
    [refusal] = check([replace(ENTRY, quantity=Decimal("10.1"))], CALM, LIMITS).refusals
    assert refusal.reason == "it is worth 101.00 USD, more than 100 for one order"


def test_a_market_entry_is_valued_at_the_last_close() -> None:
    """An entry without a price of its own is worth its quantity times the last close."""
    assert verdict_on(replace(ENTRY, price=None, quantity=Decimal("10.1"))) == ["order value"]


def test_the_cool_down_ends_on_time() -> None:
    """A loss exactly 600 s ago refuses no entry any more."""
    assert verdict_on(ENTRY, last_loss_seconds=9_400.0) == []


def test_coins_that_the_bot_did_not_buy_are_never_sold() -> None:
    """An entry that sells, an exit that buys and an exit of more than is held are all refused."""
    assert verdict_on(replace(ENTRY, side=Side.SELL)) == ["long only"]
    assert verdict_on(replace(EXIT, side=Side.BUY)) == ["own coins"]
    assert verdict_on(replace(EXIT, quantity=Decimal("5.00000001"))) == ["own coins"]


def test_an_order_of_a_kind_that_nobody_knows_is_no_entry() -> None:
    """A buy that calls itself neither entry nor exit is refused."""
    assert verdict_on(replace(ENTRY, kind="rebalance")) == ["own coins"]


@pytest.mark.parametrize("quantity", ["0.009", "0"])
def test_an_order_below_the_pairs_minimum_is_refused_here(quantity: str) -> None:
    """Less than 0.01 coins is refused for entries and exits alike."""
    assert verdict_on(replace(ENTRY, quantity=Decimal(quantity))) == ["minimum"]
    assert verdict_on(replace(EXIT, quantity=Decimal(quantity))) == ["minimum"]


def test_an_order_below_the_minimum_value_is_refused_here() -> None:
    """0.04 coins at 10 are worth 0.4, less than the 0.5 that the pair wants."""
    assert verdict_on(replace(ENTRY, quantity=Decimal("0.04"))) == ["minimum"]


def test_orders_of_one_decision_count_together() -> None:
    """Of two entries of 100 with 50 committed, a largest position of 200 allows the first; of two exits likewise."""
    both = check([ENTRY, ENTRY], CALM, LIMITS)
    assert (len(both.allowed), [one.rule for one in both.refusals]) == (1, ["position value"])
    exits = check([EXIT, EXIT], CALM, LIMITS)
    assert (len(exits.allowed), [one.rule for one in exits.refusals]) == (1, ["own coins"])


def test_an_exit_over_the_largest_order_is_sold_in_equal_parts() -> None:
    """30 coins at 10, with 100 for an order less 5 %, are sold as four parts of 7.5, and all of them are allowed."""
    state = replace(CALM, held_quantity=Decimal(30))
    parts = exit_parts(replace(EXIT, quantity=Decimal(30)), state, LIMITS)
    assert [part.quantity for part in parts] == [Decimal("7.5")] * 4
    assert len(check(parts, state, LIMITS).allowed) == 4


def test_the_last_part_takes_what_the_lot_grid_leaves() -> None:
    """10 coins at 20 in three parts are twice 3.33333333 and once 3.33333334."""
    state = replace(CALM, price=Decimal(20), held_quantity=Decimal(10))
    parts = exit_parts(replace(EXIT, quantity=Decimal(10)), state, LIMITS)
    assert [part.quantity for part in parts] == [Decimal("3.33333333")] * 2 + [Decimal("3.33333334")]


def test_an_exit_is_cut_to_what_is_held_and_free() -> None:
    """Of a position of 8, of which 5 are free, 5 are sold."""
    assert [one.quantity for one in exit_parts(replace(EXIT, quantity=Decimal(8)), CALM, LIMITS)] == [Decimal(5)]
