"""A signal that is decided again in its candle, after an error or a restart: a placed order is never placed twice."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

from bot.base.errors import NoAnswerError, NotSentError, OrderBlockedError, OrderOutcomeUnknownError
from bot.base.event_catalog import Event
from bot.base.models import ZERO, Order, OrderRequest, OrderStatus, Side, SystemStatus
from bot.orders.reconciliation import Resolution, UnknownOrder
from bot.trading.strategies.base import StrategyContext
from tests.trading_fakes import (
    WIDE_LIMITS,
    FakeBroker,
    ScriptedStrategy,
    SteppedClock,
    buy,
    make_candles,
    make_order,
    observe_context,
    run_trader,
    sell_all,
    stop_during_reconciliation,
)

ENTRY_ID, EXIT_ID = "bot01|BTC/USD|script|180|entry|0", "bot01|BTC/USD|script|300|exit|0"
SECOND_ID = EXIT_ID.replace("exit", "exit2")
TWO_PARTS = replace(WIDE_LIMITS, max_order_value=Decimal(60))


def live_market(start_seconds: float) -> tuple[FakeBroker, SteppedClock]:
    """Return a broker over a flat market at current prices."""
    clock = SteppedClock(start_seconds)
    return FakeBroker(clock, {"BTC/USD": make_candles([100] * 12)}), clock


def holding_one() -> tuple[FakeBroker, SteppedClock]:
    """Return a market just after the candle of 300, with a coin that the bot bought at 100."""
    broker, clock = live_market(361.0)
    broker.orders["H"] = make_order("H", Side.BUY, "1", "100", opened_seconds=1.0, closed_seconds=2.0)
    broker.totals["BTC"] = Decimal(1)
    return broker, clock


def fail_second_sale(broker: FakeBroker, error: Exception) -> None:
    """Let the second sale fail."""
    place, sales = broker.place_market_order, iter([False, True])

    def failing(*args: object, **kwargs: object) -> object:
        if next(sales, False):
            broker.fail("place_sell", error)
        return place(*args, **kwargs)  # type: ignore[arg-type]

    broker.place_market_order = failing  # type: ignore[method-assign,assignment]


def prove_not_placed(broker: FakeBroker) -> None:
    """Let the next reconciliation prove that unknown orders were not placed."""
    reconcile = broker.reconcile_unknown_orders

    def reconcile_as_not_placed() -> list[Resolution]:
        broker.resolutions = [Resolution(unknown, None) for unknown in broker.unknown]
        return reconcile()

    broker.reconcile_unknown_orders = reconcile_as_not_placed  # type: ignore[method-assign]


def sell_half(context: StrategyContext) -> list[OrderRequest]:
    """Request an exit from half of the position."""
    return [replace(order, quantity=order.quantity / 2) for order in sell_all(context)]


def test_the_rest_of_an_exit_is_sent_after_a_lost_connection() -> None:
    """If the second of two parts was not sent, it is sent in the next cycle, and the first is not sent again."""
    broker, clock = holding_one()
    fail_second_sale(broker, NotSentError("no connection"))
    run_trader(broker, clock, ScriptedStrategy({300: sell_all}), max_cycles=4, limits=TWO_PARTS)
    assert broker.sent_ids == [EXIT_ID, SECOND_ID, SECOND_ID]
    assert broker.totals["BTC"] == ZERO


def test_the_rest_of_an_exit_is_sent_after_it_was_proved_not_placed() -> None:
    """If the second of two parts is unknown and then proved absent, it is sent as a new attempt."""
    broker, clock = holding_one()
    fail_second_sale(broker, OrderOutcomeUnknownError("no answer", SECOND_ID))
    prove_not_placed(broker)
    run_trader(broker, clock, ScriptedStrategy({300: sell_all}), max_cycles=4, limits=TWO_PARTS)
    assert broker.sent_ids == [EXIT_ID, SECOND_ID, SECOND_ID.replace("|0", "|1")]
    assert broker.totals["BTC"] == ZERO


def test_the_rest_of_an_exit_is_sent_after_a_restart() -> None:
    """A bot that ended between two parts sells the rest in the same candle, as the second part."""
    broker, clock = holding_one()
    broker.orders["S"] = make_order(
        "S", Side.SELL, "0.5", "50", cl_ord_id=EXIT_ID, opened_seconds=361, closed_seconds=361
    )
    broker.totals["BTC"] = Decimal("0.5")
    run_trader(broker, clock, ScriptedStrategy({300: sell_all}), max_cycles=1, limits=TWO_PARTS)
    assert broker.sent_ids == [SECOND_ID]
    assert broker.totals["BTC"] == ZERO


def test_a_partial_exit_is_not_repeated_after_a_restart() -> None:
    """A strategy that sells half in a candle decides again after a restart, and nothing more is sold."""
    broker, clock = holding_one()
    for _run in range(3):
        run_trader(broker, clock, ScriptedStrategy({300: sell_half}), max_cycles=1)
        clock.time_seconds = 362.0
    assert broker.placed()[1:] == [("sell", "0.50000000", "100")]


def test_a_second_attempt_is_known_after_a_restart() -> None:
    """An entry that was proved absent, placed by a second attempt and canceled is not placed in the next run."""
    broker, clock = live_market(241.0)
    broker.fills_limits = False
    broker.fail("place_buy", OrderOutcomeUnknownError("no answer", ENTRY_ID))
    prove_not_placed(broker)
    strategy = ScriptedStrategy({180: buy("1")})
    run_trader(broker, clock, strategy, max_cycles=4)
    clock.time_seconds = 285.0
    run_trader(broker, clock, strategy, max_cycles=1)
    assert broker.sent_ids == [ENTRY_ID, ENTRY_ID.replace("|0", "|1")]


def test_a_signal_proved_not_placed_is_retried_although_the_next_query_failed() -> None:
    """An entry is sent again after its proof, even if the read after the proof fails."""
    broker, clock = live_market(241.0)
    broker.orders["E"] = make_order("E", Side.BUY, symbol="ETH/USD", status=OrderStatus.OPEN, volume=Decimal(1))
    broker.fail("place_buy", OrderOutcomeUnknownError("no answer", ENTRY_ID))
    prove_not_placed(broker)
    reconcile = broker.reconcile_unknown_orders

    def reconcile_then_fail() -> list[Resolution]:
        resolutions = reconcile()
        if resolutions:
            broker.fail("get_open_orders", NoAnswerError("half an answer"))
        return resolutions

    broker.reconcile_unknown_orders = reconcile_then_fail  # type: ignore[method-assign]
    run_trader(broker, clock, ScriptedStrategy({180: buy("1")}), max_cycles=4)
    assert broker.sent_ids == [ENTRY_ID, ENTRY_ID.replace("|0", "|1")]


def test_an_outcome_found_by_the_queries_of_another_order_is_applied() -> None:
    """An entry whose outcome arrives when nothing is unknown any more is the position in the next decision."""
    broker, clock = live_market(301.0)
    order = make_order("L", Side.BUY, "1", "100", cl_ord_id=ENTRY_ID, opened_seconds=245.0, closed_seconds=245.0)
    unknown = UnknownOrder(ENTRY_ID, "BTC/USD", Side.BUY, Decimal(1), Decimal(100), 245.0, 253.0)
    reconcile = broker.reconcile_unknown_orders

    def reconcile_as_placed() -> list[Resolution]:
        if "L" not in broker.orders:
            broker.orders["L"] = order
            broker.totals["BTC"] = Decimal(1)
            broker.resolutions = [Resolution(unknown, order)]
        return reconcile()

    broker.reconcile_unknown_orders = reconcile_as_placed  # type: ignore[method-assign]
    seen: list[Decimal] = []
    run_trader(
        broker,
        clock,
        ScriptedStrategy({240: observe_context(lambda context: seen.append(context.position_quantity))}),
        max_cycles=1,
    )
    assert set(seen) == {Decimal(1)}


def test_an_exit_blocked_by_another_order_is_sent_later() -> None:
    """If another process's order blocks the pair, the exit of the candle is sent in a later cycle."""
    broker, clock = holding_one()
    broker.fail("place_sell", OrderBlockedError("its pair has an order whose outcome is unknown"))
    run_trader(broker, clock, ScriptedStrategy({300: sell_all}), max_cycles=3)
    assert broker.sent_ids == [EXIT_ID, EXIT_ID]
    assert broker.totals["BTC"] == ZERO


