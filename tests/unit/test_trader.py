"""The trader's loop: its requests, decisions, waits and ends. The broker is in memory."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from decimal import Decimal

import pytest

from bot.base.clock import ReplayClock, wall_seconds
from bot.base.errors import (
    BotError,
    CircuitOpenError,
    CredentialsError,
    LeaseLostError,
    NonceStoreError,
    NotSentError,
    PermissionDeniedError,
    RequestLockTimeout,
    ServiceError,
    SettingsError,
    StoppingError,
    StoreUnavailableError,
)
from bot.base.event_catalog import Event
from bot.base.models import Side
from bot.trading.strategies.moving_average import MovingAverage
from tests.trading_fakes import (
    FakeBroker,
    InstantEvent,
    ScriptedStrategy,
    SteppedClock,
    buy,
    make_candles,
    make_order,
    run_trader,
    sell_all,
)

FLAT = [100] * 10
HILL = [10, 10, 10, 13, 16, 20, 20, 16, 12, 12]  # averages of 2 and 3 cross up at 13 and down at the second 16


def replay_market(closes: list[int], start_seconds: float = 60.0) -> tuple[FakeBroker, ReplayClock]:
    """Return a broker over a market that begins with its first candle closed and ends with its last."""
    clock = ReplayClock(start_seconds, len(closes) * 60.0)
    return FakeBroker(clock, {"BTC/USD": make_candles(closes)}), clock


def live_market(closes: list[int]) -> tuple[FakeBroker, SteppedClock]:
    """Return a broker over a market at current prices, with all candles but the last two closed."""
    clock = SteppedClock((len(closes) - 2) * 60.0 + 1)
    return FakeBroker(clock, {"BTC/USD": make_candles(closes)}), clock


def test_a_market_is_traded_from_start_to_end() -> None:
    """The rise is bought at 13 and sold at 16: 7.69230769 coins that earn exactly 23.07692307."""
    broker, clock = replay_market(HILL)
    summary, _ = run_trader(broker, clock, MovingAverage(2, 3, 2, Decimal(3)))
    assert broker.placed() == [("buy", "7.69230769", "13"), ("sell", "7.69230769", "16")]
    assert (summary.orders.placed, summary.orders.fills, summary.cycles) == (2, 2, 9)
    assert summary.realised == Decimal("23.07692307")
    assert summary.equity_start == 1000
    assert summary.equity_end == Decimal("1023.07692307")
    assert (summary.reason, summary.error) == ("the market's prices have ended", None)


def test_the_same_market_gives_the_same_orders_with_the_same_client_order_ids() -> None:
    """Two traders over two brokers with the same candles send the same orders with the same client order ids."""
    runs = []
    for _ in range(2):
        broker, clock = replay_market(HILL)
        run_trader(broker, clock, MovingAverage(2, 3, 2, Decimal(3)))
        runs.append((broker.sent_ids, broker.placed()))
    assert runs[0] == runs[1]
    assert runs[0][0] == [
        "bot01|BTC/USD|moving_average|180|entry|0",
        "bot01|BTC/USD|moving_average|420|exit|0",
    ]


def test_an_idle_cycle_makes_at_most_two_calls() -> None:
    """A hundred cycles without a signal request candles a hundred times, the exchange's status no more often, the
    pair's every five minutes, and nothing else."""
    broker, clock = replay_market([100] * 101)
    run_trader(broker, clock, ScriptedStrategy({}))
    counted = Counter(broker.calls)
    assert counted.pop("get_candles") == 100
    assert counted.pop("system_status") <= 100
    assert counted.pop("pair_status") == 20
    # The start and the summary at the end read history and equity.
    assert counted == {"get_open_orders": 1, "get_closed_orders": 1, "get_account_balance": 2, "get_current_price": 2}


def test_between_candles_only_due_data_is_requested() -> None:
    """Seven cycles in a minute request candles twice, again when one has closed, and the status three times."""
    broker, clock = live_market(FLAT)
    summary, _ = run_trader(broker, clock, ScriptedStrategy({}), max_cycles=7)
    assert summary.cycles == 7
    assert broker.calls.count("get_candles") == 2
    assert broker.calls.count("system_status") == 3


def test_a_candle_is_decided_once() -> None:
    """Of three cycles within one candle the first decides, and logs its decision once."""
    broker, clock = live_market(FLAT)
    _, event_log = run_trader(broker, clock, ScriptedStrategy({}), max_cycles=3)
    (hold,) = event_log.of(Event.HOLD_DECIDED)
    assert hold.fields == {"symbol": "BTC/USD", "close": 100, "market_time": "1970-01-01T00:08:01Z"}
    assert hold.text == "BTC/USD 100  nothing to do: no signal"


