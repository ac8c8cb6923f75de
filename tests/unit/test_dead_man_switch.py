"""The dead man's switch: armed again and again, and never where it would cancel what must stay."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

import pytest

from bot.base.clock import ReplayClock
from bot.base.errors import NoAnswerError, PermissionDeniedError, ServiceError
from bot.base.models import OrderStatus, Side
from bot.trading.dead_man_switch import DeadManSwitch
from bot.trading.decision_log import Narrator
from tests.trading_fakes import (
    FakeBroker,
    PatientEvent,
    Script,
    SteppedClock,
    buy,
    make_candles,
    make_order,
    run_trader,
)

BUSY = ServiceError("CancelAllOrdersAfter", ["EService:Busy"])
ENTRY = make_order("E", Side.BUY, status=OrderStatus.OPEN, volume=Decimal(1))
EXIT = make_order("X", Side.SELL, status=OrderStatus.OPEN, volume=Decimal(1))
IN_DANGER = {
    "stop": make_order("S", Side.SELL, status=OrderStatus.OPEN, kind="stop-loss"),
    "take profit": make_order("T", Side.SELL, status=OrderStatus.OPEN, kind="take-profit-limit"),
    "trailing stop": make_order("R", Side.SELL, status=OrderStatus.OPEN, kind="trailing-stop"),
    "foreign": make_order("F", Side.BUY, status=OrderStatus.OPEN, cl_ord_id="somebody"),
}


@dataclass
class Bench:
    """A switch of 60 s with its broker, its clock and its lines."""

    switch: DeadManSwitch
    broker: FakeBroker
    clock: SteppedClock
    lines: list[str]

    def at(self, seconds: float, held_up: str = "") -> list[str]:
        """Let it be that late, keep the switch, and return the calls that this made."""
        self.clock.time_seconds = seconds
        self.broker.calls.clear()
        self.switch.keep(held_up)
        return list(self.broker.calls)

    def said(self) -> list[str]:
        """Return the lines without their times."""
        return [line.split("  ", 1)[1] for line in self.lines]


def bench(timeout_seconds: int = 60) -> Bench:
    """Return a switch at second 0."""
    clock = SteppedClock(0.0)
    broker = FakeBroker(clock, {"BTC/USD": make_candles([100] * 10)})
    lines: list[str] = []
    return Bench(
        DeadManSwitch(broker, timeout_seconds, Narrator(lines.append, clock, broker.now)), broker, clock, lines
    )


def test_off_nothing_is_ever_sent() -> None:
    """With a time-out of 0 neither keeping nor stopping makes a call."""
    off = bench(0)
    assert off.at(0) == []
    off.switch.stop()
    assert (off.broker.calls, off.lines) == ([], [])


def test_what_an_earlier_life_left_is_disarmed_before_all_else() -> None:
    """The first time it sends 0, then looks at the open orders, then arms."""
    assert bench().at(0) == ["switch 0", "get_open_orders", "switch 60"]


def test_it_is_armed_again_after_each_third_of_its_time() -> None:
    """Kept every second for a minute, a switch of 60 s is armed at 0, 20, 40 and 60 s, after a look each, said once."""
    one = bench()
    one.at(0)
    asked = {second: calls for second in range(1, 61) if (calls := one.at(second))}
    assert asked == {second: ["get_open_orders", "switch 60"] for second in (20, 40, 60)}
    after = "after 60 s without a word from the bot, Kraken cancels every order of the account"
    assert one.said() == [f"the dead man's switch is armed: {after}"]


def test_the_bots_own_entries_and_exits_do_not_hinder_it() -> None:
    """With an entry and an exit of its own open it is armed."""
    one = bench()
    one.broker.rows = {"E": ENTRY, "X": EXIT}
    assert one.at(0)[-1] == "switch 60"


@pytest.mark.parametrize("name", IN_DANGER)
def test_it_is_never_armed_over_a_stop_or_an_order_of_others(name: str) -> None:
    """With such an order open it is disarmed once and stays off, said once with the order; then armed again."""
    one = bench()
    one.at(0)
    row = IN_DANGER[name]
    one.broker.rows = {"E": ENTRY, row.txid: row}
    assert [one.at(20), one.at(40)] == [["get_open_orders", "switch 0"], ["get_open_orders"]]
    assert len(one.lines) == 2
    assert "is off: it would cancel " in one.said()[1]
    assert f"(BTC/USD {row.kind} {row.txid})" in one.said()[1]
    one.broker.rows = {"E": ENTRY}
    assert one.at(60) == ["get_open_orders", "switch 60"]


def test_it_is_off_while_the_exchange_is_not_online() -> None:
    """Held up, it is disarmed once without a look; when that is over it is armed again."""
    one = bench()
    one.at(0)
    assert [one.at(20, "maintenance"), one.at(40, "maintenance")] == [["switch 0"], []]
    assert one.at(60) == ["get_open_orders", "switch 60"]
    assert one.said()[1] == "the dead man's switch is off: maintenance"


def test_a_failed_arming_is_due_again_at_once_and_may_have_armed_it() -> None:
    """After an arming without answer it is armed at the next pass; with a foreign order there by then, disarmed."""
    for rows, last in (({}, "switch 60"), ({"F": IN_DANGER["foreign"]}, "switch 0")):
        one = bench()
        one.broker.fail("switch 60", NoAnswerError("half an answer"))
        with pytest.raises(NoAnswerError):
            one.at(0)
        one.broker.rows = dict(rows)
        assert one.at(1) == ["get_open_orders", last]


@pytest.mark.parametrize("held_up", ["", "maintenance"])
def test_a_failed_disarming_is_tried_until_it_is_done(held_up: str) -> None:
    """While Kraken refuses to disarm, each pass tries again."""
    one = bench()
    one.at(0)
    one.broker.rows = {"F": IN_DANGER["foreign"]}
    one.broker.fail("switch 0", BUSY, BUSY)
    for second in (20, 21):
        with pytest.raises(ServiceError):
            one.at(second, held_up)
    assert one.at(22, held_up)[-1] == "switch 0"
    assert one.at(42, held_up)[-1:] != ["switch 0"]


def test_it_is_disarmed_for_the_end_and_not_armed_after_it() -> None:
    """Stopping sends 0, also twice, and a pass that still runs then arms nothing."""
    one = bench()
    one.switch.stop()
    one.switch.stop()
    assert one.broker.calls == ["switch 0", "switch 0"]
    assert one.at(20) == ["switch 0", "get_open_orders"]


def test_an_end_that_could_not_disarm_it_is_told() -> None:
    """Where the last 0 is refused, a line says what may happen."""
    one = bench()
    one.broker.fail("switch 0", BUSY)
    one.switch.stop()
    (line,) = one.said()
    assert line.startswith("the dead man's switch could not be disarmed (Kraken refused CancelAllOrdersAfter")
    assert line.endswith("Kraken may cancel every order of the account within 60 s")


# In the trader


def present(seconds: float = 241.0) -> tuple[FakeBroker, SteppedClock]:
    """Return a broker over a flat market at current prices, just after the candle of 180 has closed."""
    clock = SteppedClock(seconds)
    return FakeBroker(clock, {"BTC/USD": make_candles([100] * 100)}), clock


def test_a_run_disarms_it_first_and_last_before_the_entries_go() -> None:
    """Of a run with a resting entry, 0 comes before any order, and 0 comes again before the entry's cancel."""
    broker, clock = present()
    broker.fills_limits = False
    run_trader(broker, clock, Script({180: buy("1")}), max_ticks=1, dead_man_switch_seconds=60)
    steps = [call for call in broker.calls if call.startswith(("switch", "place", "cancel"))]
    assert steps == ["switch 0", "switch 60", "place_buy", "switch 0", "cancel_order"]


