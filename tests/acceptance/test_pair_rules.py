"""Kraken changes what it demands of the orders of a pair while the bot runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from bot import broker_manager
from bot.base.event_catalog import Event
from bot.base.models import OrderRequest, Side
from bot.broker_manager import KrakenBroker
from bot.orders.order_state import OrderState
from bot.simulator.instruments import Instruments
from bot.simulator.options import SimulatorOptions
from bot.simulator.server import Simulator
from bot.trading.decision_log import DecisionLog
from bot.trading.executor import Executor
from tests.acceptance.broker_tools import BrokerSetup, advance_time, open_broker_setup
from tests.event_log import capture_events

pytestmark = pytest.mark.usefixtures("nonce_file")

RICH_OPTIONS = SimulatorOptions(balances={"ZUSD": "1000000", "XXBT": "100"})
# A resting price with one decimal, which is one too many once prices are whole numbers.
ENTRY = OrderRequest("BTC/USD", Side.BUY, Decimal("0.01"), Decimal("20000.5"), "entry", 60, "the test")
WHOLE_PRICES = {"price_decimals": 0, "tick_size": Decimal(1)}


def change_rules(simulator: Simulator, **rules: Any) -> None:
    """Let Kraken demand something else of the orders of BTC/USD from now on."""
    instruments = simulator.exchange.instruments
    pairs = [replace(pair, **rules) if pair.symbol == "BTC/USD" else pair for pair in instruments.pairs]
    vars(instruments).update(vars(Instruments(pairs)))


def make_executor(broker: KrakenBroker, setup: BrokerSetup) -> Executor:
    """Return an executor that has read the bot's history."""
    broker.connect()
    while not broker.history_is_complete() or broker.unknown_orders():
        broker.reconcile_unknown_orders()
        advance_time(setup.clock, broker.next_query_seconds() or 0.0)
    broker.pair_status("BTC/USD")
    executor = Executor(broker, "test", 3600, DecisionLog(broker, setup.clock))
    executor.rebuild()
    return executor


def attempt_id(broker: KrakenBroker, attempt: int) -> str:
    """Return the client order id of an attempt of ENTRY."""
    return broker.client_order_id("BTC/USD", "test", 60, "entry", attempt)


def add_order_count(setup: BrokerSetup) -> int:
    """Return how many orders were sent."""
    return setup.request_methods().count("AddOrder")


def test_the_rules_of_a_pair_come_with_its_status() -> None:
    """After the pair's status was read the broker has Kraken's current precision, tick and minima of the pair."""
    with open_broker_setup() as setup, capture_events() as event_log:
        old = setup.broker.pair("BTC/USD")
        rules: dict[str, Any] = {"price_decimals": 0, "tick_size": Decimal(5), "lot_decimals": 4}
        rules |= {"order_minimum": Decimal("0.002"), "cost_minimum": Decimal(7)}
        change_rules(setup.simulator, **rules)
        setup.broker.pair_status("BTC/USD")
        assert {setup.broker.pair(name) for name in ("XBTUSD", "XXBTZUSD", "XBT/USD", "btc/usd")} == {
            replace(old, **rules)
        }
        assert event_log.of(Event.PAIR_RULES_CHANGED).values("symbol") == ["BTC/USD"]


def test_an_order_after_ten_minutes_goes_by_current_rules() -> None:
    """A script's order is checked by the rules of the last ten minutes: one below a lowered minimum is placed."""
    with open_broker_setup(RICH_OPTIONS) as setup:
        setup.broker.place_limit_order("BTC/USD", "buy", Decimal("0.001"), Decimal(20_000))
        change_rules(setup.simulator, order_minimum=Decimal("0.00001"), cost_minimum=Decimal("0.1"))
        advance_time(setup.clock, 601)
        setup.broker.place_limit_order("BTC/USD", "buy", Decimal("0.00002"), Decimal(20_000))
        assert setup.placed_order_count() == 2


