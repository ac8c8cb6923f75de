"""Which orders the risk rules allow, and the reasons for their refusals."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

import pytest

from bot.base.models import OrderRequest, Side, SystemStatus
from bot.trading.risk import RiskLimits, RiskState, check_orders, split_exit
from tests.trading_fakes import make_pair

LIMITS = RiskLimits(
    max_order_value=Decimal(100),
    max_position_value=Decimal(200),
    max_daily_loss=Decimal(50),
    cooldown_seconds=600.0,
)
NORMAL_STATE = RiskState(
    pair=make_pair(),
    timeframe_seconds=60,
    now_seconds=10_000.0,
    price=Decimal(10),
    closed_seconds=9_999.0,
    status=SystemStatus("online", 9_990.0),
    pair_status="online",
    is_halted=False,
    is_stopping=False,
    is_history_loaded=True,
    unresolved_order="",
    held_quantity=Decimal(5),
    committed_quantity=Decimal(5),
    realised_loss_today=Decimal(0),
    last_loss_seconds=None,
)
ENTRY = OrderRequest("BTC/USD", Side.BUY, Decimal(10), Decimal(10), "entry", 9_900, "the test")
EXIT = OrderRequest("BTC/USD", Side.SELL, Decimal(5), None, "exit", 9_900, "the test")

BLOCKS_ALL_ORDERS: dict[str, dict[str, object]] = {
    "halted": {"is_halted": True},
    "trading status": {"status": SystemStatus("maintenance", 9_990.0)},
    "stale prices": {"closed_seconds": 9_879.0},
    "unresolved order": {"unresolved_order": "X, sent 3 s ago, was not answered"},
}
BLOCKS_ENTRIES: dict[str, dict[str, object]] = {
    "entries paused": {"entries_paused": True},
    "stopping": {"is_stopping": True},
    "history": {"is_history_loaded": False},
    "position value": {"committed_quantity": Decimal("10.01")},
    "daily loss": {"realised_loss_today": Decimal(50)},
    "cooldown": {"last_loss_seconds": 9_401.0},
}


def refusing_rules(order: OrderRequest, **fields: object) -> list[str]:
    """Return the rules that refuse an order in the default state with these fields changed."""
    state = replace(NORMAL_STATE, **fields)  # type: ignore[arg-type]  # the test names the fields
    return [refusal.rule for refusal in check_orders([order], state, LIMITS).refusals]


@pytest.mark.parametrize("order", [ENTRY, EXIT], ids=["entry", "exit"])
def test_orders_within_the_limits_are_allowed(order: OrderRequest) -> None:
    """Exactly at the maximum order and position values, with fresh data, an order is allowed."""
    verdict = check_orders([order], NORMAL_STATE, LIMITS)
    assert (verdict.allowed, verdict.refusals) == ((order,), ())


@pytest.mark.parametrize("order", [ENTRY, EXIT], ids=["entry", "exit"])
@pytest.mark.parametrize("rule", BLOCKS_ALL_ORDERS)
def test_unknown_conditions_and_a_halt_refuse_every_order(rule: str, order: OrderRequest) -> None:
    """Entries and exits are both refused, by this rule."""
    assert refusing_rules(order, **BLOCKS_ALL_ORDERS[rule]) == [rule]


@pytest.mark.parametrize("rule", BLOCKS_ENTRIES)
def test_limits_refuse_entries_and_never_an_exit(rule: str) -> None:
    """The rule refuses an entry and allows an exit."""
    assert refusing_rules(ENTRY, **BLOCKS_ENTRIES[rule]) == [rule]
    assert refusing_rules(EXIT, **BLOCKS_ENTRIES[rule]) == []


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
def test_an_order_is_allowed_only_when_exchange_and_pair_status_allow_it(status: str, entry: bool, exit_: bool) -> None:
    """The status of the exchange or the pair decides: entries are limit orders, exits are sales of held coins."""
    for order, allowed in ((ENTRY, entry), (EXIT, exit_)):
        refused = [] if allowed else ["trading status"]
        assert refusing_rules(order, status=SystemStatus(status, 9_990.0)) == refused
        assert refusing_rules(order, pair_status=status) == refused


def test_a_pair_without_a_status_is_traded() -> None:
    """If Kraken gives no status for a pair, an entry is allowed."""
    assert refusing_rules(ENTRY, pair_status="") == []


def test_a_stop_is_refused_when_it_could_not_rest() -> None:
    """A bot that only watches, any status but online, and a quantity above the held one refuse a stop; nothing else
    does, not even a halt."""
    stop = replace(EXIT, kind="stop", price=Decimal(9))
    assert refusing_rules(stop, is_halted=True, is_watching=True) == ["halted"]
    assert refusing_rules(stop, is_halted=True) == []
    for status in ("maintenance", "cancel_only", "post_only", "limit_only", "reduce_only"):
        assert refusing_rules(stop, pair_status=status) == ["trading status"]
    assert refusing_rules(stop, held_quantity=Decimal("4.9")) == ["managed position"]
    others: dict[str, object] = {"closed_seconds": 0.0, "unresolved_order": "X"}
    for fields in (others, *BLOCKS_ENTRIES.values()):
        assert refusing_rules(stop, **fields) == []


def test_an_old_or_missing_system_status_refuses() -> None:
    """A status that is 60 s old is accepted; one of 61 s, or none, is refused."""
    assert refusing_rules(EXIT, status=SystemStatus("online", 9_940.0)) == []
    assert refusing_rules(EXIT, status=SystemStatus("online", 9_939.0)) == ["trading status"]
    assert refusing_rules(EXIT, status=None) == ["trading status"]


def test_a_last_candle_older_than_two_timeframes_refuses() -> None:
    """A candle that closed 120 s ago is accepted with a timeframe of 60 s; one of 121 s ago is refused."""
    assert refusing_rules(EXIT, closed_seconds=9_880.0) == []
    assert refusing_rules(EXIT, closed_seconds=9_879.0) == ["stale prices"]


def test_an_entry_above_max_order_value_is_refused_with_both_values() -> None:
    """An entry of 10.1 at 10 is refused, because it is worth 101.00 USD, more than 100."""
    [refusal] = check_orders([replace(ENTRY, quantity=Decimal("10.1"))], NORMAL_STATE, LIMITS).refusals
    assert refusal.reason == "it is worth 101.00 USD, more than 100 for one order"


def test_a_market_entry_is_valued_at_the_last_close() -> None:
    """An entry without a price of its own is worth its quantity times the last close."""
    assert refusing_rules(replace(ENTRY, price=None, quantity=Decimal("10.1"))) == ["order value"]


def test_the_cooldown_ends_on_time() -> None:
    """A loss exactly 600 s ago no longer refuses an entry."""
    assert refusing_rules(ENTRY, last_loss_seconds=9_400.0) == []


def test_coins_outside_the_managed_position_are_never_sold() -> None:
    """An entry that sells, an exit that buys and an exit of more than is held are all refused."""
    assert refusing_rules(replace(ENTRY, side=Side.SELL)) == ["long only"]
    assert refusing_rules(replace(EXIT, side=Side.BUY)) == ["managed position"]
    assert refusing_rules(replace(EXIT, quantity=Decimal("5.00000001"))) == ["managed position"]


def test_an_order_of_an_unknown_kind_is_not_an_entry() -> None:
    """A buy that calls itself neither entry nor exit is refused."""
    assert refusing_rules(replace(ENTRY, kind="rebalance")) == ["managed position"]


@pytest.mark.parametrize("quantity", ["0.009", "0"])
def test_an_order_below_the_minimum_quantity_is_refused(quantity: str) -> None:
    """Less than 0.01 coins is refused for entries and exits."""
    assert refusing_rules(replace(ENTRY, quantity=Decimal(quantity))) == ["minimum"]
    assert refusing_rules(replace(EXIT, quantity=Decimal(quantity))) == ["minimum"]


def test_an_order_below_the_minimum_cost_is_refused() -> None:
    """0.04 coins at 10 are worth 0.4, less than the pair's minimum cost of 0.5."""
    assert refusing_rules(replace(ENTRY, quantity=Decimal("0.04"))) == ["minimum"]