def test_a_run_that_ends_in_an_error_disarms_it_too() -> None:
    """After an error that ends the run the last call is a 0."""
    broker, clock = present()
    broker.fail("get_candles", PermissionDeniedError("OHLC", ["EGeneral:Permission denied"]))
    summary, _ = run_trader(broker, clock, Script({}), max_ticks=2, dead_man_switch_seconds=60)
    assert isinstance(summary.error, PermissionDeniedError)
    assert broker.calls[-1] == "switch 0"


def test_a_stop_while_the_past_is_awaited_leaves_it_off() -> None:
    """A run that is stopped while it waits for orders of an earlier life never arms it."""
    broker, clock = present()
    broker.past_until_seconds = 377.0
    stop = PatientEvent()
    knows = broker.knows_the_past

    def asked() -> bool:
        stop.set()
        return knows()

    broker.knows_the_past = asked  # type: ignore[method-assign]
    run_trader(broker, clock, Script({}), stop=stop, dead_man_switch_seconds=60)
    assert {call for call in broker.calls if call.startswith("switch")} == {"switch 0"}


def test_what_an_earlier_life_left_does_not_fire_while_the_past_is_awaited() -> None:
    """A run that has to wait for orders of an earlier life disarms it before that, and arms it after that."""
    broker, clock = present()
    broker.past_until_seconds = 377.0
    arm, sent = broker.arm_dead_man_switch, []

    def armed(timeout_seconds: int) -> None:
        sent.append((timeout_seconds, broker.now()))
        arm(timeout_seconds)

    broker.arm_dead_man_switch = armed  # type: ignore[method-assign]
    run_trader(broker, clock, Script({}), max_ticks=1, dead_man_switch_seconds=60)
    assert sent[:2] == [(0, 241.0), (60, 377.0)]


