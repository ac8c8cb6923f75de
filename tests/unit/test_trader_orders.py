"""How the trader handles orders: exactly one per signal, whatever happens between sending and the outcome."""

from __future__ import annotations

import logging
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from bot.base.clock import ReplayClock
from bot.base.errors import (
    CircuitOpenError,
    NoAnswerError,
    OrderOutcomeUnknownError,
    OrderRefusedError,
    OrderRuleError,
    SymbolError,
)
from bot.base.event_catalog import Event
from bot.base.models import ZERO, Balance, OrderRequest, OrderStatus, Pair, Side
from bot.orders.reconciliation import Resolution
from bot.trading.strategies.base import StrategyContext
from tests.trading_fakes import (
    WIDE_LIMITS,
    FakeBroker,
    InstantEvent,
    ScriptedStrategy,
    SteppedClock,
    buy,
    make_candles,
    make_order,
    observe_context,
    run_trader,
    sell_all,
)

FLAT = [100] * 12
ENTRY_ID, EXIT_ID = "bot01|BTC/USD|script|180|entry|0", "bot01|BTC/USD|script|300|exit|0"
REFUSED = OrderRefusedError("AddOrder", ["EOrder:Insufficient funds"])
UNKNOWN = OrderOutcomeUnknownError("no answer", ENTRY_ID)


def replay_market(closes: list[int] | None = None) -> tuple[FakeBroker, ReplayClock]:
    """Return a broker over a market that is replayed from its first candle to its last."""
    closes = closes or FLAT
    clock = ReplayClock(60.0, len(closes) * 60.0)
    return FakeBroker(clock, {"BTC/USD": make_candles(closes)}), clock


def live_market(start_seconds: float = 241.0) -> tuple[FakeBroker, SteppedClock]:
    """Return a broker over a flat market at current prices, just after the candle of 180 has closed."""
    clock = SteppedClock(start_seconds)
    return FakeBroker(clock, {"BTC/USD": make_candles(FLAT)}), clock


def hold_one(broker: FakeBroker) -> None:
    """Give the account one coin that the bot bought at 100, in the order records and in the balance."""
    broker.orders["H"] = make_order("H", Side.BUY, "1", "100", opened_seconds=1.0, closed_seconds=2.0)
    broker.totals["BTC"] = Decimal(1)


def test_a_restart_within_the_candle_does_not_place_the_signal_again() -> None:
    """A second trader over the same account decides the entry of the same candle, and sends nothing."""
    broker, clock = live_market()
    broker.fills_limits = False
    strategy = ScriptedStrategy({180: buy("1")})
    run_trader(broker, clock, strategy, max_cycles=1, cancel_entries_on_stop=True)
    clock.time_seconds = 245.0
    _, event_log = run_trader(broker, clock, strategy, max_cycles=1)
    assert broker.sent_ids == [ENTRY_ID]
    repeated = event_log.of(Event.SIGNAL_ALREADY_PLACED)
    assert repeated.values("kind", "side", "volume", "cl_ord_id") == [("entry", Side.BUY, 1, ENTRY_ID)]


def test_a_refused_order_is_logged_with_its_reason_and_the_run_continues() -> None:
    """An entry that Kraken refuses is one warning and one refused order; the next entry is placed."""
    broker, clock = replay_market()
    broker.fail("place_buy", REFUSED)
    summary, event_log = run_trader(broker, clock, ScriptedStrategy({180: buy("1"), 240: buy("1")}))
    assert (summary.orders.refused, summary.orders.placed, summary.error) == (1, 1, None)
    (refusal,) = event_log.of(Event.ORDER_REFUSED)
    assert (refusal.event.level, refusal["cl_ord_id"], refusal["error"]) == (logging.WARNING, ENTRY_ID, REFUSED)
    assert refusal.text == "BTC/USD  entry buy 1: refused: Kraken refused AddOrder: EOrder:Insufficient funds"


def test_an_unsent_order_is_retried_under_the_same_client_order_id() -> None:
    """After an order that was not sent and a failed price request, the third try places the signal, always with one
    client order id."""
    broker, clock = live_market()
    broker.fail("place_buy", CircuitOpenError("the circuit breaker is open", 1e9), NoAnswerError("half an answer"))
    summary, _ = run_trader(broker, clock, ScriptedStrategy({180: buy("1")}), max_cycles=3)
    assert broker.sent_ids == [ENTRY_ID] * 3
    assert (summary.orders.placed, summary.orders.fills) == (1, 1)


