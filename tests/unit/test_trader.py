"""The trader's loop: what it asks, decides, waits for and stops at. The broker is a small one in memory."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from decimal import Decimal

import pytest

from bot.base.clock import ReplayClock, wall_seconds
from bot.base.errors import (
    BotError,
    CredentialsError,
    LeaseLostError,
    NonceStoreError,
    NotSentError,
    PermissionDeniedError,
    ServiceError,
    SettingsError,
    SilenceError,
    StoppingError,
    StoreUnavailableError,
    TurnTimeout,
)
from bot.base.models import Side
from bot.trading.strategies.moving_average import MovingAverage
from tests.trading_fakes import (
    FakeBroker,
    PatientEvent,
    Script,
    SteppedClock,
    buy,
    make_candles,
    make_order,
    run_trader,
    sell_all,
)

FLAT = [100] * 10
HILL = [10, 10, 10, 13, 16, 20, 20, 16, 12, 12]  # averages of 2 and 3 cross up at 13 and are crossed at the second 16


def market(closes: list[int], start_seconds: float = 60.0) -> tuple[FakeBroker, ReplayClock]:
    """Return a broker over a market that begins with its first candle closed and ends with its last."""
    clock = ReplayClock(start_seconds, len(closes) * 60.0)
    return FakeBroker(clock, {"BTC/USD": make_candles(closes)}), clock


def present(closes: list[int]) -> tuple[FakeBroker, SteppedClock]:
    """Return a broker over a market at current prices, with all candles but the last two closed."""
    clock = SteppedClock((len(closes) - 2) * 60.0 + 1)
    return FakeBroker(clock, {"BTC/USD": make_candles(closes)}), clock


def test_a_market_is_traded_from_start_to_end() -> None:
    """The hill is bought at 13 and sold at 16: 7.69230769 coins that earn 23.07692307, no digit less."""
    broker, clock = market(HILL)
    summary, _ = run_trader(broker, clock, MovingAverage(2, 3, 2, Decimal(3)))
    assert broker.placed() == [("buy", "7.69230769", "13"), ("sell", "7.69230769", "16")]
    assert (summary.orders.placed, summary.orders.fills, summary.passes) == (2, 2, 9)
    assert summary.realised == Decimal("23.07692307")
    assert summary.equity_start == 1000
    assert summary.equity_end == Decimal("1023.07692307")
    assert (summary.reason, summary.error) == ("the market's prices have ended", None)


def test_the_same_market_gives_the_same_orders_with_the_same_identities() -> None:
    """Two traders over two brokers with the same rows send the same orders, each under the same identity."""
    ran = []
    for _ in range(2):
        broker, clock = market(HILL)
        run_trader(broker, clock, MovingAverage(2, 3, 2, Decimal(3)))
        ran.append((broker.sent_ids, broker.placed()))
    assert ran[0] == ran[1]
    assert ran[0][0] == [
        "bot01|BTC/USD|moving_average|180|entry|0",
        "bot01|BTC/USD|moving_average|420|exit|0",
    ]


def test_a_quiet_pass_makes_at_most_two_calls() -> None:
    """A hundred passes without a signal ask a hundred times for candles, no more often for the exchange's status, every
    five minutes for the pair's, and no more."""
    broker, clock = market([100] * 101)
    run_trader(broker, clock, Script({}))
    counted = Counter(broker.calls)
    assert counted.pop("get_candles") == 100
    assert counted.pop("system_status") <= 100
    assert counted.pop("pair_status") == 20
    # The start and the summary at the end: history and equity.
    assert counted == {"get_open_orders": 1, "get_closed_orders": 1, "get_account_balance": 2, "get_current_price": 2}


def test_between_candles_at_current_prices_nothing_is_asked_for_that_is_not_due() -> None:
    """Seven passes in a minute ask for candles twice, again when one has closed, and for the status thrice."""
    broker, clock = present(FLAT)
    summary, _ = run_trader(broker, clock, Script({}), max_ticks=7)
    assert summary.passes == 7
    assert broker.calls.count("get_candles") == 2
    assert broker.calls.count("system_status") == 3


def test_a_candle_is_decided_once() -> None:
    """Of three passes within one candle the first decides, and says so once."""
    broker, clock = present(FLAT)
    _, lines = run_trader(broker, clock, Script({}), max_ticks=3)
    assert [line for line in lines if "nothing to do" in line] == [
        "1970-01-01T00:08:01Z  BTC/USD 100  nothing to do: no signal"
    ]