def test_a_failed_trade_history_query_does_not_block_an_exit() -> None:
    """However often the trade history fails, the exit is sent; the error is logged once."""
    broker, clock = holding_one()
    broker.fail("get_trades_page", *[NoAnswerError("half an answer")] * 100)
    _, event_log = run_trader(broker, clock, ScriptedStrategy({300: sell_all}), max_cycles=6)
    assert broker.sent_ids == [EXIT_ID]
    assert event_log.of(Event.FILLS_FETCH_FAILED).texts == ["The fills are fetched later: half an answer"]


def test_the_rest_of_an_exit_is_sent_after_any_number_of_attempts() -> None:
    """If a part of an exit was placed by its twelfth attempt, the next part is still the next."""
    broker, clock = holding_one()
    broker.fail("place_sell", *[OrderOutcomeUnknownError("no answer", "")] * 11)
    prove_not_placed(broker)
    clock.wait_until = lambda when_seconds, stop: stop.is_set()  # type: ignore[method-assign]
    run_trader(broker, clock, ScriptedStrategy({300: sell_all}), max_cycles=15, limits=TWO_PARTS)
    attempts = [EXIT_ID.replace("|0", f"|{attempt}") for attempt in range(12)]
    assert broker.sent_ids == [*attempts, SECOND_ID]
    assert broker.totals["BTC"] == ZERO