def without(field: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Return what takes a field out of a row."""
    return lambda row: {name: value for name, value in row.items() if name != field}


@pytest.mark.parametrize(
    "damage",
    [
        *(without(field) for field in ("pair_decimals", "lot_decimals", "tick_size", "ordermin", "costmin", "base")),
        lambda row: row | {"tick_size": "NaN"},
        lambda row: row | {"base": "XETH"},
    ],
)
def test_a_row_that_cannot_be_used_keeps_the_rules(
    damage: Callable[[dict[str, Any]], dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row that lacks a rule, cannot be read or is of another asset changes nothing, and an exit is sent."""
    with open_broker_setup(RICH_OPTIONS) as setup:
        old = setup.broker.pair("BTC/USD")
        change_rules(setup.simulator, lot_decimals=7)
        call = setup.broker.public_call

        def damaged_call(method: str, params: Any = None) -> Any:
            result = call(method, params)
            return {name: damage(row) for name, row in result.items()} if method == "AssetPairs" else result

        monkeypatch.setattr(setup.broker, "public_call", damaged_call)
        with capture_events() as event_log:
            assert setup.broker.pair_status("BTC/USD") == "online"
        assert setup.broker.pair("BTC/USD") == old
        assert event_log.of(Event.PAIR_RULES_NOT_READ)
        setup.broker.place_market_order("BTC/USD", "sell", Decimal("0.01"), "base")
        assert setup.placed_order_count() == 1


def test_an_entry_refused_for_its_price_goes_out_once_more() -> None:
    """An entry whose price has a decimal too many by new rules is refused, and placed as its next attempt with the
    price rounded down to a whole number."""
    with open_broker_setup(RICH_OPTIONS) as setup:
        executor = make_executor(setup.broker, setup)
        change_rules(setup.simulator, **WHOLE_PRICES)
        assert executor.execute([ENTRY], Decimal(50_000))
        first, second = (setup.broker.journal.get_intent(attempt_id(setup.broker, n)) for n in (0, 1))
        assert first is not None
        assert second is not None
        assert (first.state, first.price) == (OrderState.REFUSED, Decimal("20000.5"))
        assert (second.state, second.price) == (OrderState.OPEN, Decimal(20_000))
        assert (executor.counts.refused, executor.counts.placed, setup.placed_order_count()) == (1, 1, 1)


def test_an_exit_refused_for_its_lot_goes_out_once_more() -> None:
    """An exit with more decimals than new rules allow is refused, and sold as its next attempt, rounded down."""
    with open_broker_setup(RICH_OPTIONS) as setup:
        executor = make_executor(setup.broker, setup)
        change_rules(setup.simulator, lot_decimals=3)
        exit_request = OrderRequest("BTC/USD", Side.SELL, Decimal("0.01234567"), None, "exit", 60, "the test")
        assert executor.execute([exit_request], Decimal(50_000))
        (order,) = setup.simulator.exchange.account.orders.values()
        assert order.volume == Decimal("0.012")
        assert add_order_count(setup) == 2


def test_a_signal_goes_out_once_more_only_once() -> None:
    """Where the next attempt is refused too, nothing more is sent, nor by the same signal after a restart."""
    with open_broker_setup(RICH_OPTIONS) as setup:
        executor = make_executor(setup.broker, setup)
        change_rules(setup.simulator, **WHOLE_PRICES)
        setup.simulator.faults.raise_next("AddOrder", "EOrder:Tick size check failed", times=9)
        assert not executor.execute([ENTRY], Decimal(50_000))
        assert not executor.execute([ENTRY], Decimal(50_000))
        restarted = make_executor(setup.open_broker(), setup)
        assert not restarted.execute([ENTRY], Decimal(50_000))
        assert add_order_count(setup) == 2


@pytest.mark.parametrize(
    ("rules", "error"),
    [
        (WHOLE_PRICES, "EOrder:Insufficient funds"),
        ({}, "EOrder:Invalid price"),
    ],
    ids=["funds", "rules unchanged"],
)
def test_another_refusal_is_final(rules: dict[str, Any], error: str) -> None:
    """A signal is not sent again where it was refused for something else, or where it keeps the current rules."""
    with open_broker_setup(RICH_OPTIONS) as setup:
        executor = make_executor(setup.broker, setup)
        change_rules(setup.simulator, **rules)
        setup.simulator.faults.raise_next("AddOrder", error)
        assert not executor.execute([ENTRY], Decimal(50_000))
        assert add_order_count(setup) == 1


def test_an_unknown_next_attempt_is_not_followed_by_another() -> None:
    """Where the next attempt is not answered, the pair is blocked, and the order is found to be the only one."""
    with open_broker_setup(RICH_OPTIONS) as setup:
        executor = make_executor(setup.broker, setup)
        change_rules(setup.simulator, **WHOLE_PRICES)
        setup.simulator.faults.raise_next("AddOrder", "EOrder:Tick size check failed")
        setup.simulator.faults.fire_next("answer_502", "AddOrder")
        assert not executor.execute([ENTRY], Decimal(50_000))
        restarted = make_executor(setup.open_broker(), setup)
        assert restarted.execute([ENTRY], Decimal(50_000))
        assert (add_order_count(setup), setup.placed_order_count()) == (2, 1)


class Crash(BaseException):
    """The process dies."""


def test_a_crash_between_the_attempts_leaves_one_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bot that dies after the refusal sends the next attempt when it decides the same candle again."""
    with open_broker_setup(RICH_OPTIONS) as setup:
        executor = make_executor(setup.broker, setup)
        change_rules(setup.simulator, **WHOLE_PRICES)
        monkeypatch.setattr(executor, "_next_attempt", crash)
        with pytest.raises(Crash):
            executor.execute([ENTRY], Decimal(50_000))
        restarted = make_executor(setup.open_broker(), setup)
        assert restarted.execute([replace(ENTRY, price=Decimal(20_000))], Decimal(50_000))
        assert (add_order_count(setup), setup.placed_order_count()) == (2, 1)


def crash(*_: object) -> None:
    """Die."""
    raise Crash


def test_another_host_finds_the_next_attempt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On an empty disk the signal whose next attempt was placed is not sent again."""
    with open_broker_setup(RICH_OPTIONS) as setup:
        executor = make_executor(setup.broker, setup)
        change_rules(setup.simulator, **WHOLE_PRICES)
        executor.execute([ENTRY], Decimal(50_000))
        folder = tmp_path / "other host"
        folder.mkdir()
        monkeypatch.setattr(broker_manager, "NONCE_FILE", str(folder / "kraken_nonce.txt"))
        other = setup.open_broker(overlap_seconds=0.0)
        assert make_executor(other, setup).execute([ENTRY], Decimal(50_000))
        assert (add_order_count(setup), setup.placed_order_count()) == (2, 1)
        other.close()


def test_the_last_attempt_that_an_empty_disk_finds_is_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    """After nine attempts that were not placed a refused tenth one is followed by none."""
    with open_broker_setup(RICH_OPTIONS) as setup:
        executor = make_executor(setup.broker, setup)
        executor.order_tracker.not_placed_ids.update(attempt_id(setup.broker, n) for n in range(9))
        change_rules(setup.simulator, **WHOLE_PRICES)
        assert not executor.execute([ENTRY], Decimal(50_000))
        assert add_order_count(setup) == 1