def test_an_unknown_order_blocks_its_pair() -> None:
    """While the outcome of an entry is unknown, entries of later candles are refused by name, and none is sent."""
    broker, clock = replay_market()
    broker.fail("place_buy", UNKNOWN)
    decisions = {60 * index: buy("1") for index in (3, 4, 5)}
    summary, event_log = run_trader(broker, clock, ScriptedStrategy(decisions))
    assert broker.sent_ids == [ENTRY_ID]
    assert (summary.orders.unknown, summary.orders.placed) == (1, 0)
    reason = f"the outcome of an order of this pair is not known: {ENTRY_ID}, sent 60 s ago, was not answered"
    refusals = event_log.of(Event.ORDER_REFUSED_BY_RISK)
    assert refusals.values("close", "kind", "rule", "reason") == [(100, "entry", "unresolved order", reason)]
    assert event_log.of(Event.SIGNAL_OUTCOME_UNKNOWN).values("cl_ord_id", "error") == [(ENTRY_ID, UNKNOWN)]


def test_money_in_an_unknown_buy_counts_as_spent() -> None:
    """With 1000 in the account and an unknown buy of 3 at 100, a strategy may spend 700."""
    broker, clock = replay_market()
    broker.fail("place_buy", UNKNOWN)
    seen: list[Decimal] = []
    run_trader(
        broker,
        clock,
        ScriptedStrategy({180: buy("3"), 240: observe_context(lambda context: seen.append(context.quote_available))}),
    )
    assert seen == [Decimal(700)]


def test_a_signal_is_retried_only_after_it_was_proved_not_placed() -> None:
    """After the first order was proved not placed, the signal of the same candle is placed as a new attempt in its
    client order id."""
    broker, clock = live_market()
    broker.fail("place_buy", UNKNOWN)
    reconcile = broker.reconcile_unknown_orders

    def reconcile_later() -> list[Resolution]:
        if broker.calls.count("reconcile_unknown_orders") == 1:
            broker.resolutions = [Resolution(unknown, None) for unknown in broker.unknown]
        return reconcile()

    broker.reconcile_unknown_orders = reconcile_later  # type: ignore[method-assign]
    _, event_log = run_trader(broker, clock, ScriptedStrategy({180: buy("1")}), max_cycles=4)
    assert broker.sent_ids == [ENTRY_ID, "bot01|BTC/USD|script|180|entry|1"]
    assert event_log.of(Event.ORDER_FOUND_NOT_PLACED).values("symbol", "cl_ord_id") == [("BTC/USD", ENTRY_ID)]
    assert event_log.of(Event.ORDER_FOUND_PLACED) == []


def test_an_order_reconciled_as_placed_is_tracked_and_not_sent_again() -> None:
    """An order reconciled as placed and filled counts as a fill, and its signal is not sent again."""
    broker, clock = live_market()
    broker.fail("place_buy", UNKNOWN)
    reconcile = broker.reconcile_unknown_orders

    def reconcile_as_placed() -> list[Resolution]:
        order = make_order("F", Side.BUY, "1", "100", cl_ord_id=ENTRY_ID, opened_seconds=241.0, closed_seconds=242.0)
        broker.resolutions = [Resolution(unknown, order) for unknown in broker.unknown]
        return reconcile()

    broker.reconcile_unknown_orders = reconcile_as_placed  # type: ignore[method-assign]
    summary, _ = run_trader(broker, clock, ScriptedStrategy({180: buy("1")}), max_cycles=4)
    assert broker.sent_ids == [ENTRY_ID]
    assert (summary.orders.fills, summary.orders.unknown) == (1, 1)


def test_without_its_history_the_bot_opens_nothing() -> None:
    """While closed orders cannot be read entries are refused; once they can be read, entries are placed."""
    broker, clock = replay_market()
    broker.fail("get_closed_orders", *[NoAnswerError("half an answer")] * 4)
    summary, event_log = run_trader(broker, clock, ScriptedStrategy({180: buy("1"), 240: buy("1"), 300: buy("1")}))
    assert broker.sent_ids == ["bot01|BTC/USD|script|240|entry|0"]
    assert len(event_log.of(Event.ORDER_REFUSED_BY_RISK).about(kind="entry", rule="history")) == 1
    assert len(event_log.of(Event.HISTORY_READ_FAILED)) == len(event_log.of(Event.HISTORY_READ)) == 1
    assert summary.equity_start == 1000


