"""Exits from positions that MAX_ORDER_VALUE would keep: the gateway finds in its journal what it may sell above it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from bot.base.clock import ReplayClock
from bot.base.errors import OrderRuleError
from bot.base.event_catalog import Event
from bot.base.models import OrderRequest, Side
from bot.simulator.options import SimulatorOptions
from bot.simulator.server import Simulator
from bot.trading.risk import Controls
from bot.trading.strategies.base import StrategyContext
from bot.trading.trader import Trader, TraderSettings
from tests.acceptance.broker_tools import YEARS_SECONDS, BrokerSetup, advance_time
from tests.acceptance.test_trader_exits import CandlePath, FrozenLiveClock
from tests.event_log import capture_events
from tests.simulator_parts import START, ScriptedPrices
from tests.trading_fakes import WIDE_LIMITS, InstantEvent

pytestmark = pytest.mark.usefixtures("nonce_file")

# The pair's minimum of 0.00005 is worth 2.50 at 50000, so an exit may be worth up to 6.50.
MAXIMUM = Decimal(4)
POSITION = Decimal("0.00012")


@contextmanager
def position_above_maximum() -> Iterator[BrokerSetup]:
    """Open a Kraken at 50000 where the bot holds 0.00012 coins, worth 6.00, and somebody else holds one."""
    clock = ReplayClock(START, START + YEARS_SECONDS)
    options = SimulatorOptions(balances={"ZUSD": "1000", "XXBT": "1"})
    with Simulator(options, clock, ScriptedPrices((0, "50000"))) as simulator:
        setup = BrokerSetup(simulator, clock, {"bot_id": "bot01", "max_order_value": MAXIMUM})
        try:
            while not setup.broker.history_is_complete():
                setup.broker.reconcile_unknown_orders()
                advance_time(clock, setup.broker.next_query_seconds() or 0.0)
            for _ in range(2):
                setup.broker.place_limit_order("BTC/USD", "buy", POSITION / 2, Decimal("50000.1"))
            record_orders(setup)
            yield setup
        finally:
            setup.broker.close()


def record_orders(setup: BrokerSetup) -> None:
    """Write Kraken's order records to the journal, as the trader does in each cycle; then a second passes."""
    setup.broker.journal.record_orders(setup.broker.get_open_orders() + setup.broker.get_closed_orders())
    advance_time(setup.clock, 1)


def is_refused(setup: BrokerSetup, verb: str, *arguments: Any) -> bool:
    """Whether a verb refuses an order for its value, and sends nothing."""
    orders = setup.placed_order_count()
    try:
        getattr(setup.broker, verb)(*arguments)
    except OrderRuleError as error:
        return error.rule == "MAX_ORDER_VALUE" and setup.placed_order_count() == orders
    return False


def test_an_exit_may_exceed_the_maximum_by_the_pairs_minimum() -> None:
    """The whole position of 6.00 is sold with a maximum of 4.00, and each such exit of a pair is logged once."""
    with position_above_maximum() as setup, capture_events() as event_log:
        assert not is_refused(setup, "place_market_order", "BTC/USD", "sell", Decimal("0.0001"), "base")
        record_orders(setup)
        assert is_refused(setup, "place_market_order", "BTC/USD", "sell", Decimal("0.0001"), "base")
        assert event_log.of(Event.EXIT_ABOVE_MAXIMUM).values("volume") == [Decimal("0.0001")]


def test_a_stop_may_exceed_the_maximum_by_the_pairs_minimum() -> None:
    """One stop protects the whole position of 6.00."""
    with position_above_maximum() as setup:
        assert not is_refused(setup, "place_stop_order", "BTC/USD", "sell", POSITION, Decimal(45000))


def test_an_exit_exceeds_the_maximum_by_no_more() -> None:
    """With 0.00018 coins held, 0.00014 are worth 7.00, more than 6.50: refused."""
    with position_above_maximum() as setup:
        setup.broker.place_limit_order("BTC/USD", "buy", POSITION / 2, Decimal("50000.1"))
        record_orders(setup)
        assert is_refused(setup, "place_market_order", "BTC/USD", "sell", Decimal("0.00014"), "base")