def test_a_replay_says_only_what_happened_and_marks_it() -> None:
    """Of ten candles two lines of placing and two of fills are left, all marked as replayed."""
    broker, clock = market(HILL)
    _, lines = run_trader(broker, clock, MovingAverage(2, 3, 2, Decimal(3)))
    assert len(lines) == 4
    assert lines[0] == (
        "1970-01-01T00:04:01Z replay  BTC/USD 13  entry: buy 7.69230769 at 13 accepted as O1,"
        " because the 2 average crossed above the 3 average"
    )
    assert lines[1] == "1970-01-01T00:04:01Z replay  BTC/USD 13  filled: buy 7.69230769 for 100.00 USD, fee 0.00 (O1)"


def test_the_same_refusal_is_said_once_in_a_replay() -> None:
    """Entries wanted in three candles of a replay and refused by one rule make one line."""
    broker, clock = market(FLAT)
    wanted = {60 * at: buy("1") for at in (3, 4, 5)}
    _, lines = run_trader(broker, clock, Script(wanted), halted=lambda: True)
    assert [line for line in lines if "refused (kill switch)" in line] == [
        "1970-01-01T00:04:01Z replay  BTC/USD 100  entry refused (kill switch): the kill switch is on: no order is sent"
    ]


def test_an_entry_lives_one_candle_and_a_minute() -> None:
    """An entry at a timeframe of 60 s expires after 120 s."""
    broker, clock = market(FLAT)
    run_trader(broker, clock, Script({180: buy("1")}))
    assert broker.expire_seconds == [120]


def test_an_entry_lives_as_long_as_the_setting_says() -> None:
    """With a lifetime of 300 s, an entry at a timeframe of 60 s expires after 300 s."""
    broker, clock = market(FLAT)
    run_trader(broker, clock, Script({180: buy("1")}), entry_lifetime_seconds=300)
    assert broker.expire_seconds == [300]


def test_passes_of_a_replay_that_catches_up_are_no_ticks() -> None:
    """With one tick wanted, three replayed candles are passed through first, and the wait at the end is a second."""
    now = int(wall_seconds()) // 3600 * 3600 + 1.0
    clock = ReplayClock(now - 3 * 3600)
    candles = make_candles([100] * 4, 3600, int(now) - 4 * 3600)
    broker = FakeBroker(clock, {"BTC/USD": candles})
    broker.get_current_price = lambda symbol: candles[-1].close  # type: ignore[method-assign]
    stop = PatientEvent()
    summary, _ = run_trader(broker, clock, Script({}), stop=stop, timeframe="1h", max_ticks=1)
    assert summary.reason == "1 ticks done"
    assert summary.passes in {5, 6}
    assert not clock.replaying
    assert all(seconds <= 1.0 for seconds in stop.waits_seconds)


@pytest.mark.parametrize(
    "trouble",
    [
        NotSentError("no connection"),
        ServiceError("SystemStatus", ["EService:Unavailable"]),
        SilenceError("the key stands by", 1e9),
        TurnTimeout("another sender holds the turn"),
    ],
    ids=lambda trouble: type(trouble).__name__,
)
def test_trouble_that_passes_is_said_once_and_waited_out(trouble: BotError) -> None:
    """Three failures in a row are one line and waits of 1, 2 and 4 s; then it says that it goes on."""
    broker, clock = present(FLAT)
    broker.fail("system_status", trouble, trouble, trouble)
    stop = PatientEvent()
    summary, lines = run_trader(broker, clock, Script({}), stop=stop, max_ticks=4)
    assert [line.split("  ")[1] for line in lines if "waiting" in line or "going on" in line] == [
        f"waiting: {trouble}",
        "going on",
    ]
    assert stop.waits_seconds == [1.0, 2.0, 4.0]
    assert summary.error is None


def test_trouble_is_waited_out_for_as_long_as_krakens_answer_asks() -> None:
    """After Kraken's answer that asks for 30 s the wait is 30 s and not 1; the next trouble waits 2 s as ever."""
    broker, clock = present(FLAT)
    trouble = ServiceError("SystemStatus", ["EService:Market in cancel_only mode"])
    trouble.wait_seconds = 30.0
    broker.fail("system_status", trouble, NotSentError("no connection"))
    stop = PatientEvent()
    run_trader(broker, clock, Script({}), stop=stop, max_ticks=3)
    assert stop.waits_seconds == [30.0, 2.0]