def test_own_open_orders_are_adopted_and_external_orders_logged_and_left_open() -> None:
    """Of two open orders at the start, the end cancels the bot's own by its txid and leaves the other open."""
    broker, clock = live_market()
    resting: dict[str, Any] = {
        "status": OrderStatus.OPEN,
        "volume": Decimal(1),
        "price": Decimal(90),
        "opened_seconds": 200.0,
    }
    broker.orders["OWN"] = make_order("OWN", Side.BUY, **resting)
    broker.orders["OTHER"] = make_order("OTHER", Side.BUY, cl_ord_id="", **resting)
    _, event_log = run_trader(broker, clock, ScriptedStrategy({}), max_cycles=3)
    assert broker.orders["OWN"].status is OrderStatus.CANCELED
    assert broker.orders["OTHER"].status is OrderStatus.OPEN
    assert event_log.of(Event.ORDER_ADOPTED).texts == ["BTC/USD  own order adopted: buy 1 at 90 (OWN)"]
    assert event_log.of(Event.EXTERNAL_ORDER_FOUND).texts == [
        "BTC/USD  an order of another sender, left alone: buy 1 at 90 (OTHER)"
    ]
    assert event_log.of(Event.ORDER_CANCELED).values("txid") == ["OWN"]


def test_an_entry_that_expires_unfilled_is_logged() -> None:
    """An entry that expires during the run is logged once with its filled quantity; one that the bot cancels is not."""
    broker, clock = live_market()
    broker.fills_limits = False

    def expire(_market: StrategyContext) -> None:
        broker.orders["O1"] = replace(broker.orders["O1"], status=OrderStatus.EXPIRED, closed_seconds=broker.now())

    _, event_log = run_trader(
        broker, clock, ScriptedStrategy({180: buy("1"), 240: observe_context(expire), 360: buy("1")}), max_cycles=60
    )
    (ended,) = event_log.of(Event.ORDER_ENDED)
    assert ended.text == "BTC/USD 100  expired: buy 0 of 1 (O1)"
    assert (ended["state"], ended["executed"], ended["volume"]) == ("expired", 0, 1)
    second = event_log.about(txid="O2").of(Event.ORDER_ENDED, Event.ORDER_CANCELED)
    assert second.texts == ["BTC/USD  canceled: buy 1 at 100 (O2)"]


def test_entries_stay_open_at_the_end_when_configured() -> None:
    """Without cancel_entries_on_stop a resting entry is still open after the run."""
    broker, clock = replay_market()
    broker.fills_limits = False
    run_trader(broker, clock, ScriptedStrategy({180: buy("1")}), cancel_entries_on_stop=False)
    assert [order.status for order in broker.orders.values()] == [OrderStatus.OPEN]


def test_each_partial_fill_is_logged() -> None:
    """An entry of 1 that fills 0.4 and then 0.6 makes two fills and a position of 1."""
    broker, clock = replay_market()
    broker.fills_limits = False
    first = observe_context(lambda _context: broker.execute("O1", Decimal("0.4")))
    second = observe_context(lambda _context: broker.execute("O1", Decimal("0.6")))
    summary, event_log = run_trader(broker, clock, ScriptedStrategy({180: buy("1"), 240: first, 360: second}))
    assert event_log.of(Event.ORDER_FILLED).texts == [
        "BTC/USD 100  filled: buy 0.4 for 40.00 USD, fee 0.00 (O1)",
        "BTC/USD 100  filled: buy 0.6 for 60.00 USD, fee 0.00 (O1)",
    ]
    assert summary.orders.fills == 2


def test_an_exit_cancels_its_entry_first_and_sells_the_filled_quantity() -> None:
    """With 0.4 of 1 bought and 0.1 more filling before the cancel, the exit sells 0.5 after the cancel."""
    broker, clock = replay_market()
    broker.fills_limits = False
    cancel = broker.cancel_order

    def late_cancel(txid: str, symbol: str | None = None) -> bool:
        broker.execute(txid, Decimal("0.1"))
        return cancel(txid, symbol)

    broker.cancel_order = late_cancel  # type: ignore[method-assign]
    first = observe_context(lambda _context: broker.execute("O1", Decimal("0.4")))
    run_trader(broker, clock, ScriptedStrategy({180: buy("1"), 240: first, 300: sell_all}))
    assert broker.placed() == [("buy", "1", "100"), ("sell", "0.50000000", "100")]
    assert broker.orders["O1"].status is OrderStatus.CANCELED