def test_a_replay_logs_only_orders_and_fills_and_marks_them() -> None:
    """Over ten candles only two orders and two fills are logged, all marked as a replay and with the market's time."""
    broker, clock = replay_market(HILL)
    _, event_log = run_trader(broker, clock, MovingAverage(2, 3, 2, Decimal(3)))
    assert event_log.events == [Event.ORDER_PLACED, Event.ORDER_FILLED] * 2
    assert (
        event_log.values("market_time", "replay")
        == [("1970-01-01T00:04:01Z", True)] * 2 + [("1970-01-01T00:08:01Z", True)] * 2
    )
    assert event_log.texts[:2] == [
        "BTC/USD 13  entry: buy 7.69230769 at 13 accepted as O1: the 2 average crossed above the 3 average",
        "BTC/USD 13  filled: buy 7.69230769 for 100.00 USD, fee 0.00 (O1)",
    ]
    placed, filled = event_log[:2]
    cl_ord_id = broker.sent_ids[0]
    assert placed.fields.items() >= {
        ("symbol", "BTC/USD"),
        ("kind", "entry"),
        ("side", Side.BUY),
        ("volume", Decimal("7.69230769")),
        ("price", Decimal(13)),
        ("txid", "O1"),
        ("cl_ord_id", cl_ord_id),
    }
    assert filled.fields.items() >= {
        ("symbol", "BTC/USD"),
        ("side", Side.BUY),
        ("volume", Decimal("7.69230769")),
        ("cost", Decimal("99.99999997")),
        ("quote", "USD"),
        ("fee", Decimal(0)),
        ("txid", "O1"),
        ("cl_ord_id", cl_ord_id),
    }


def test_a_repeated_refusal_is_logged_once_in_a_replay() -> None:
    """Entries in three candles of a replay that one rule refuses are logged once."""
    broker, clock = replay_market(FLAT)
    decisions = {60 * index: buy("1") for index in (3, 4, 5)}
    _, event_log = run_trader(broker, clock, ScriptedStrategy(decisions), is_halted=lambda: True)
    (refusal,) = event_log.of(Event.ORDER_REFUSED_BY_RISK)
    assert (refusal["rule"], refusal["replay"]) == ("halted", True)
    assert refusal.text == "BTC/USD 100  entry refused (halted): no order is sent until `python main.py resume --halt`"


def test_an_entry_expires_after_one_candle_and_a_minute() -> None:
    """An entry at a timeframe of 60 s expires after 120 s."""
    broker, clock = replay_market(FLAT)
    run_trader(broker, clock, ScriptedStrategy({180: buy("1")}))
    assert broker.expire_seconds == [120]


def test_an_entry_expires_after_the_configured_ttl() -> None:
    """With a time-to-live of 300 s, an entry at a timeframe of 60 s expires after 300 s."""
    broker, clock = replay_market(FLAT)
    run_trader(broker, clock, ScriptedStrategy({180: buy("1")}), entry_ttl_seconds=300)
    assert broker.expire_seconds == [300]


def test_warm_up_cycles_do_not_count_towards_max_cycles() -> None:
    """With max_cycles of one, three warm-up candles are processed first, and the wait at the end is a second."""
    now = int(wall_seconds()) // 3600 * 3600 + 1.0
    clock = ReplayClock(now - 3 * 3600)
    candles = make_candles([100] * 4, 3600, int(now) - 4 * 3600)
    broker = FakeBroker(clock, {"BTC/USD": candles})
    broker.get_current_price = lambda symbol: candles[-1].close  # type: ignore[method-assign]
    stop = InstantEvent()
    summary, _ = run_trader(broker, clock, ScriptedStrategy({}), stop=stop, timeframe="1h", max_cycles=1)
    assert summary.reason == "1 cycles done"
    assert summary.cycles in {5, 6}
    assert not clock.is_replaying
    assert all(seconds <= 1.0 for seconds in stop.waits_seconds)