def let_order_arrive_late(broker: FakeBroker, clock: SteppedClock, order: Order, coins: str) -> None:
    """Let an order of an earlier run appear in Kraken's order lists when it opens, and change the balance."""
    get_open_orders, get_closed_orders = broker.get_open_orders, broker.get_closed_orders

    def arrive() -> None:
        if clock.now() >= order.opened_seconds and order.txid not in broker.orders:
            broker.orders[order.txid] = order
            broker.totals["BTC"] = Decimal(coins)

    def read_open() -> list[Order]:
        arrive()
        return get_open_orders()

    def read_closed(since_seconds: float = 0) -> list[Order]:
        arrive()
        return get_closed_orders(since_seconds)

    broker.get_open_orders = read_open  # type: ignore[method-assign]
    broker.get_closed_orders = read_closed  # type: ignore[method-assign]


def test_an_earlier_entry_that_arrives_after_the_start_is_found() -> None:
    """A buy of an earlier run that fills five seconds after the start is the position in the first decision."""
    broker, clock = live_market(305.0)
    broker.history_complete_at_seconds = 321.0
    order = make_order("L", Side.BUY, "1", "100", cl_ord_id=ENTRY_ID, opened_seconds=310.0, closed_seconds=310.0)
    let_order_arrive_late(broker, clock, order, "1")
    seen: list[Decimal] = []
    run_trader(
        broker,
        clock,
        ScriptedStrategy({300: observe_context(lambda context: seen.append(context.position_quantity))}),
        max_cycles=9,
    )
    assert set(seen) == {Decimal(1)}


def test_an_earlier_exit_that_arrives_after_the_start_is_not_repeated() -> None:
    """A sale of an earlier run that fills five seconds after the start leaves nothing to sell."""
    broker, clock = holding_one()
    broker.history_complete_at_seconds = 377.0
    broker.totals["BTC"] = Decimal(5)
    sold = make_order("L", Side.SELL, "1", "100", cl_ord_id="bot01-240", opened_seconds=366.0, closed_seconds=366.0)
    let_order_arrive_late(broker, clock, sold, "4")
    run_trader(broker, clock, ScriptedStrategy({300: sell_all}), max_cycles=3)
    assert broker.sent_ids == []


def test_a_bot_stopped_during_start_up_reconciliation_sends_no_order() -> None:
    """Stopped before its history is complete, the bot sends no exit."""
    broker, clock = holding_one()
    stop = stop_during_reconciliation(broker)
    run_trader(broker, clock, ScriptedStrategy({300: sell_all}), max_cycles=3, stop=stop)
    assert broker.sent_ids == []


def test_an_entry_blocked_by_the_trading_status_is_sent_in_its_candle() -> None:
    """Refused while the exchange accepts cancels only, the entry is sent in the same candle once it is online."""
    broker, clock = live_market(241.0)
    broker.status = "cancel_only"
    get_system_status = broker.system_status

    def recover_after_this_answer() -> SystemStatus:
        answer = get_system_status()
        broker.status = "online"
        return answer

    broker.system_status = recover_after_this_answer  # type: ignore[method-assign]
    run_trader(broker, clock, ScriptedStrategy({180: buy("1")}), max_cycles=5)
    assert broker.sent_ids == [ENTRY_ID]
