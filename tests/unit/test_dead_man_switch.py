"""The dead man's switch: it is re-armed regularly, and never armed where it would cancel an order that must stay."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from decimal import Decimal

import pytest

from bot.base.clock import ReplayClock
from bot.base.errors import NoAnswerError, PermissionDeniedError, ServiceError
from bot.base.event_catalog import Event
from bot.base.models import OrderStatus, Side
from bot.trading.dead_man_switch import DeadManSwitch
from bot.trading.decision_log import DecisionLog
from tests.event_log import EventLog
from tests.trading_fakes import (
    FakeBroker,
    ScriptedStrategy,
    SteppedClock,
    buy,
    make_candles,
    make_order,
    run_trader,
    stop_during_reconciliation,
)

BUSY = ServiceError("CancelAllOrdersAfter", ["EService:Busy"])
ENTRY = make_order("E", Side.BUY, status=OrderStatus.OPEN, volume=Decimal(1))
EXIT = make_order("X", Side.SELL, status=OrderStatus.OPEN, volume=Decimal(1))
NOT_TO_BE_CANCELED = {
    "stop": make_order("S", Side.SELL, status=OrderStatus.OPEN, kind="stop-loss"),
    "take profit": make_order("T", Side.SELL, status=OrderStatus.OPEN, kind="take-profit-limit"),
    "trailing stop": make_order("R", Side.SELL, status=OrderStatus.OPEN, kind="trailing-stop"),
    "external": make_order("F", Side.BUY, status=OrderStatus.OPEN, cl_ord_id="other"),
}


@dataclass
class SwitchSetup:
    """A switch of 60 s with its broker and clock."""

    switch: DeadManSwitch
    broker: FakeBroker
    clock: SteppedClock

    def refresh_at(self, seconds: float, blocked_reason: str = "") -> list[str]:
        """Set the time, refresh the switch, and return the calls that this made."""
        self.clock.time_seconds = seconds
        self.broker.calls.clear()
        self.switch.refresh(blocked_reason)
        return list(self.broker.calls)


def set_up_switch(timeout_seconds: int = 60) -> SwitchSetup:
    """Return a switch at second 0."""
    clock = SteppedClock(0.0)
    broker = FakeBroker(clock, {"BTC/USD": make_candles([100] * 10)})
    return SwitchSetup(DeadManSwitch(broker, timeout_seconds, DecisionLog(broker, clock)), broker, clock)


def test_a_disabled_switch_sends_nothing(event_log: EventLog) -> None:
    """With a time-out of 0 neither refresh nor stop makes a call."""
    setup = set_up_switch(0)
    assert setup.refresh_at(0) == []
    setup.switch.stop()
    assert (setup.broker.calls, event_log) == ([], [])


def test_a_switch_left_armed_by_a_previous_run_is_disarmed_first() -> None:
    """The first refresh sends 0, then reads the open orders, then arms."""
    assert set_up_switch().refresh_at(0) == ["switch 0", "get_open_orders", "switch 60"]


def test_it_is_rearmed_after_each_third_of_its_timeout(event_log: EventLog) -> None:
    """Refreshed every second for a minute, a switch of 60 s is armed at 0, 20, 40 and 60 s, each after a read of the
    open orders, and this is logged once."""
    setup = set_up_switch()
    setup.refresh_at(0)
    calls_by_second = {second: calls for second in range(1, 61) if (calls := setup.refresh_at(second))}
    assert calls_by_second == {second: ["get_open_orders", "switch 60"] for second in (20, 40, 60)}
    assert event_log.texts == [
        "The dead man's switch is armed: if it is not renewed for 60 s, Kraken cancels all orders of the account."
    ]
    assert event_log[0]["timeout_seconds"] == 60


def test_own_entries_and_exits_do_not_prevent_arming() -> None:
    """With an own entry and an own exit open it is armed."""
    setup = set_up_switch()
    setup.broker.orders = {"E": ENTRY, "X": EXIT}
    assert setup.refresh_at(0)[-1] == "switch 60"


@pytest.mark.parametrize("name", NOT_TO_BE_CANCELED)
def test_it_is_never_armed_while_a_stop_or_an_external_order_is_open(name: str, event_log: EventLog) -> None:
    """With such an order open it is disarmed once, stays off and names the order once; then it is armed again."""
    setup = set_up_switch()
    setup.refresh_at(0)
    order = NOT_TO_BE_CANCELED[name]
    setup.broker.orders = {"E": ENTRY, order.txid: order}
    assert [setup.refresh_at(20), setup.refresh_at(40)] == [["get_open_orders", "switch 0"], ["get_open_orders"]]
    assert event_log.events == [Event.DEAD_MAN_SWITCH_ARMED, Event.DEAD_MAN_SWITCH_DISARMED]
    assert event_log[1]["reason"].startswith("it would cancel ")
    assert event_log[1]["reason"].endswith(f"(BTC/USD {order.kind} {order.txid})")
    setup.broker.orders = {"E": ENTRY}
    assert setup.refresh_at(60) == ["get_open_orders", "switch 60"]


def test_it_is_off_while_the_exchange_is_not_online(event_log: EventLog) -> None:
    """While trading is blocked it is disarmed once without a read of the open orders; afterwards it is armed again."""
    setup = set_up_switch()
    setup.refresh_at(0)
    assert [setup.refresh_at(20, "maintenance"), setup.refresh_at(40, "maintenance")] == [["switch 0"], []]
    assert setup.refresh_at(60) == ["get_open_orders", "switch 60"]
    assert event_log[1].text == "The dead man's switch is off: maintenance"


def test_a_failed_arming_is_retried_at_once_and_counts_as_armed() -> None:
    """An unanswered arming is repeated in the next cycle; if an external order is open by then, it is disarmed."""
    for orders, last in (({}, "switch 60"), ({"F": NOT_TO_BE_CANCELED["external"]}, "switch 0")):
        setup = set_up_switch()
        setup.broker.fail("switch 60", NoAnswerError("half an answer"))
        with pytest.raises(NoAnswerError):
            setup.refresh_at(0)
        setup.broker.orders = dict(orders)
        assert setup.refresh_at(1) == ["get_open_orders", last]


@pytest.mark.parametrize("blocked_reason", ["", "maintenance"])
def test_a_failed_disarming_is_retried_until_it_succeeds(blocked_reason: str) -> None:
    """While Kraken refuses to disarm, each cycle tries again."""
    setup = set_up_switch()
    setup.refresh_at(0)
    setup.broker.orders = {"F": NOT_TO_BE_CANCELED["external"]}
    setup.broker.fail("switch 0", BUSY, BUSY)
    for second in (20, 21):
        with pytest.raises(ServiceError):
            setup.refresh_at(second, blocked_reason)
    assert setup.refresh_at(22, blocked_reason)[-1] == "switch 0"
    assert setup.refresh_at(42, blocked_reason)[-1:] != ["switch 0"]


def test_it_is_disarmed_on_shutdown_and_not_armed_afterwards() -> None:
    """Stop sends 0, also when called twice, and a cycle that still runs does not arm it."""
    setup = set_up_switch()
    setup.switch.stop()
    setup.switch.stop()
    assert setup.broker.calls == ["switch 0", "switch 0"]
    assert setup.refresh_at(20) == ["switch 0", "get_open_orders"]


def test_a_failed_disarming_on_shutdown_is_logged(event_log: EventLog) -> None:
    """If the last disarming is refused, an error in the log says what may happen."""
    setup = set_up_switch()
    setup.broker.fail("switch 0", BUSY)
    setup.switch.stop()
    (failure,) = event_log
    assert (failure.event.level, failure["error"]) == (logging.ERROR, BUSY)
    assert failure.text.startswith("The dead man's switch could not be disarmed (Kraken refused CancelAllOrdersAfter")
    assert failure.text.endswith("Kraken may cancel every order of the account within 60 s.")


# In the trader


def live_market(seconds: float = 241.0) -> tuple[FakeBroker, SteppedClock]:
    """Return a broker over a flat market at current prices, just after the candle of 180 has closed."""
    clock = SteppedClock(seconds)
    return FakeBroker(clock, {"BTC/USD": make_candles([100] * 100)}), clock


def test_a_run_disarms_it_at_the_start_and_before_canceling_entries_at_the_end() -> None:
    """A run with a resting entry sends 0 before any order, and again before it cancels the entry at the end."""
    broker, clock = live_market()
    broker.fills_limits = False
    run_trader(broker, clock, ScriptedStrategy({180: buy("1")}), max_cycles=1, dead_man_switch_seconds=60)
    steps = [call for call in broker.calls if call.startswith(("switch", "place", "cancel"))]
    assert steps == ["switch 0", "switch 60", "place_buy", "switch 0", "cancel_order"]


def test_a_run_that_ends_in_an_error_disarms_it_too() -> None:
    """After an error that ends the run the last call is a disarming."""
    broker, clock = live_market()
    broker.fail("get_candles", PermissionDeniedError("OHLC", ["EGeneral:Permission denied"]))
    summary, _ = run_trader(broker, clock, ScriptedStrategy({}), max_cycles=2, dead_man_switch_seconds=60)
    assert isinstance(summary.error, PermissionDeniedError)
    assert broker.calls[-1] == "switch 0"


def test_a_stop_during_start_up_reconciliation_leaves_it_off() -> None:
    """A run that is stopped during start-up reconciliation never arms it."""
    broker, clock = live_market()
    stop = stop_during_reconciliation(broker)
    run_trader(broker, clock, ScriptedStrategy({}), stop=stop, dead_man_switch_seconds=60)
    assert {call for call in broker.calls if call.startswith("switch")} == {"switch 0"}


def test_a_switch_left_armed_by_a_previous_run_does_not_fire_during_start_up_reconciliation() -> None:
    """A run disarms it before start-up reconciliation and arms it afterwards."""
    broker, clock = live_market()
    broker.history_complete_at_seconds = 377.0
    arm, sent = broker.arm_dead_man_switch, []

    def recording_arm(timeout_seconds: int) -> None:
        sent.append((timeout_seconds, broker.now()))
        arm(timeout_seconds)

    broker.arm_dead_man_switch = recording_arm  # type: ignore[method-assign]
    run_trader(broker, clock, ScriptedStrategy({}), max_cycles=1, dead_man_switch_seconds=60)
    assert sent[:2] == [(0, 241.0), (60, 377.0)]


def test_a_halt_keeps_it_off() -> None:
    """While the bot is halted, it is not armed in five cycles."""
    broker, clock = live_market()
    run_trader(broker, clock, ScriptedStrategy({}), max_cycles=5, dead_man_switch_seconds=30, is_halted=lambda: True)
    assert "switch 30" not in broker.calls


def test_a_halt_disarms_it_at_once() -> None:
    """Armed for 60 s at 241 s and due again at 261 s, it is disarmed in the cycle after a halt at 244 s, and once."""
    broker, clock = live_market()
    arm, sent = broker.arm_dead_man_switch, []

    def recording_arm(timeout_seconds: int) -> None:
        sent.append((timeout_seconds, broker.now()))
        arm(timeout_seconds)

    broker.arm_dead_man_switch = recording_arm  # type: ignore[method-assign]
    run_trader(
        broker,
        clock,
        ScriptedStrategy({}),
        max_cycles=3,
        dead_man_switch_seconds=60,
        is_halted=lambda: clock.now() >= 244.0,
    )
    assert sent[1] == (60, 241.0)
    assert sent[2][0] == 0
    assert sent[2][1] <= 245.0


def test_it_is_not_armed_in_a_replay() -> None:
    """It is not armed in a replay, because a market that jumps from candle to candle would trigger it."""
    clock = ReplayClock(60.0, 600.0)
    broker = FakeBroker(clock, {"BTC/USD": make_candles([100] * 10)})
    run_trader(broker, clock, ScriptedStrategy({}), dead_man_switch_seconds=30)
    assert "switch 30" not in broker.calls


def test_an_error_of_the_switch_does_not_block_trading() -> None:
    """If arming fails, the error is logged, the next cycle tries again, and the entry of the same cycle is placed."""
    broker, clock = live_market()
    broker.fail("switch 60", BUSY)
    _, event_log = run_trader(
        broker, clock, ScriptedStrategy({180: buy("1")}), max_cycles=2, dead_man_switch_seconds=60
    )
    steps = [call for call in broker.calls if call.startswith(("switch", "place"))]
    assert steps == ["switch 0", "switch 60", "place_buy", "switch 60", "switch 0"]
    assert event_log.of(Event.CYCLE_FAILED).values("error") == [BUSY]


def test_a_key_without_the_permission_to_arm_it_ends_the_run() -> None:
    """Without the permission the run ends with that error and does not trade."""
    broker, clock = live_market()
    denied = PermissionDeniedError("CancelAllOrdersAfter", ["EGeneral:Permission denied"])
    broker.fail("switch 0", denied)
    summary, _ = run_trader(broker, clock, ScriptedStrategy({180: buy("1")}), max_cycles=2, dead_man_switch_seconds=60)
    assert (summary.error, broker.sent_ids) == (denied, [])


def test_an_accelerated_market_does_not_trigger_it_between_two_cycles() -> None:
    """At 100 times the speed, where ten wall seconds are 1000 market seconds, it is armed every 20 market seconds."""
    broker, clock = live_market(245.0)
    clock.speed = 100.0
    armed: list[float] = []
    arm = broker.arm_dead_man_switch

    def recording_arm(timeout_seconds: int) -> None:
        armed.append(clock.now())
        arm(timeout_seconds)

    broker.arm_dead_man_switch = recording_arm  # type: ignore[method-assign]
    run_trader(broker, clock, ScriptedStrategy({}), max_cycles=3, dead_man_switch_seconds=60)
    # The first call is the disarming at the start, the last the one at the end.
    assert armed[1:-1] == [245.0, 265.0, 285.0]