@pytest.mark.parametrize(
    "error",
    [
        NotSentError("no connection"),
        ServiceError("SystemStatus", ["EService:Unavailable"]),
        CircuitOpenError("the circuit breaker is open", 1e9),
        RequestLockTimeout("another sender holds the request lock"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_transient_error_is_logged_once_and_retried_with_back_off(error: BotError) -> None:
    """Three failures in a row are one warning and waits of 1, 2 and 4 s; then one event reports the recovery."""
    broker, clock = live_market(FLAT)
    broker.fail("system_status", error, error, error)
    stop = InstantEvent()
    summary, event_log = run_trader(broker, clock, ScriptedStrategy({}), stop=stop, max_cycles=4)
    cycles = event_log.of(Event.CYCLE_FAILED, Event.CYCLE_RECOVERED)
    assert cycles.texts == [f"Waiting: {error}", "Trading continues."]
    assert cycles.values("error") == [error, None]
    assert stop.waits_seconds == [1.0, 2.0, 4.0]
    assert summary.error is None


def test_the_back_off_lasts_as_long_as_kraken_requests() -> None:
    """After an answer of Kraken that asks for 30 s the wait is 30 s and not 1; the next error waits 2 s as usual."""
    broker, clock = live_market(FLAT)
    error = ServiceError("SystemStatus", ["EService:Market in cancel_only mode"])
    error.wait_seconds = 30.0
    broker.fail("system_status", error, NotSentError("no connection"))
    stop = InstantEvent()
    run_trader(broker, clock, ScriptedStrategy({}), stop=stop, max_cycles=3)
    assert stop.waits_seconds == [30.0, 2.0]


def test_the_back_off_is_capped_at_a_minute() -> None:
    """The eighth failure in a row waits 60 s, not 128; after the last there is no wait."""
    broker, clock = live_market(FLAT)
    broker.fail("system_status", *[NotSentError("no connection")] * 9)
    stop = InstantEvent()
    run_trader(broker, clock, ScriptedStrategy({}), stop=stop, max_cycles=9)
    assert stop.waits_seconds == [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0]


def test_an_unavailable_nonce_store_is_retried_within_three_seconds() -> None:
    """While the nonce store is unavailable the bot retries every 3 s at most, and continues when it is back."""
    broker, clock = live_market(FLAT)
    broker.fail("get_account_balance", *[StoreUnavailableError("away")] * 5)
    stop = InstantEvent()
    summary, _ = run_trader(broker, clock, ScriptedStrategy({}), stop=stop, max_cycles=6)
    assert stop.waits_seconds == [1.0, 2.0, 3.0, 3.0, 3.0]
    assert summary.error is None


@pytest.mark.parametrize(
    "error",
    [
        CredentialsError("BalanceEx", ["EAPI:Invalid key"]),
        PermissionDeniedError("BalanceEx", ["EGeneral:Permission denied"]),
        NonceStoreError("the disk is full"),
        LeaseLostError("another instance leads"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_fatal_error_ends_the_run(error: BotError) -> None:
    """The run ends with the error, after one failed call and no further private call."""
    broker, clock = live_market(FLAT)
    broker.fail("get_account_balance", error)
    summary, _ = run_trader(broker, clock, ScriptedStrategy({}))
    assert summary.error is error
    assert broker.calls[-1] == "get_account_balance"
    assert summary.equity_end is None


def test_an_unexpected_exception_ends_the_run(caplog: pytest.LogCaptureFixture) -> None:
    """A fault in the program ends the run with its error, a traceback in the log and no further call."""
    broker, clock = replay_market(FLAT)
    broker.fail("get_candles", ZeroDivisionError("a bug"))
    with caplog.at_level(logging.ERROR):
        summary, _ = run_trader(broker, clock, ScriptedStrategy({}))
    assert isinstance(summary.error, ZeroDivisionError)
    assert "Traceback" in caplog.text
    assert broker.calls[-1] == "get_candles"


def test_a_set_stop_event_ends_the_run_before_the_next_cycle() -> None:
    """If stop is set from the start there is no cycle, and the account is summarized."""
    broker, clock = live_market(FLAT)
    stop = threading.Event()
    stop.set()
    summary, _ = run_trader(broker, clock, ScriptedStrategy({}), stop=stop)
    assert (summary.cycles, summary.reason, summary.equity_end) == (0, "stopped", Decimal(1000))


def test_a_stopping_error_ends_the_run_without_an_error() -> None:
    """StoppingError from any call ends the run without a failure."""
    broker, clock = live_market(FLAT)
    broker.fail("system_status", StoppingError("the program is stopping"))
    summary, _ = run_trader(broker, clock, ScriptedStrategy({}))
    assert (summary.reason, summary.error) == ("stopped", None)


def test_pair_aliases_in_the_settings_are_one_pair() -> None:
    """With XBTUSD and BTC/USD in the settings there is one pair, and its position is sold once."""
    broker, clock = replay_market(FLAT)
    broker.orders["H"] = make_order("H", Side.BUY, "1", "100", closed_seconds=2.0)
    broker.totals["BTC"] = Decimal(1)
    run_trader(broker, clock, ScriptedStrategy({300: sell_all}), symbols=("XBTUSD", "BTC/USD"))
    assert broker.sent_ids == ["bot01|BTC/USD|script|300|exit|0"]


def test_pairs_of_two_quote_currencies_are_refused() -> None:
    """BTC/USD beside ETH/EUR ends the run with a SettingsError before any call."""
    broker, clock = live_market(FLAT)
    summary, _ = run_trader(broker, clock, ScriptedStrategy({}), symbols=("BTC/USD", "ETH/EUR"))
    assert isinstance(summary.error, SettingsError)
    assert broker.calls == []


def test_a_status_line_is_written_once_a_minute() -> None:
    """Two minutes of cycles at current prices log the status twice."""
    broker, clock = live_market([100] * 12)
    _, event_log = run_trader(broker, clock, ScriptedStrategy({}), max_cycles=15)
    statuses = event_log.of(Event.STATUS_REPORTED)
    assert statuses.texts == ["Watching BTC/USD 100; holding BTC/USD 0; open orders: 0"] * 2
    assert statuses.values("prices", "holdings", "open_orders") == [({"BTC/USD": 100}, {"BTC/USD": 0}, 0)] * 2