def test_orders_of_one_decision_are_checked_cumulatively() -> None:
    """Of two entries of 100 with 50 committed, a maximum position value of 200 allows the first; likewise for two
    exits."""
    both = check_orders([ENTRY, ENTRY], NORMAL_STATE, LIMITS)
    assert (len(both.allowed), [refusal.rule for refusal in both.refusals]) == (1, ["position value"])
    exits = check_orders([EXIT, EXIT], NORMAL_STATE, LIMITS)
    assert (len(exits.allowed), [refusal.rule for refusal in exits.refusals]) == (1, ["managed position"])


def test_an_exit_above_max_order_value_is_split_into_equal_parts() -> None:
    """30 coins at 10, with at most 100 per order less 5 %, are sold in four allowed parts of 7.5."""
    state = replace(NORMAL_STATE, held_quantity=Decimal(30))
    parts = split_exit(replace(EXIT, quantity=Decimal(30)), state, LIMITS)
    assert [part.quantity for part in parts] == [Decimal("7.5")] * 4
    assert len(check_orders(parts, state, LIMITS).allowed) == 4


def test_the_last_part_takes_the_rounding_remainder() -> None:
    """10 coins at 20 in three parts are twice 3.33333333 and once 3.33333334."""
    state = replace(NORMAL_STATE, price=Decimal(20), held_quantity=Decimal(10))
    parts = split_exit(replace(EXIT, quantity=Decimal(10)), state, LIMITS)
    assert [part.quantity for part in parts] == [Decimal("3.33333333")] * 2 + [Decimal("3.33333334")]