def test_the_kill_switch_keeps_it_off() -> None:
    """With the kill switch on, it is not armed in five passes."""
    broker, clock = present()
    run_trader(broker, clock, Script({}), max_ticks=5, dead_man_switch_seconds=30, halted=lambda: True)
    assert "switch 30" not in broker.calls


def test_it_is_not_armed_in_a_replay() -> None:
    """A market that jumps from candle to candle would set it off: it is not armed there."""
    clock = ReplayClock(60.0, 600.0)
    broker = FakeBroker(clock, {"BTC/USD": make_candles([100] * 10)})
    run_trader(broker, clock, Script({}), dead_man_switch_seconds=30)
    assert "switch 30" not in broker.calls


def test_trouble_with_it_keeps_the_bot_from_nothing() -> None:
    """Where it cannot be armed, that is said and tried again, and the entry of the same pass is placed."""
    broker, clock = present()
    broker.fail("switch 60", BUSY)
    _, lines = run_trader(broker, clock, Script({180: buy("1")}), max_ticks=2, dead_man_switch_seconds=60)
    steps = [call for call in broker.calls if call.startswith(("switch", "place"))]
    assert steps == ["switch 0", "switch 60", "place_buy", "switch 60", "switch 0"]
    assert [line for line in lines if "waiting: Kraken refused CancelAllOrdersAfter: EService:Busy" in line]


def test_a_key_that_may_not_set_it_ends_the_run() -> None:
    """Without the permission the run ends with that error, and does not trade without the switch."""
    broker, clock = present()
    denied = PermissionDeniedError("CancelAllOrdersAfter", ["EGeneral:Permission denied"])
    broker.fail("switch 0", denied)
    summary, _ = run_trader(broker, clock, Script({180: buy("1")}), max_ticks=2, dead_man_switch_seconds=60)
    assert (summary.error, broker.sent_ids) == (denied, [])


def test_a_fast_market_does_not_set_it_off_between_two_passes() -> None:
    """At 100 times the speed, where ten seconds of the wall are 1000 of the market, it is armed every 20 of these."""
    broker, clock = present(245.0)
    clock.speed = 100.0
    armed: list[float] = []
    arm = broker.arm_dead_man_switch

    def seen(timeout_seconds: int) -> None:
        armed.append(clock.now())
        arm(timeout_seconds)

    broker.arm_dead_man_switch = seen  # type: ignore[method-assign]
    run_trader(broker, clock, Script({}), max_ticks=3, dead_man_switch_seconds=60)
    # The first is the 0 of the start, the last that of the end.
    assert armed[1:-1] == [245.0, 265.0, 285.0]
