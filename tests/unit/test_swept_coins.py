"""Coins that auto-earn has moved to the row .F, and positions that disagree with the balance."""

from __future__ import annotations

from decimal import Decimal

import pytest

from bot.base.errors import OrderRefusedError
from bot.base.event_catalog import Event
from bot.base.models import Side
from bot.dashboard import page
from bot.dashboard.client import format_summary
from bot.trading.strategies.base import StrategyContext
from tests.event_log import EventLog
from tests.trading_fakes import (
    FakeBroker,
    ScriptedStrategy,
    SteppedClock,
    make_candles,
    make_order,
    observe_context,
    run_trader,
    sell_all,
)
from tests.unit.dashboard_samples import full_status

REFUSED = OrderRefusedError("AddOrder", ["EOrder:Insufficient funds"])
QUIET = ScriptedStrategy({})


def account_with(**totals: str) -> tuple[FakeBroker, SteppedClock]:
    """Return a market at 100 with one coin that the bot bought, and what the account has of each asset."""
    clock = SteppedClock(361.0)
    broker = FakeBroker(clock, {"BTC/USD": make_candles([100] * 60)})
    broker.orders["H"] = make_order("H", Side.BUY, "1", "100", opened_seconds=1.0, closed_seconds=2.0)
    broker.totals |= {name.replace("_", "."): Decimal(total) for name, total in totals.items()}
    return broker, clock


def sold(broker: FakeBroker) -> list[Decimal]:
    """Return the quantities of all sales."""
    return [order.volume for order in broker.orders.values() if order.side is Side.SELL]


def test_swept_coins_are_a_position_that_an_exit_sells() -> None:
    """A coin of which 0.6 are in the account and 0.4 in BTC.F is a position of 1, and is sold in one order."""
    broker, clock = account_with(BTC="0.6", BTC_F="0.4")
    run_trader(broker, clock, ScriptedStrategy({300: sell_all}), max_cycles=2)
    assert sold(broker) == [Decimal(1)]


def test_swept_coins_get_a_stop() -> None:
    """A coin that is in BTC.F alone has a stop."""
    broker, clock = account_with(BTC="0", BTC_F="1")
    run_trader(broker, clock, QUIET, max_cycles=2, stop_loss_percent=Decimal(10))
    assert sold(broker) == [Decimal(1)]


@pytest.mark.parametrize("suffix", ["S", "B", "M", "T"])
def test_other_rows_of_a_coin_stay_apart(suffix: str) -> None:
    """A coin in BTC.S, .B, .M or .T is no position, and not in the equity."""
    broker, clock = account_with(BTC="0", **{f"BTC_{suffix}": "1"})
    summary, _ = run_trader(broker, clock, ScriptedStrategy({300: sell_all}), max_cycles=2)
    assert (sold(broker), summary.equity_start) == ([], Decimal(1000))


def test_equity_sums_both_rows_once() -> None:
    """1000 USD, 50 in USD.F, 0.6 coins and 0.4 in BTC.F at 100 are an equity of 1150."""
    broker, clock = account_with(BTC="0.6", BTC_F="0.4", USD_F="50")
    summary, _ = run_trader(broker, clock, QUIET, max_cycles=1)
    assert (summary.equity_start, summary.equity_end) == (Decimal(1150), Decimal(1150))


def test_an_entry_never_spends_swept_money() -> None:
    """With 1000 USD and 50 in USD.F the strategy can spend 1000."""
    broker, clock = account_with(BTC="1", USD_F="50")
    seen: list[StrategyContext] = []
    run_trader(broker, clock, ScriptedStrategy({300: observe_context(seen.append)}), max_cycles=1)
    assert seen[0].quote_available == Decimal(1000)


def test_a_funds_refusal_names_the_swept_amount() -> None:
    """Kraken's refusal of an exit for insufficient funds is logged with what is in BTC.F; without a swept coin it is
    not."""
    for totals, advice in (
        ({"BTC": "0", "BTC_F": "1"}, "1 BTC are in BTC.F (auto-earn): move them back"),
        ({"BTC": "1"}, None),
    ):
        broker, clock = account_with(**totals)
        broker.fail("place_sell", REFUSED)
        _, event_log = run_trader(broker, clock, ScriptedStrategy({300: sell_all}), max_cycles=1)
        assert event_log.of(Event.ORDER_REFUSED).values("advice") == [advice]


def disagreements(event_log: EventLog) -> list[tuple[Decimal, Decimal]]:
    """Return of each reported disagreement what the bot holds and what the account has."""
    found: list[tuple[Decimal, Decimal]] = event_log.of(Event.BALANCE_DISAGREES).values("volume", "balance")
    return found


@pytest.mark.parametrize(
    ("totals", "is_reported"),
    [
        ({"BTC": "0"}, True),
        ({"BTC": "0.99"}, True),
        ({"BTC": "0.9901"}, False),
        ({"BTC": "1"}, False),
        ({"BTC": "1.0099"}, False),
        ({"BTC": "1.01"}, True),
        ({"BTC": "0", "BTC_F": "1"}, True),
        ({"BTC": "0", "BTC_S": "1"}, True),
    ],
    ids=str,
)
def test_a_position_that_disagrees_with_the_balance_is_reported_once(totals: dict[str, str], is_reported: bool) -> None:
    """A difference of the pair's minimum of 0.01 or more, in either direction, is one event with an alert in many
    cycles, and so are coins in BTC.F alone; a smaller one is none."""
    broker, clock = account_with(**totals)
    _, event_log = run_trader(broker, clock, QUIET, max_cycles=60)
    assert disagreements(event_log) == ([(Decimal(1), Decimal(totals["BTC"]))] if is_reported else [])
    assert len(event_log.alerts) == len(disagreements(event_log))


def return_coins_after(broker: FakeBroker, clock: SteppedClock, seconds: float) -> None:
    """Show the coin that the account lacks so many seconds after the bot's start."""
    read = broker.get_account_balance

    def read_late() -> object:
        broker.totals["BTC"] = Decimal(clock.now() >= 361 + seconds)
        return read()

    broker.get_account_balance = read_late  # type: ignore[method-assign,assignment]


def test_a_disagreement_of_less_than_a_minute_is_not_reported() -> None:
    """Coins that Kraken shows 50 s late are not reported."""
    broker, clock = account_with(BTC="0")
    return_coins_after(broker, clock, 50)
    _, event_log = run_trader(broker, clock, QUIET, max_cycles=60)
    assert disagreements(event_log) == []


def test_an_end_of_the_disagreement_is_reported() -> None:
    """Coins that were away for five minutes are reported as missing, and then as there again."""
    broker, clock = account_with(BTC="0")
    return_coins_after(broker, clock, 300)
    _, event_log = run_trader(broker, clock, QUIET, max_cycles=60)
    assert event_log.alerts.events == [Event.BALANCE_DISAGREES, Event.BALANCE_AGREES]


def test_a_disagreement_is_on_the_page_and_in_the_status() -> None:
    """The page and the `status` command have the text, where there is one."""
    status = full_status()
    assert "the account has 0 BTC" not in page.render_live(status) + format_summary(status)
    status["pairs"][0]["balance_problem"] = "the bot holds 1, the account has 0 BTC"
    assert "the account has 0 BTC" in page.render_live(status)
    assert "the account has 0 BTC" in format_summary(status)
