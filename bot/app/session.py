"""One run of the bot: stand by until it leads, read the account, trade, sign off; where it lost the lead, again."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from bot.app.lifecycle import Runner, State
from bot.app.nonce_report import nonce_line
from bot.base import events
from bot.base.clock import MarketClock
from bot.base.errors import (
    LeaseLostError,
    ServiceError,
    StoppingError,
    StoreUnavailableError,
    TransportError,
    TurnLostError,
)
from bot.base.events import Event
from bot.base.models import Balance, common_quote
from bot.broker_manager import KrakenBroker
from bot.config import Settings
from bot.nonce.leader_election import Former, Leadership
from bot.trading.controls import Switches
from bot.trading.risk import RiskLimits
from bot.trading.strategies import STRATEGIES
from bot.trading.trader import Summary, Trader, TraderSettings

AGAIN_SECONDS = 10.0
# Files in the state folder, as long as they are there: the kill switch, a person's own to make and to remove; and what
# the page's stop makes and `resume` removes.
HALT = "halt"
ENTRIES_STOPPED = "entries_stopped"

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Market:
    """Where the bot trades: the broker, the market's clock, and what to say of the prices."""

    broker: KrakenBroker
    clock: MarketClock
    prices: str


def trade_when_leading(
    settings: Settings, market: Market, runner: Runner, max_ticks: int | None, say: Say
) -> Summary | None:
    """Trade as often as this instance leads, until something ends it; return None where it was stopped before."""
    while True:
        try:
            with _leading(settings, market.broker, runner, say):
                return _trade(settings, market, runner, max_ticks, say)
        except (LeaseLostError, StoreUnavailableError, TurnLostError) as lost:
            if runner.leadership is None or not runner.leadership.generation:
                raise
            say(f"standby  {lost}")
        except (TransportError, ServiceError) as trouble:
            # The account could not be read: where instances stand by for each other, none of them ends for that.
            if runner.leadership is None:
                raise
            say(f"standby  {trouble}")
            runner.become(State.STANDBY, str(trouble))
            runner.stop.wait(AGAIN_SECONDS)
        except StoppingError:
            return None


@contextlib.contextmanager
def _leading(settings: Settings, broker: KrakenBroker, runner: Runner, say: Say) -> Iterator[None]:
    """Stand by until this instance leads, where hosts share a store; sign off at the end."""
    if broker.shared_store is None:
        yield
        return
    runner.leadership = runner.leadership or Leadership(broker.shared_store, settings.lease_seconds)
    settled = False
    try:
        runner.become(State.STANDBY, "it asks who leads")
        former = runner.leadership.wait(runner.stop, lambda text: _say_standing(text, runner, say))
        broker.take_over(clean=former is Former.SETTLED, first=former is Former.NOBODY)
        yield
        settled = broker.is_settled()
    finally:
        if runner.leadership.sign_off(settled):
            orders = "every order settled" if settled else "not every order known to be settled"
            say(f"leader   generation {runner.leadership.generation} has signed off, {orders}")


def _say_standing(text: str, runner: Runner, say: Say) -> None:
    say(text)
    runner.become(State.STANDBY, text.removeprefix("standby  "))


def _trade(settings: Settings, market: Market, runner: Runner, max_ticks: int | None, say: Say) -> Summary:
    runner.become(State.STARTING)
    _say_account(settings, market, market.broker.connect(), say)
    runner.trader = open_trader(settings, market, runner, max_ticks, say)
    runner.become(State.TRADING)
    try:
        summary = runner.trader.run()
    finally:
        # Nothing of it is left to stop.
        runner.trader = None
    if isinstance(summary.error, LeaseLostError):
        raise summary.error
    return summary


def open_trader(settings: Settings, market: Market, runner: Runner, max_ticks: int | None, say: Say) -> Trader:
    """Return the trader for these settings. Raises SymbolError or SettingsError, before anything is summed up."""
    pairs = [market.broker.pair(name) for name in settings.pairs]
    common_quote(pairs)
    kill_switch = events.watched(
        (settings.state_dir / HALT).exists,
        Event.KILL_SWITCH,
        "the kill switch is on: no order is sent",
        "the kill switch is off: orders are sent again",
    )
    is_trading = settings.trading_mode != "halt"
    limits = RiskLimits(
        settings.max_order_value,
        settings.max_position_value,
        settings.max_daily_loss,
        settings.loss_pause_seconds,
    )
    trader_settings = TraderSettings(
        symbols=tuple(pair.symbol for pair in pairs),
        timeframe=settings.timeframe,
        order_value=settings.order_value,
        limits=limits,
        entry_lifetime_seconds=settings.entry_lifetime_seconds or None,
        cancel_entries_on_stop=settings.cancel_entries_on_stop and is_trading,
        # Not even disarmed where the account is only watched: it may be somebody else's.
        dead_man_switch_seconds=settings.dead_man_switch_seconds if is_trading else 0,
        stop_percent=settings.stop_percent,
        max_ticks=max_ticks,
    )
    return Trader(
        market.broker,
        STRATEGIES[settings.strategy](),
        trader_settings,
        clock=market.clock,
        stop=runner.stop,
        report=say,
        switches=Switches(
            halted=lambda: not is_trading or kill_switch(),
            entries_stopped=(settings.state_dir / ENTRIES_STOPPED).exists,
            check_state=runner.check_state,
        ),
    )


def _say_account(settings: Settings, market: Market, balances: dict[str, Balance], say: Say) -> None:
    """Write the first lines: nonce, pairs, prices, account."""
    say(f"nonce    {nonce_line(market.broker.shared_store)}")
    say(f"pairs    {', '.join(settings.pairs)} at {settings.timeframe}, strategy {settings.strategy}")
    say(f"prices   {market.prices}")
    held = [f"{balance.total.normalize():f} {asset}" for asset, balance in balances.items() if balance.total > 0]
    say(f"account  {', '.join(held) or 'empty'}; bot id {market.broker.bot_id}")
