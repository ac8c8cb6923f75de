"""The stop under a position: when it is placed, kept, replaced and canceled. The broker is in memory."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal

from bot.base.errors import OrderOutcomeUnknownError, OrderRefusedError, TransportError
from bot.base.event_catalog import Event
from bot.base.models import ZERO, Order, OrderRequest, OrderStatus, PlacedOrder, Side
from bot.orders.reconciliation import Resolution
from bot.trading.strategies.base import StrategyContext
from tests.trading_fakes import (
    WIDE_LIMITS,
    FakeBroker,
    ScriptedStrategy,
    SteppedClock,
    buy,
    make_candles,
    make_order,
    make_pair,
    observe_context,
    run_trader,
    sell_all,
)

TEN = Decimal(10)
STOP_ID = "bot01|BTC/USD|script|1|stop|0"
EXIT_ID = "bot01|BTC/USD|script|300|exit|0"
REFUSED = OrderRefusedError("AddOrder", ["EOrder:Insufficient funds"])


def live_market(start_seconds: float = 361.0, closes: list[int] | None = None) -> tuple[FakeBroker, SteppedClock]:
    """Return a broker over a market at current prices, just after the candle of 300 has closed."""
    clock = SteppedClock(start_seconds)
    return FakeBroker(clock, {"BTC/USD": make_candles(closes or [100] * 30)}), clock


def holding_one(start_seconds: float = 361.0) -> tuple[FakeBroker, SteppedClock]:
    """Return the same with one coin that the bot bought at 100 by an order of second 1."""
    broker, clock = live_market(start_seconds)
    broker.orders["H"] = make_order("H", Side.BUY, "1", "100", opened_seconds=1.0, closed_seconds=2.0)
    broker.totals["BTC"] = Decimal(1)
    return broker, clock


def stops(broker: FakeBroker) -> list[Order]:
    """Return all stops that were ever placed."""
    return [order for order in broker.orders.values() if order.kind == "stop-loss"]


def open_stops(broker: FakeBroker) -> list[tuple[str, str]]:
    """Return quantity and trigger of the open stops."""
    return [(f"{order.volume - order.executed:f}", f"{order.price:f}") for order in stops(broker) if order.is_open]


def before_each_cancel(broker: FakeBroker, action: Callable[[str], object]) -> None:
    """Run an action just before each cancel arrives."""
    cancel = broker.cancel_order

    def late_cancel(txid: str, symbol: str | None = None) -> bool:
        action(txid)
        return cancel(txid, symbol)

    broker.cancel_order = late_cancel  # type: ignore[method-assign]


def test_an_entry_that_fills_gets_a_stop_and_keeps_it_after_the_run() -> None:
    """A coin bought at 100 with STOP_LOSS_PERCENT 10 has one stop at 90, still open after the run."""
    broker, clock = live_market()
    run_trader(broker, clock, ScriptedStrategy({300: buy("1")}), stop_loss_percent=TEN, max_cycles=4)
    assert open_stops(broker) == [("1", "90.0")]
    assert broker.sent_ids == [EXIT_ID.replace("exit", "entry"), STOP_ID.replace("|1|", "|361|")]


def test_without_the_setting_there_is_no_stop() -> None:
    """With STOP_LOSS_PERCENT 0 only the entry is sent."""
    broker, clock = live_market()
    run_trader(broker, clock, ScriptedStrategy({300: buy("1")}), max_cycles=4)
    assert len(broker.sent_ids) == 1


def test_a_stop_is_adopted_by_the_next_start() -> None:
    """A second run over the same account places no second stop."""
    broker, clock = holding_one()
    for _ in range(2):
        run_trader(broker, clock, ScriptedStrategy({}), stop_loss_percent=TEN, max_cycles=2)
    assert (broker.sent_ids, open_stops(broker)) == ([STOP_ID], [("1", "90.0")])


def test_a_stop_filled_while_the_bot_was_away_is_logged_by_the_next_start() -> None:
    """The next start logs once what a stop has sold meanwhile; the start after that does not."""
    broker, clock = holding_one()
    run_trader(broker, clock, ScriptedStrategy({}), stop_loss_percent=TEN, max_cycles=2)
    broker.execute("O2", Decimal(1))
    for expected in (["BTC/USD 90.0  filled while the bot was away: sell 1 of 1 for 90.00 USD, fee 0.00 (O2)"], []):
        _, event_log = run_trader(broker, clock, ScriptedStrategy({}), stop_loss_percent=TEN, max_cycles=2)
        assert event_log.of(Event.ORDER_ENDED).about(txid="O2").texts == expected


def test_a_changed_stop_loss_percent_replaces_the_stop() -> None:
    """After a restart with STOP_LOSS_PERCENT 20 the stop at 90 is canceled and one at 80 rests, under the next client
    order id."""
    broker, clock = holding_one()
    for percent in (TEN, Decimal(20)):
        run_trader(broker, clock, ScriptedStrategy({}), stop_loss_percent=percent, max_cycles=1)
    assert broker.sent_ids == [STOP_ID, STOP_ID.replace("stop", "stop2")]
    assert open_stops(broker) == [("1", "80.0")]


def test_an_exit_cancels_the_stop_first() -> None:
    """A coin under a stop is sold in one cycle: the stop is canceled, and then the coin is sold."""
    broker, clock = holding_one()
    run_trader(broker, clock, ScriptedStrategy({360: sell_all}), stop_loss_percent=TEN, max_cycles=10)
    assert broker.sent_ids == [STOP_ID, EXIT_ID.replace("300", "360")]
    assert (open_stops(broker), broker.totals["BTC"]) == ([], ZERO)


def test_coins_the_stop_sells_before_its_cancel_are_not_sold_again() -> None:
    """Of a coin of which the stop sells 0.3 just before its cancel, the exit sells 0.7."""
    broker, clock = holding_one()
    before_each_cancel(broker, lambda txid: broker.execute(txid, Decimal("0.3")))
    broker.totals["BTC"] = Decimal(5)
    run_trader(broker, clock, ScriptedStrategy({360: sell_all}), stop_loss_percent=TEN, max_cycles=10)
    assert [(order.side, order.executed) for order in broker.orders.values()][1:] == [
        (Side.SELL, Decimal("0.3")),
        (Side.SELL, Decimal("0.7")),
    ]
    assert broker.totals["BTC"] == 4


def test_a_stop_that_fills_before_its_cancel_leaves_nothing_to_sell() -> None:
    """If the stop sells the coin just before its cancel, no exit is sent, though the account has other coins."""
    broker, clock = holding_one()
    before_each_cancel(broker, lambda txid: broker.execute(txid, Decimal(1)))
    broker.totals["BTC"] = Decimal(5)
    run_trader(broker, clock, ScriptedStrategy({360: sell_all}), stop_loss_percent=TEN, max_cycles=10)
    assert broker.sent_ids == [STOP_ID]


def test_an_exit_waits_for_the_final_record_of_its_stop() -> None:
    """While the canceled stop is in neither list nothing is sold; when its record appears, the exit is sent."""
    broker, clock = holding_one()
    run_trader(broker, clock, ScriptedStrategy({}), stop_loss_percent=TEN, max_cycles=1)
    hidden: list[Order] = []
    closed, cancel = broker.get_closed_orders, broker.cancel_order

    def cancel_and_hide(txid: str, symbol: str | None = None) -> bool:
        done = cancel(txid, symbol)
        hidden.append(broker.orders[txid])
        return done

    def without_the_hidden(since_seconds: float = 0) -> list[Order]:
        late = clock.now() < 370
        return [order for order in closed(since_seconds) if not (late and order in hidden)]

    broker.cancel_order, broker.get_closed_orders = cancel_and_hide, without_the_hidden  # type: ignore[method-assign]
    times: list[float] = []
    place = broker.place_market_order

    def timed(*args: object, **kwargs: object) -> PlacedOrder:
        times.append(clock.now())
        return place(*args, **kwargs)  # type: ignore[arg-type]

    broker.place_market_order = timed  # type: ignore[method-assign]
    run_trader(broker, clock, ScriptedStrategy({300: sell_all}), stop_loss_percent=TEN, max_cycles=8)
    assert times == [370.0]
    assert broker.totals["BTC"] == ZERO


def limit_fills(broker: FakeBroker, max_quantity: str) -> None:
    """Let max slippage leave the quantity of each sale above `max_quantity` unfilled."""
    place = broker.place_market_order

    def partly(*args: object, **kwargs: object) -> PlacedOrder:
        before = broker.totals["BTC"]
        placed = place(*args, **kwargs)  # type: ignore[arg-type]
        order = broker.orders[placed.txid]
        filled = min(order.volume, Decimal(max_quantity))
        status = OrderStatus.CLOSED if filled == order.volume else OrderStatus.CANCELED
        broker.orders[placed.txid] = replace(order, executed=filled, cost=filled * order.price, status=status)
        broker.totals["BTC"] = before - filled
        return placed

    broker.place_market_order = partly  # type: ignore[method-assign]


def test_the_quantity_unfilled_within_max_slippage_is_sold_in_the_next_cycles() -> None:
    """An exit of 1 of which 0.4 fills, and then 0.4 of the rest, is complete in the third cycle of the same candle."""
    broker, clock = holding_one()
    limit_fills(broker, "0.4")
    run_trader(broker, clock, ScriptedStrategy({300: sell_all}), max_cycles=6)
    assert [f"{order.volume:f}" for order in broker.orders.values()][1:] == ["1.00000000", "0.60000000", "0.20000000"]
    assert broker.sent_ids == [EXIT_ID, EXIT_ID.replace("exit", "exit2"), EXIT_ID.replace("exit", "exit3")]
    assert [order.opened_seconds for order in broker.orders.values()][1:] == [361.0, 364.0, 367.0]
    assert broker.totals["BTC"] == ZERO


def test_a_partial_exit_unfilled_within_max_slippage_is_completed_and_the_rest_kept() -> None:
    """An exit of 0.5 of which 0.3 fills sells the other 0.2 in the next cycle, and then nothing more."""
    broker, clock = holding_one()
    limit_fills(broker, "0.3")

    def sell_half(context: StrategyContext) -> list[OrderRequest]:
        return [replace(order, quantity=order.quantity / 2) for order in sell_all(context)]

    run_trader(broker, clock, ScriptedStrategy({300: sell_half}), max_cycles=6)
    assert [f"{order.volume:f}" for order in broker.orders.values()][1:] == ["0.50000000", "0.20000000"]
    assert broker.totals["BTC"] == Decimal("0.5")


def test_a_refused_exit_restores_the_stop() -> None:
    """If Kraken refuses the exit after the stop was canceled, the coin has a stop again in the same cycle."""
    broker, clock = holding_one()
    run_trader(broker, clock, ScriptedStrategy({}), stop_loss_percent=TEN, max_cycles=1)
    broker.fail("place_sell", REFUSED)
    run_trader(broker, clock, ScriptedStrategy({300: sell_all}), stop_loss_percent=TEN, max_cycles=1)
    assert broker.sent_ids == [STOP_ID, EXIT_ID, STOP_ID.replace("stop", "stop2")]
    assert open_stops(broker) == [("1", "90.0")]


def test_another_entry_that_fills_moves_the_stop() -> None:
    """With a second coin bought at 80 the stop over one at 90 is replaced by one over two at 81."""
    closes = [100] * 6 + [80] * 10
    broker, clock = live_market(361.0, closes)
    buy_one = buy("1")

    def buy_more(context: StrategyContext) -> list[OrderRequest]:
        return buy_one(replace(context, position_quantity=ZERO))

    run_trader(broker, clock, ScriptedStrategy({300: buy_more, 360: buy_more}), stop_loss_percent=TEN, max_cycles=12)
    assert open_stops(broker) == [("2", "81.0")]
    assert [order.status for order in stops(broker)] == [OrderStatus.CANCELED, OrderStatus.OPEN]


def test_a_bot_that_only_watches_places_and_cancels_no_stop() -> None:
    """In the trading mode halt, no stop is placed, and one at another percentage stays."""
    broker, clock = holding_one()
    _, event_log = run_trader(
        broker,
        clock,
        ScriptedStrategy({}),
        stop_loss_percent=TEN,
        max_cycles=3,
        is_halted=lambda: True,
        is_watching=True,
    )
    assert broker.sent_ids == []
    assert event_log.of(Event.STOP_REFUSED_BY_RISK).values("rule") == ["halted"]
    run_trader(broker, clock, ScriptedStrategy({}), stop_loss_percent=TEN, max_cycles=1)
    run_trader(broker, clock, ScriptedStrategy({}), stop_loss_percent=Decimal(20), max_cycles=3, is_halted=lambda: True)
    assert open_stops(broker) == [("1", "90.0")]


def test_a_halted_bot_places_the_missing_stop_and_no_exit() -> None:
    """A halted bot that holds a coin without a stop places the stop, and not the exit that the strategy requests."""
    broker, clock = holding_one()
    run_trader(
        broker,
        clock,
        ScriptedStrategy({300: sell_all}),
        stop_loss_percent=TEN,
        max_cycles=3,
        is_halted=lambda: True,
    )
    assert broker.sent_ids == [STOP_ID]
    assert open_stops(broker) == [("1", "90.0")]


def test_a_halted_bot_adds_to_its_stops_and_cancels_none() -> None:
    """A halted bot that holds two coins under a stop for one at 90 keeps it and adds a stop for the other one."""
    broker, clock = holding_one()
    run_trader(broker, clock, ScriptedStrategy({}), stop_loss_percent=TEN, max_cycles=1)
    broker.orders["B2"] = make_order("B2", Side.BUY, "1", "100", volume=Decimal(1), closed_seconds=clock.now())
    broker.totals["BTC"] += 1
    run_trader(broker, clock, ScriptedStrategy({}), stop_loss_percent=Decimal(20), max_cycles=3, is_halted=lambda: True)
    assert open_stops(broker) == [("1", "90.0"), ("1", "80.0")]
    assert "cancel_order" not in broker.calls


def test_a_halted_bot_places_no_stop_that_would_sell_at_once() -> None:
    """With a trigger of 90 and a price of 90, a halted bot places no stop, which is said and alerted once; in a run
    that is not halted, it places the stop."""
    broker, clock = holding_one()
    broker.get_current_price = lambda symbol: Decimal(90)  # type: ignore[method-assign]
    _, event_log = run_trader(
        broker, clock, ScriptedStrategy({}), stop_loss_percent=TEN, max_cycles=3, is_halted=lambda: True
    )
    assert broker.sent_ids == []
    assert event_log.of(Event.STOP_BEYOND_TRIGGER).alerts.values("volume", "close", "price") == [(1, 90, 90)]
    run_trader(broker, clock, ScriptedStrategy({}), stop_loss_percent=TEN, max_cycles=3)
    assert open_stops(broker) == [("1", "90.0")]


def test_a_run_whose_account_cannot_be_read_at_the_end_names_what_it_leaves() -> None:
    """Without an answer at the end, the coin and its stop are named; with one, nothing is."""
    for failures, left in ((0, []), (99, [(1, 100, ["stop sell 1 at 90.0 (O2)"])])):
        broker, clock = holding_one()
        run_trader(broker, clock, ScriptedStrategy({}), stop_loss_percent=TEN, max_cycles=1)
        broker.fail("get_account_balance", *[TransportError("no answer")] * failures)
        _, event_log = run_trader(broker, clock, ScriptedStrategy({}), stop_loss_percent=TEN, max_cycles=1)
        assert event_log.of(Event.POSITION_LEFT).alerts.values("volume", "price", "orders") == left


def test_a_refused_stop_is_retried_after_a_minute() -> None:
    """A stop that Kraken refuses is an error in the log, and is sent again 60 s later, not in each cycle."""
    broker, clock = holding_one()
    broker.fail("place_sell", REFUSED)
    _, event_log = run_trader(broker, clock, ScriptedStrategy({}), stop_loss_percent=TEN, max_cycles=6)
    assert len(broker.sent_ids) == 1
    (refusal,) = event_log.of(Event.STOP_REFUSED)
    assert (refusal.event.level, refusal["kind"], refusal["price"]) == (logging.ERROR, "stop", 90)
    run_trader(broker, clock, ScriptedStrategy({}), stop_loss_percent=TEN, max_cycles=4)
    assert len(open_stops(broker)) == 1


def test_a_stop_with_an_unknown_outcome_is_not_sent_twice() -> None:
    """While the outcome of a stop is unknown no other is sent; reconciled as open, it is the only stop."""
    broker, clock = holding_one()
    broker.fail("place_sell", OrderOutcomeUnknownError("no answer", STOP_ID))
    reconcile = broker.reconcile_unknown_orders

    def reconcile_later() -> list[Resolution]:
        if broker.unknown and clock.now() > 361 + 70:
            order = make_order("S", Side.SELL, cl_ord_id=STOP_ID, kind="stop-loss", status=OrderStatus.OPEN)
            broker.orders["S"] = replace(order, volume=Decimal(1), price=Decimal("90.0"), opened_seconds=361.0)
            broker.resolutions = [Resolution(unknown, broker.orders["S"]) for unknown in broker.unknown]
        return reconcile()

    broker.reconcile_unknown_orders = reconcile_later  # type: ignore[method-assign]
    run_trader(broker, clock, ScriptedStrategy({}), stop_loss_percent=TEN, max_cycles=40)
    assert broker.sent_ids == [STOP_ID]
    assert open_stops(broker) == [("1", "90.0")]


def test_a_large_position_has_stops_in_parts() -> None:
    """A coin worth 100 with at most 60 per order has two stops of a half each, and an exit cancels both."""
    broker, clock = holding_one()
    limits = replace(WIDE_LIMITS, max_order_value=Decimal(60))
    run_trader(broker, clock, ScriptedStrategy({}), stop_loss_percent=TEN, max_cycles=2, limits=limits)
    assert open_stops(broker) == [("0.5", "90.0")] * 2
    run_trader(broker, clock, ScriptedStrategy({360: sell_all}), stop_loss_percent=TEN, max_cycles=9, limits=limits)
    assert (open_stops(broker), broker.totals["BTC"]) == ([], ZERO)


def test_a_stop_fill_is_logged_and_counted() -> None:
    """A stop that sells its coin at 90 makes an event, a fill, a loss of 10, and no remaining position."""
    broker, clock = holding_one()
    seen: list[Decimal] = []
    observe = observe_context(lambda context: seen.append(context.position_quantity))
    run_trader(broker, clock, ScriptedStrategy({}), stop_loss_percent=TEN, max_cycles=1)
    (stop,) = stops(broker)
    summary, event_log = run_trader(
        broker,
        clock,
        ScriptedStrategy({300: observe_context(lambda _view: broker.execute(stop.txid, Decimal(1))), 360: observe}),
        stop_loss_percent=TEN,
        max_cycles=9,
    )
    assert event_log.of(Event.ORDER_FILLED).values("side", "volume", "price") == [(Side.SELL, 1, 90)]
    assert (summary.orders.fills, summary.realised, seen[-1]) == (1, Decimal(-10), ZERO)
    assert broker.sent_ids == [STOP_ID]


def test_with_stop_loss_disabled_an_existing_stop_stays_until_an_exit() -> None:
    """A stop of an earlier run stays with STOP_LOSS_PERCENT 0, and an exit cancels it before it sells."""
    broker, clock = holding_one()
    run_trader(broker, clock, ScriptedStrategy({}), stop_loss_percent=TEN, max_cycles=1)
    run_trader(broker, clock, ScriptedStrategy({}), max_cycles=1)
    assert open_stops(broker) == [("1", "90.0")]
    run_trader(broker, clock, ScriptedStrategy({360: sell_all}), max_cycles=9)
    assert (open_stops(broker), broker.totals["BTC"]) == ([], ZERO)


def test_a_candle_with_an_exit_is_not_entered_again() -> None:
    """A bot that restarts in the candle of its exit and would buy, because it holds nothing, buys nothing."""
    broker, clock = holding_one()

    def in_or_out(context: StrategyContext) -> list[OrderRequest]:
        return sell_all(context) or buy("1")(context)

    for _ in range(2):
        run_trader(broker, clock, ScriptedStrategy({300: in_or_out}), max_cycles=2)
    assert broker.sent_ids == [EXIT_ID]


def test_a_pending_stop_is_placed_before_the_regular_poll() -> None:
    """An entry whose record appears two seconds late has its stop three seconds after it was placed."""
    broker, clock = live_market()
    opened, closed = broker.get_open_orders, broker.get_closed_orders
    broker.get_open_orders = lambda: opened() if clock.now() > 363 else []  # type: ignore[method-assign]
    broker.get_closed_orders = lambda since_seconds=0: closed(since_seconds) if clock.now() > 363 else []  # type: ignore[method-assign]
    run_trader(broker, clock, ScriptedStrategy({300: buy("1")}), stop_loss_percent=TEN, max_cycles=4)
    assert [stop.opened_seconds for stop in stops(broker)] == [364.0]


def test_coins_below_the_minimum_cost_at_the_stop_price_get_no_stop() -> None:
    """Half a coin bought at 1 has no stop: at 0.9 it is worth 0.45, less than the pair's minimum cost of 0.5."""
    broker, clock = live_market(closes=[1] * 30)
    broker.orders["H"] = make_order("H", Side.BUY, "0.5", "0.5", opened_seconds=1.0, closed_seconds=2.0)
    broker.totals["BTC"] = Decimal("0.5")
    run_trader(broker, clock, ScriptedStrategy({}), stop_loss_percent=TEN, max_cycles=3)
    assert broker.sent_ids == []