def test_an_exit_blocked_by_a_halt_is_sent_in_its_candle_once_the_halt_is_lifted() -> None:
    """Refused while the bot is halted and logged once, the exit is sent after that, with the client order id of its
    candle."""
    broker, clock = live_market(361.0)
    hold_one(broker)
    _, event_log = run_trader(
        broker, clock, ScriptedStrategy({300: sell_all}), max_cycles=4, is_halted=lambda: clock.now() < 366.0
    )
    assert broker.sent_ids == [EXIT_ID]
    assert event_log.of(Event.ORDER_REFUSED_BY_RISK).values("kind", "rule") == [("exit", "halted")]


def test_a_position_above_max_order_value_is_sold_in_parts() -> None:
    """A coin worth 100 is sold in three orders of at most 40, each with its own client order id."""
    broker, clock = replay_market()
    hold_one(broker)
    limits = replace(WIDE_LIMITS, max_order_value=Decimal(40))
    run_trader(broker, clock, ScriptedStrategy({300: sell_all}), limits=limits)
    assert broker.sent_ids == [EXIT_ID, EXIT_ID.replace("exit", "exit2"), EXIT_ID.replace("exit", "exit3")]
    assert broker.totals["BTC"] == ZERO


def test_an_order_that_was_not_sent_is_not_counted_as_refused_by_kraken() -> None:
    """An exit that breaks a rule of its pair is logged, and the summary counts no order that Kraken has refused."""
    broker, clock = replay_market()
    hold_one(broker)
    broker.fail("place_sell", OrderRuleError("below the minimum", "ordermin"))
    summary, event_log = run_trader(broker, clock, ScriptedStrategy({300: sell_all}))
    assert (summary.orders.refused, len(event_log.of(Event.ORDER_REFUSED))) == (0, 1)


def test_a_refused_part_of_an_exit_stops_the_remaining_parts() -> None:
    """After Kraken's refusal of the first of three parts nothing more is sent in this candle."""
    broker, clock = replay_market()
    hold_one(broker)
    broker.fail("place_sell", REFUSED)
    run_trader(
        broker, clock, ScriptedStrategy({300: sell_all}), limits=replace(WIDE_LIMITS, max_order_value=Decimal(40))
    )
    assert broker.sent_ids == [EXIT_ID]


def test_an_own_exit_that_is_still_open_blocks_another_and_is_left_open_at_the_end() -> None:
    """With an own sell order resting, an exit is refused as unresolved, and the end cancels entries only."""
    broker, clock = replay_market()
    hold_one(broker)
    broker.orders["S"] = make_order("S", Side.SELL, status=OrderStatus.OPEN, volume=Decimal(1), price=Decimal(200))
    _, event_log = run_trader(broker, clock, ScriptedStrategy({300: sell_all}))
    reasons = event_log.of(Event.ORDER_REFUSED_BY_RISK).values("reason")
    assert len([reason for reason in reasons if "an exit is still open" in reason]) == 1
    assert (broker.sent_ids, broker.orders["S"].status) == ([], OrderStatus.OPEN)


def test_a_resting_entry_counts_in_the_context_and_in_the_position() -> None:
    """With an entry of 1 at 100 resting, the context says so, and 1 more exceeds a maximum position value of 150."""
    broker, clock = replay_market()
    broker.fills_limits = False
    seen: list[bool] = []

    def buy_more(context: StrategyContext) -> list[OrderRequest]:
        seen.append(context.has_open_entry)
        return buy("1")(replace(context, has_open_entry=False))

    limits = replace(WIDE_LIMITS, max_position_value=Decimal(150))
    _, event_log = run_trader(broker, clock, ScriptedStrategy({180: buy("1"), 240: buy_more}), limits=limits)
    assert set(seen) == {True}
    assert len(event_log.of(Event.ORDER_REFUSED_BY_RISK).about(kind="entry", rule="position value")) == 1


