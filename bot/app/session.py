"""One run of the bot: wait for leadership, read the account, trade, release the lease; after a lost lease, again."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from bot.app.control_files import ControlFiles
from bot.app.lifecycle import Lifecycle, LifecycleState
from bot.app.nonce_report import format_nonce_line
from bot.app.venue import TradingVenue
from bot.base.errors import (
    LeaseLostError,
    RequestLockExpiredError,
    ServiceError,
    StoppingError,
    StoreUnavailableError,
    TransportError,
)
from bot.base.event_catalog import Event
from bot.base.events import emit
from bot.base.models import Balance, common_quote
from bot.base.timeframes import TIMEFRAMES, parse_timeframe
from bot.broker_manager import KrakenBroker
from bot.config import Settings
from bot.nonce.leader_election import LeaderElection, PreviousLeader
from bot.trading.read_budget import max_pairs
from bot.trading.risk import Controls, RiskLimits
from bot.trading.strategies import STRATEGIES
from bot.trading.trader import Summary, Trader, TraderSettings

RETRY_SECONDS = 10.0
# How often the account is read at a start before it fails, and how long to wait in between.
START_ATTEMPTS = 3
START_RETRY_SECONDS = 2.0


def trade_when_leading(
    settings: Settings, venue: TradingVenue, lifecycle: Lifecycle, max_cycles: int | None
) -> Summary | None:
    """Trade whenever this instance leads, until something ends the run; return None where it was stopped before."""
    failed_attempts = 0
    while True:
        try:
            with _hold_leadership(settings, venue.broker, lifecycle):
                return _trade(settings, venue, lifecycle, max_cycles)
        except (LeaseLostError, StoreUnavailableError, RequestLockExpiredError) as lease_error:
            if lifecycle.leadership is None or not lifecycle.leadership.fencing_token:
                raise
            lifecycle.enter_standby(str(lease_error))
        except (TransportError, ServiceError) as error:
            # The account could not be read. Instances that are standbys for each other do not end for that.
            if lifecycle.leadership is None:
                failed_attempts += 1
                if failed_attempts >= START_ATTEMPTS:
                    raise
                emit(Event.START_RETRIED, retry_seconds=START_RETRY_SECONDS, error=error)
                if lifecycle.stop.wait(START_RETRY_SECONDS):
                    return None
                continue
            lifecycle.enter_standby(str(error))
            lifecycle.stop.wait(RETRY_SECONDS)
        except StoppingError:
            return None


@contextlib.contextmanager
def _hold_leadership(settings: Settings, broker: KrakenBroker, lifecycle: Lifecycle) -> Iterator[None]:
    """Wait until this instance leads, where hosts share a store; release the lease at the end."""
    if broker.shared_store is None:
        yield
        return
    lifecycle.leadership = lifecycle.leadership or LeaderElection(broker.shared_store, settings.lease_seconds)
    is_reconciled = False
    try:
        lifecycle.set_state(LifecycleState.STANDBY, "it reads from the store which instance leads")
        previous = lifecycle.leadership.wait_for_leadership(lifecycle.stop, lifecycle.enter_standby)
        broker.begin_takeover(
            is_clean=previous is PreviousLeader.CLEAN, is_first_leader=previous is PreviousLeader.NONE
        )
        yield
        is_reconciled = broker.is_reconciled()
    finally:
        if lifecycle.leadership.release(is_reconciled):
            emit(
                Event.LEADERSHIP_RELEASED,
                fencing_token=lifecycle.leadership.fencing_token,
                reconciled=is_reconciled,
                reason=f"the outcome of {'every' if is_reconciled else 'not every'} order is known",
            )


def _trade(settings: Settings, venue: TradingVenue, lifecycle: Lifecycle, max_cycles: int | None) -> Summary:
    lifecycle.set_state(LifecycleState.STARTING)
    balances = venue.broker.connect()
    _emit_start(settings, venue, balances)
    lifecycle.trader = open_trader(settings, venue, lifecycle, max_cycles)
    if settings.trading_mode == "paper":
        quote = venue.broker.pair(settings.pairs[0]).quote
        if quote not in balances or not balances[quote].total:
            emit(Event.PAPER_QUOTE_MISSING, quote=quote)
    lifecycle.set_state(LifecycleState.TRADING)
    try:
        summary = lifecycle.trader.run()
    finally:
        # There is nothing left to stop.
        lifecycle.trader = None
    if isinstance(summary.error, LeaseLostError):
        raise summary.error
    return summary


def describe_tier_problem(settings: Settings) -> str:
    """Say that PAIRS and TIMEFRAME ask for more requests than KRAKEN_TIER allows, with the way out; "" otherwise."""
    count = len(settings.pairs)
    timeframe = settings.timeframe
    allowed = {
        name: max_pairs(settings.tier, parse_timeframe(name), settings.dead_man_switch_seconds) for name in TIMEFRAMES
    }
    if count <= allowed[timeframe]:
        return ""
    longer = next((name for name in TIMEFRAMES if allowed[name] >= count), "")
    switch = (
        f" with DEAD_MAN_SWITCH_SECONDS={settings.dead_man_switch_seconds}" if settings.dead_man_switch_seconds else ""
    )
    return (
        f"at {timeframe} KRAKEN_TIER={settings.tier.name}{switch} has room for {allowed[timeframe]} of {count} pairs: "
        "orders may wait. Take fewer" + (f", or TIMEFRAME={longer}" if longer else "")
    )


def open_trader(settings: Settings, venue: TradingVenue, lifecycle: Lifecycle, max_cycles: int | None) -> Trader:
    """Return the trader for these settings. Raises SymbolError or SettingsError before the account is summed up."""
    pairs = [venue.broker.pair(name) for name in settings.pairs]
    settings.check_sizes(common_quote(pairs))
    is_trading = settings.trading_mode != "halt"
    limits = RiskLimits(
        settings.max_order_value,
        settings.max_position_value,
        settings.max_daily_loss,
        settings.cooldown_seconds,
        settings.max_slippage_percent,
    )
    trader_settings = TraderSettings(
        symbols=tuple(pair.symbol for pair in pairs),
        timeframe=settings.timeframe,
        order_value=settings.order_value,
        limits=limits,
        entry_ttl_seconds=settings.entry_ttl_seconds or None,
        cancel_entries_on_stop=settings.cancel_entries_on_stop and is_trading,
        # Where the account is only watched, the switch is not even disarmed: it may belong to another program.
        dead_man_switch_seconds=settings.dead_man_switch_seconds if is_trading else 0,
        stop_loss_percent=settings.stop_loss_percent,
        max_cycles=max_cycles,
    )
    return Trader(
        venue.broker,
        STRATEGIES[settings.strategy](),
        trader_settings,
        clock=venue.clock,
        stop=lifecycle.stop,
        controls=_open_controls(settings, lifecycle),
    )


def _open_controls(settings: Settings, lifecycle: Lifecycle) -> Controls:
    if settings.trading_mode == "halt":
        return Controls(lambda: True, lambda: False, lifecycle.check_state, is_watching=True)
    control_files = lifecycle.control_files or ControlFiles(settings.state_dir)
    return Controls(control_files.is_halted, control_files.entries_paused, lifecycle.check_state)


def _emit_start(settings: Settings, venue: TradingVenue, balances: dict[str, Balance]) -> None:
    emit(Event.NONCE_READ, nonce_state=format_nonce_line(venue.broker.shared_store))
    emit(
        Event.ACCOUNT_READ,
        balances={asset: balance.total.normalize() for asset, balance in balances.items() if balance.total > 0},
        bot_id=venue.broker.bot_id,
    )
    emit(
        Event.TRADING_STARTED,
        pairs=settings.pairs,
        timeframe=settings.timeframe,
        strategy=settings.strategy,
        price_source=venue.price_source,
    )
    if tier_problem := describe_tier_problem(settings):
        emit(Event.TIER_EXCEEDED, reason=tier_problem)