def tiny_price_market(average: str) -> tuple[FakeBroker, SteppedClock]:
    """Return a market whose price ticks are as large as its price of 1, with 100 coins bought at `average`."""
    broker, clock = live_market(closes=[1] * 30)
    pair = replace(make_pair(), price_decimals=0, tick_size=Decimal(1))
    broker.pair = lambda symbol: pair  # type: ignore[method-assign]
    cost = str(Decimal(average) * 100)
    broker.orders["H"] = make_order("H", Side.BUY, "100", cost, opened_seconds=1.0, closed_seconds=2.0)
    broker.totals["BTC"] = Decimal(100)
    return broker, clock


def test_a_stop_is_below_the_entry_also_where_a_tick_is_more_than_its_distance() -> None:
    """Coins bought at 2, with ticks of 1, have their stop of 10 percent at 1, and not at 2."""
    broker, clock = tiny_price_market("2")
    run_trader(broker, clock, ScriptedStrategy({}), stop_loss_percent=TEN, max_cycles=3)
    assert open_stops(broker) == [("100", "1")]


def test_a_stop_without_a_tick_below_the_market_is_refused_aloud() -> None:
    """Coins bought at 1, the lowest price there is, get no stop, and each candle logs one error that says so."""
    broker, clock = tiny_price_market("1")
    _, event_log = run_trader(broker, clock, ScriptedStrategy({}), stop_loss_percent=TEN, max_cycles=3)
    refusals = event_log.of(Event.STOP_REFUSED_BY_RISK)
    assert (broker.sent_ids, refusals.values("rule")) == ([], ["stop price"])