def test_a_fill_during_shutdown_is_counted() -> None:
    """An entry that fills 0.3 while the end cancels it is a fill in the summary and a coin in the equity."""
    broker, clock = replay_market()
    broker.fills_limits = False
    cancel = broker.cancel_order

    def late_cancel(txid: str, symbol: str | None = None) -> bool:
        broker.execute(txid, Decimal("0.3"))
        return cancel(txid, symbol)

    broker.cancel_order = late_cancel  # type: ignore[method-assign]
    summary, _ = run_trader(broker, clock, ScriptedStrategy({180: buy("1")}))
    assert (summary.orders.fills, summary.equity_end) == (1, Decimal(1000))


def test_coins_missing_from_a_late_balance_are_still_sold() -> None:
    """A balance that is read without the coins just bought is read again at the next candle."""
    broker, clock = replay_market()
    read = broker.get_account_balance
    late: list[str] = ["BTC", "BTC"]

    def lagging() -> dict[str, Balance]:
        balances = read()
        if broker.sent_ids and late:
            balances.pop(late.pop(), None)
        return balances

    broker.get_account_balance = lagging  # type: ignore[method-assign]
    run_trader(broker, clock, ScriptedStrategy({180: buy("1"), 300: sell_all}))
    assert broker.sent_ids == [ENTRY_ID, EXIT_ID]


def test_only_what_the_account_still_has_is_sold() -> None:
    """Of a coin that the bot bought, 0.3 left the account and external orders hold 0.2: the context has 0.7 and 0.5 is
    sold."""
    broker, clock = replay_market()
    seen: list[Decimal] = []
    hold_one(broker)
    broker.totals["BTC"] = Decimal("0.7")
    broker.externally_held["BTC"] = Decimal("0.2")
    run_trader(
        broker,
        clock,
        ScriptedStrategy({240: observe_context(lambda context: seen.append(context.position_quantity)), 300: sell_all}),
    )
    assert seen == [Decimal("0.7")]
    assert broker.placed()[1:] == [("sell", "0.50000000", "100")]


def test_coins_outside_the_managed_position_are_not_sold() -> None:
    """Of five coins in the account, one of which the bot bought, one is sold."""
    broker, clock = replay_market()
    hold_one(broker)
    broker.totals["BTC"] = Decimal(5)
    run_trader(broker, clock, ScriptedStrategy({300: sell_all}))
    assert broker.totals["BTC"] == 4


def test_a_quantity_below_the_minimum_is_not_a_position() -> None:
    """With 0.009 coins left, below the minimum of 0.01, the strategy sees a flat account."""
    broker, clock = replay_market()
    broker.orders["H"] = make_order("H", Side.BUY, "0.009", "0.9", opened_seconds=1.0, closed_seconds=2.0)
    broker.totals["BTC"] = Decimal("0.009")
    run_trader(broker, clock, ScriptedStrategy({300: sell_all, 360: buy("1")}))
    assert broker.placed()[1:] == [("buy", "1", "100")]


def test_the_loss_today_and_the_cooldown_are_rebuilt_from_order_records_at_the_start() -> None:
    """With a sale at a loss of 60 in the order records, entries are refused for the daily loss or for the cooldown."""
    for limits, rule in (
        (replace(WIDE_LIMITS, max_daily_loss=Decimal(60)), "daily loss"),
        (replace(WIDE_LIMITS, cooldown_seconds=3600.0), "cooldown"),
    ):
        broker, clock = replay_market()
        hold_one(broker)
        broker.orders["S"] = make_order("S", Side.SELL, "1", "40", opened_seconds=3.0, closed_seconds=4.0)
        broker.totals["BTC"] = ZERO
        summary, event_log = run_trader(broker, clock, ScriptedStrategy({180: buy("1")}), limits=limits)
        assert len(event_log.of(Event.ORDER_REFUSED_BY_RISK).about(kind="entry", rule=rule)) == 1
        assert broker.sent_ids == []
        assert summary.realised == 0


def test_an_accepted_order_in_neither_list_stays_working() -> None:
    """While an accepted entry is in neither list its pair gets no order; when its record appears, it is a fill."""
    broker, clock = replay_market()
    place = broker.place_limit_order
    hidden = []

    def place_and_hide(*args: object, **kwargs: object) -> object:
        placed = place(*args, **kwargs)  # type: ignore[arg-type]
        hidden.append(broker.orders.pop(placed.txid))
        return placed

    reveal = observe_context(lambda _context: broker.orders.update({hidden[0].txid: hidden[0]}))
    broker.place_limit_order = place_and_hide  # type: ignore[method-assign,assignment]
    script = ScriptedStrategy({180: buy("1"), 240: buy("1"), 300: reveal})
    summary, event_log = run_trader(broker, clock, script)
    assert broker.sent_ids == [ENTRY_ID]
    reasons = event_log.of(Event.ORDER_REFUSED_BY_RISK).values("reason")
    assert len([reason for reason in reasons if "an accepted order is neither open nor closed yet" in reason]) == 1
    assert summary.orders.fills == 1