def test_only_the_own_position_may_exceed_the_maximum() -> None:
    """Of 1.00012 coins, 0.000125 are more than the bot has bought: refused, and so is a buy of the same value."""
    with position_above_maximum() as setup:
        assert is_refused(setup, "place_market_order", "BTC/USD", "sell", Decimal("0.000125"), "base")
        assert is_refused(setup, "place_market_order", "BTC/USD", "buy", Decimal("0.0001"), "base")


@pytest.mark.parametrize("is_recorded", [True, False])
def test_coins_in_a_resting_sale_are_not_sold_above_the_maximum(is_recorded: bool) -> None:
    """Beside a stop of 0.00006 a sale of 0.0001 is refused, also before Kraken's record of the stop is read."""
    with position_above_maximum() as setup:
        assert not is_refused(setup, "place_stop_order", "BTC/USD", "sell", POSITION / 2, Decimal(45000))
        if is_recorded:
            record_orders(setup)
        assert is_refused(setup, "place_market_order", "BTC/USD", "sell", Decimal("0.0001"), "base")


def test_a_raw_order_never_exceeds_the_maximum() -> None:
    """An AddOrder by private_call that sells the own position of 6.00 is refused."""
    with position_above_maximum() as setup:
        order = {"pair": "XBTUSD", "type": "sell", "ordertype": "limit", "volume": str(POSITION), "price": "50000"}
        assert is_refused(setup, "private_call", "AddOrder", order)


class InAndOut:
    """A strategy that buys 0.00008 coins in the first candle and exits from the third on."""

    name = "in_and_out"

    def decide(self, context: StrategyContext) -> list[OrderRequest]:
        """Return the entry or the exit."""
        seconds, symbol, held_quantity = (
            context.candles[-1].time_seconds,
            context.pair.symbol,
            context.position_quantity,
        )
        first = int(START) // 60 * 60 + 60
        if held_quantity and seconds >= first + 120:
            return [OrderRequest(symbol, Side.SELL, held_quantity, None, "exit", seconds, "time is up")]
        if seconds == first and not held_quantity and not context.has_open_entry:
            price = Decimal(50001)
            return [OrderRequest(symbol, Side.BUY, Decimal("0.00008"), price, "entry", seconds, "it is time")]
        return []


@pytest.mark.parametrize("last_price", ["99000", "110000"])
def test_a_position_of_less_than_two_minima_is_sold_in_one_order(last_price: str) -> None:
    """0.00008 coins, worth 7.92 or 8.80 with MAX_ORDER_VALUE 8, are sold at once: half would be below 0.00005."""
    clock = FrozenLiveClock(START, START + YEARS_SECONDS)
    prices = CandlePath((0.0, "50000"), (130.0, "50000"), (150.0, last_price))
    limits = replace(WIDE_LIMITS, max_order_value=Decimal(8))
    settings = TraderSettings(("BTC/USD",), "1m", Decimal(4), limits, max_cycles=40)
    with Simulator(SimulatorOptions(balances={"ZUSD": "100"}), clock, prices) as simulator:
        broker = BrokerSetup(simulator, clock, {"bot_id": "bot01", "max_order_value": Decimal(8)}).broker
        broker.connect()
        controls = Controls(lambda: False, lambda: False, lambda: None)
        with capture_events() as event_log:
            summary = Trader(broker, InAndOut(), settings, clock=clock, stop=InstantEvent(), controls=controls).run()
        broker.close()
        trades = [(trade.side, trade.volume) for trade in simulator.exchange.account.trades]
    assert trades == [("buy", Decimal("0.00008")), ("sell", Decimal("0.00008"))]
    assert (summary.error, event_log.of(Event.ORDER_REFUSED)) == (None, [])