def test_an_exit_is_limited_to_the_free_quantity() -> None:
    """Of a position of 8, of which 5 are free, 5 are sold."""
    assert [part.quantity for part in split_exit(replace(EXIT, quantity=Decimal(8)), NORMAL_STATE, LIMITS)] == [
        Decimal(5)
    ]


@pytest.mark.parametrize(
    ("order", "fields", "rules"),
    [
        (EXIT, {"answered_seconds": 9_880.0}, []),
        (EXIT, {"answered_seconds": 9_879.0}, ["stale prices"]),
        (ENTRY, {"answered_seconds": 10_000.0}, ["stale prices"]),
        (ENTRY, {"answered_seconds": 10_000.0, "confirmed_seconds": 9_880.0}, []),
        (ENTRY, {"answered_seconds": 10_000.0, "confirmed_seconds": 9_879.0}, ["stale prices"]),
    ],
)
def test_in_a_quiet_market_an_exit_needs_an_answer_and_an_entry_a_price(
    order: OrderRequest, fields: dict[str, object], rules: list[str]
) -> None:
    """Four minutes after the last candle of one minute, an exit is allowed while Kraken's last answer is at most two
    timeframes old, and an entry while the last answer that confirms the price is."""
    assert refusing_rules(order, closed_seconds=9_760.0, **fields) == rules


SMALL_PAIR = replace(make_pair(), order_minimum=Decimal("0.00005"))


def test_an_exit_is_never_cut_below_the_pairs_minimum() -> None:
    """0.00008 coins at 100000, with at most 8 per order and a minimum of 0.00005, are sold in one part."""
    state = replace(NORMAL_STATE, pair=SMALL_PAIR, price=Decimal(100_000), held_quantity=Decimal("0.00008"))
    parts = split_exit(replace(EXIT, quantity=Decimal(1)), state, replace(LIMITS, max_order_value=Decimal(8)))
    assert [part.quantity for part in parts] == [Decimal("0.00008")]


def test_parts_keep_the_minimum_cost_at_the_worst_price() -> None:
    """0.0001 coins at 10000, with a minimum cost of 0.5 and one percent of slippage, are not cut into parts of
    0.00005, which cost 0.495 at the worst price."""
    state = replace(NORMAL_STATE, pair=SMALL_PAIR, price=Decimal(10_000), held_quantity=Decimal("0.0001"))
    limits = replace(LIMITS, max_order_value=Decimal("0.6"))
    parts = split_exit(replace(EXIT, quantity=Decimal(1)), state, limits)
    assert [part.quantity for part in parts] == [Decimal("0.0001")]


def test_an_exit_below_the_minimum_cost_at_the_worst_price_is_refused() -> None:
    """0.0504 coins at 10 are worth 0.504, and 0.49896 one percent lower: less than the minimum cost of 0.5."""
    assert refusing_rules(replace(EXIT, quantity=Decimal("0.0504"))) == ["minimum"]


def test_no_maximum_order_value_keeps_coins_that_kraken_would_sell() -> None:
    """Whatever the maximum from one to forty minima, each part is at least a minimum and exceeds the maximum by at most
    one, and the parts are all of the position."""
    minimum = Decimal("0.00005")
    for maximum in range(100, 4000, 7):
        limits = replace(LIMITS, max_order_value=Decimal(maximum) / 19)
        most = limits.max_order_value / 100_000 + minimum
        for held in range(5, 400, 13):
            held_quantity = Decimal(held).scaleb(-5)
            state = replace(NORMAL_STATE, pair=SMALL_PAIR, price=Decimal(100_000), held_quantity=held_quantity)
            parts = [part.quantity for part in split_exit(replace(EXIT, quantity=Decimal(1)), state, limits)]
            assert (sum(parts), min(parts) >= minimum, max(parts) <= most) == (held_quantity, True, True)


def test_a_maximum_below_the_pairs_minimum_leaves_less_than_one_minimum() -> None:
    """0.00009 coins with a maximum of 1 and a minimum worth 5 are sold up to 0.0000595; the rest is below the
    minimum."""
    state = replace(NORMAL_STATE, pair=SMALL_PAIR, price=Decimal(100_000), held_quantity=Decimal("0.00009"))
    parts = split_exit(replace(EXIT, quantity=Decimal(1)), state, replace(LIMITS, max_order_value=Decimal(1)))
    assert [part.quantity for part in parts] == [Decimal("0.0000595")]