def test_a_vanished_order_is_an_alert() -> None:
    """An accepted entry that Kraken never knows again blocks its pair, and is one alert with its ids."""
    broker, clock = replay_market()
    place = broker.place_limit_order

    def place_and_lose(*args: object, **kwargs: object) -> object:
        placed = place(*args, **kwargs)  # type: ignore[arg-type]
        del broker.orders[placed.txid]
        return placed

    broker.place_limit_order = place_and_lose  # type: ignore[method-assign,assignment]
    _, event_log = run_trader(broker, clock, ScriptedStrategy({180: buy("1"), 240: buy("1")}))
    assert event_log.of(Event.ORDER_VANISHED).alerts.values("cl_ord_id", "txid") == [(ENTRY_ID, "O1")]
    assert broker.sent_ids == [ENTRY_ID]


def test_an_error_in_one_pair_does_not_block_an_exit_in_another() -> None:
    """While the candles of BTC/USD cannot be read, ETH/USD is sold; then the trader waits before its retry."""
    clock = SteppedClock(361.0)
    broker = FakeBroker(clock, {symbol: make_candles(FLAT) for symbol in ("BTC/USD", "ETH/USD")})
    broker.orders["H"] = make_order("H", Side.BUY, "1", "100", symbol="ETH/USD", closed_seconds=2.0)
    broker.totals["ETH"] = Decimal(1)
    broker.fail("get_candles", NoAnswerError("half an answer"))
    stop = InstantEvent()
    run_trader(
        broker, clock, ScriptedStrategy({300: sell_all}), symbols=("BTC/USD", "ETH/USD"), max_cycles=2, stop=stop
    )
    assert broker.totals["ETH"] == ZERO
    assert stop.waits_seconds == [1.0]


def test_an_entry_whose_record_was_not_read_is_canceled_at_the_end() -> None:
    """An entry of the last cycle, which the rate counter leaves no room to look at, does not outlive the run."""
    broker, clock = live_market(241.0)
    broker.fills_limits = False
    broker.has_room = lambda points: False  # type: ignore[method-assign]
    run_trader(broker, clock, ScriptedStrategy({180: buy("1")}), max_cycles=1)
    assert [order.status for order in broker.orders.values()] == [OrderStatus.CANCELED]


def test_a_canceled_entry_that_was_never_read_open_is_called_canceled() -> None:
    """An entry that is canceled before any answer has shown it open is recorded as canceled, with its volume."""
    broker, clock = live_market(241.0)
    broker.fills_limits = False
    broker.has_room = lambda points: False  # type: ignore[method-assign]
    _, event_log = run_trader(broker, clock, ScriptedStrategy({180: buy("1")}), max_cycles=1)
    assert event_log.of(Event.ORDER_CANCELED).values("volume") == [1]


def test_an_entry_waits_for_room_and_an_exit_does_not() -> None:
    """While the rate counter has no room, BTC/USD is not bought and ETH/USD is sold; once there is room, the same
    candle's entry is sent."""
    clock = SteppedClock(361.0)
    broker = FakeBroker(clock, {symbol: make_candles(FLAT) for symbol in ("BTC/USD", "ETH/USD")})
    broker.orders["H"] = make_order("H", Side.BUY, "1", "100", symbol="ETH/USD", closed_seconds=2.0)
    broker.totals["ETH"] = Decimal(1)
    broker.has_room = lambda points: clock.now() > 365.0  # type: ignore[method-assign]

    def decide(context: StrategyContext) -> list[OrderRequest]:
        return sell_all(context) if context.pair.base == "ETH" else buy("1")(context)

    script = ScriptedStrategy({300: decide})
    run_trader(broker, clock, script, symbols=("BTC/USD", "ETH/USD"), max_cycles=5)
    assert broker.sent_ids == ["bot01|ETH/USD|script|300|exit|0", "bot01|BTC/USD|script|300|entry|0"]
    exit_order, entry = list(broker.orders.values())[1:]
    assert (exit_order.opened_seconds, entry.opened_seconds) == (361.0, 367.0)