def test_the_back_off_ends_at_a_minute() -> None:
    """The eighth failure in a row waits 60 s, not 128; after the last there is nothing to wait for."""
    broker, clock = present(FLAT)
    broker.fail("system_status", *[NotSentError("no connection")] * 9)
    stop = PatientEvent()
    run_trader(broker, clock, Script({}), stop=stop, max_ticks=9)
    assert stop.waits_seconds == [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0]


def test_a_shared_store_is_asked_again_soon() -> None:
    """While the nonce store is away the bot asks again every 3 s at most, and goes on with it."""
    broker, clock = present(FLAT)
    broker.fail("get_account_balance", *[StoreUnavailableError("away")] * 5)
    stop = PatientEvent()
    summary, _ = run_trader(broker, clock, Script({}), stop=stop, max_ticks=6)
    assert stop.waits_seconds == [1.0, 2.0, 3.0, 3.0, 3.0]
    assert summary.error is None


@pytest.mark.parametrize(
    "trouble",
    [
        CredentialsError("BalanceEx", ["EAPI:Invalid key"]),
        PermissionDeniedError("BalanceEx", ["EGeneral:Permission denied"]),
        NonceStoreError("the disk is full"),
        LeaseLostError("another instance leads"),
    ],
    ids=lambda trouble: type(trouble).__name__,
)
def test_trouble_that_needs_a_person_stops_the_run(trouble: BotError) -> None:
    """The run ends with the error, after one failed call and no private call more."""
    broker, clock = present(FLAT)
    broker.fail("get_account_balance", trouble)
    summary, _ = run_trader(broker, clock, Script({}))
    assert summary.error is trouble
    assert broker.calls[-1] == "get_account_balance"
    assert summary.equity_end is None


def test_an_error_in_the_program_stops_the_run(caplog: pytest.LogCaptureFixture) -> None:
    """A strategy that fails on its own ends the run with its error, a traceback in the log and no call more."""

    def broken(_market: object) -> list[object]:
        raise ZeroDivisionError("a bug")

    broker, clock = market(FLAT)
    with caplog.at_level(logging.ERROR):
        summary, _ = run_trader(broker, clock, Script({180: broken}))  # type: ignore[dict-item]
    assert isinstance(summary.error, ZeroDivisionError)
    assert "Traceback" in caplog.text
    assert broker.calls[-1] == "get_candles"


def test_a_set_stop_ends_the_run_before_the_next_pass() -> None:
    """With stop set from the start there is no pass, and the account is summed up."""
    broker, clock = present(FLAT)
    stop = threading.Event()
    stop.set()
    summary, _ = run_trader(broker, clock, Script({}), stop=stop)
    assert (summary.passes, summary.reason, summary.equity_end) == (0, "stopped", Decimal(1000))


def test_a_broker_that_is_stopping_ends_the_run() -> None:
    """StoppingError from any call is the end, not a failure."""
    broker, clock = present(FLAT)
    broker.fail("system_status", StoppingError("the program is stopping"))
    summary, _ = run_trader(broker, clock, Script({}))
    assert (summary.reason, summary.error) == ("stopped", None)


def test_a_pair_goes_by_its_own_name_whatever_the_settings_call_it() -> None:
    """With XBTUSD and BTC/USD in the settings there is one pair, and its position is sold once."""
    broker, clock = market(FLAT)
    broker.rows["H"] = make_order("H", Side.BUY, "1", "100", closed_seconds=2.0)
    broker.totals["BTC"] = Decimal(1)
    run_trader(broker, clock, Script({300: sell_all}), symbols=("XBTUSD", "BTC/USD"))
    assert broker.sent_ids == ["bot01|BTC/USD|script|300|exit|0"]


def test_pairs_of_two_quote_currencies_are_refused() -> None:
    """BTC/USD beside ETH/EUR ends the run with a SettingsError before any call."""
    broker, clock = present(FLAT)
    summary, _ = run_trader(broker, clock, Script({}), symbols=("BTC/USD", "ETH/EUR"))
    assert isinstance(summary.error, SettingsError)
    assert broker.calls == []


def test_a_heartbeat_comes_once_a_minute() -> None:
    """In two minutes of passes at current prices there are two lines of what is watched."""
    broker, clock = present([100] * 12)
    _, lines = run_trader(broker, clock, Script({}), max_ticks=15)
    assert [line.split("  ")[1] for line in lines if "watching" in line] == [
        "watching: BTC/USD 100, holding 0; open orders: 0"
    ] * 2