@pytest.mark.parametrize(("price", "entries"), [("100", ["bot01|BTC/USD|script|300|entry|0"]), ("100.1", [])])
def test_a_quiet_market_is_sold_in_and_bought_in_at_a_confirmed_price(price: str, entries: list[str]) -> None:
    """Four minutes without a trade at 1m: ETH/USD is sold, and BTC/USD is bought if Kraken's current price still is the
    last close."""
    clock = SteppedClock(600.0)
    broker = FakeBroker(clock, {symbol: make_candles(FLAT[:6]) for symbol in ("BTC/USD", "ETH/USD")})
    broker.orders["H"] = make_order("H", Side.BUY, "1", "100", symbol="ETH/USD", closed_seconds=2.0)
    broker.totals["ETH"] = Decimal(1)
    broker.get_current_price = lambda symbol: Decimal(price)  # type: ignore[method-assign]

    def decide(context: StrategyContext) -> list[OrderRequest]:
        return sell_all(context) if context.pair.base == "ETH" else buy("1")(context)

    run_trader(broker, clock, ScriptedStrategy({300: decide}), symbols=("BTC/USD", "ETH/USD"), max_cycles=2)
    assert broker.sent_ids == ["bot01|ETH/USD|script|300|exit|0", *entries]


def test_an_own_order_in_a_delisted_pair_does_not_end_the_run() -> None:
    """An own order in a pair that Kraken no longer lists is adopted; its end is logged, and the run goes on."""
    broker, clock = replay_market()
    broker.orders["X"] = make_order("X", Side.BUY, status=OrderStatus.OPEN, symbol="OLDUSD", volume=Decimal(1))
    get_pair = broker.pair

    def listed_pair(symbol: str) -> Pair:
        if symbol == "OLDUSD":
            raise SymbolError("Kraken has no pair OLDUSD")
        return get_pair(symbol)

    broker.pair = listed_pair  # type: ignore[method-assign]
    ended = replace(
        broker.orders["X"], status=OrderStatus.CANCELED, executed=Decimal("0.5"), cost=Decimal(5), closed_seconds=250.0
    )
    delist = observe_context(lambda _context: broker.orders.update({"X": ended}))
    summary, event_log = run_trader(broker, clock, ScriptedStrategy({240: delist}))
    assert summary.error is None
    assert event_log.about(txid="X").events == [Event.ORDER_ADOPTED, Event.ORDER_FILLED, Event.ORDER_ENDED]


def test_an_entry_that_fills_before_its_cancel_is_not_called_canceled() -> None:
    """Of an entry of one coin that fills 0.4 or all before the cancel arrives, 0.6 or nothing is called canceled."""
    for filled, canceled in (("0.4", ["0.6"]), ("1", [])):
        broker, clock = live_market()
        broker.fills_limits = False
        cancel = broker.cancel_order

        def late_cancel(
            txid: str, symbol: str | None = None, *, broker: FakeBroker = broker, filled: str = filled
        ) -> bool:
            broker.execute(txid, Decimal(filled))
            return cancel(txid, symbol)  # noqa: B023 - called in the same turn

        broker.cancel_order = late_cancel  # type: ignore[method-assign]
        _, event_log = run_trader(broker, clock, ScriptedStrategy({180: buy("1")}), max_cycles=1)
        volumes = event_log.of(Event.ORDER_CANCELED).values("volume")
        assert volumes == [Decimal(volume) for volume in canceled]
        assert event_log.of(Event.ORDER_FILLED).values("volume") == [Decimal(filled)]


def test_the_cooldown_names_the_pair_of_the_loss() -> None:
    """After a loss in ETH/USD the entry in BTC/USD is refused for the cooldown, with the pair of the loss."""
    broker, clock = replay_market()
    for txid, side, cost in (("B", Side.BUY, "100"), ("S", Side.SELL, "40")):
        broker.orders[txid] = make_order(
            txid, side, "1", cost, symbol="ETH/USD", opened_seconds=1.0, closed_seconds=2.0
        )
    limits = replace(WIDE_LIMITS, cooldown_seconds=3600.0)
    _, event_log = run_trader(broker, clock, ScriptedStrategy({180: buy("1")}), limits=limits)
    (refusal,) = event_log.of(Event.ORDER_REFUSED_BY_RISK).about(symbol="BTC/USD", rule="cooldown")
    assert "ETH/USD" in refusal["reason"]
