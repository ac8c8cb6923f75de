"""`run`: trades until the end, a signal or an error; as a service, also through transient errors."""

from __future__ import annotations

import argparse
import contextlib
from functools import partial

from bot.app.control_files import ControlFiles
from bot.app.lifecycle import Lifecycle
from bot.app.session import trade_when_leading
from bot.app.supervisor import STOPPED_REASON, run_forever
from bot.app.venue import open_venue
from bot.base import logging_setup
from bot.base.clock import format_utc
from bot.base.errors import BotError
from bot.base.event_catalog import Event
from bot.base.events import emit
from bot.cli.exit_codes import log_failure
from bot.cli.monitoring import monitoring
from bot.config import Settings
from bot.simulator.errors import LivePricesError, SimulatorError
from bot.trading.trader import Summary


def run_bot(settings: Settings, options: argparse.Namespace) -> int:
    """Trade until the end, a signal or an error; as a service, also through transient errors."""
    logging_setup.configure(settings.log_format, logs_to_stdout=True)
    try:
        return _run_monitored(settings, options)
    except (BotError, SimulatorError) as error:
        return log_failure(error)


def _run_monitored(settings: Settings, options: argparse.Namespace) -> int:
    """Trade with dashboard, alerts and heartbeat; return the exit code, or raise the error that ended the run."""
    lifecycle = Lifecycle()
    emit(Event.RUN_STARTED, banner=mode_banner(settings), mode=settings.trading_mode)
    with monitoring(settings, lifecycle) as dashboard_url:
        if settings.trading_mode != "halt":
            lifecycle.watch_controls(ControlFiles(settings.state_dir))
        return lifecycle.run(partial(_run_to_end, settings, options, lifecycle, dashboard_url))


def _run_to_end(settings: Settings, options: argparse.Namespace, lifecycle: Lifecycle, dashboard_url: str) -> int:
    """Hold the state folder and trade, as a service again and again."""

    def run_once() -> int:
        lifecycle.hold_state_folder(settings.state_dir, dashboard_url)
        return trade(settings, lifecycle, options.cycles)

    try:
        # A port is given where a platform runs the bot.
        if options.forever or settings.port:
            return run_forever(run_once, lifecycle, transient_errors=(BotError, LivePricesError))
        return run_once()
    finally:
        # Here, where it has ended: a request that is left behind keeps the folder until the process is gone.
        lifecycle.release_state_folder()


def trade(settings: Settings, lifecycle: Lifecycle, max_cycles: int | None) -> int:
    """Open the market and trade on it; return the exit code, or raise what ended it."""
    with open_venue(settings) as venue, contextlib.closing(venue.broker):
        lifecycle.broker = lifecycle.last_broker = venue.broker
        lifecycle.price_source = venue.price_source
        try:
            summary = trade_when_leading(settings, venue, lifecycle, max_cycles)
            if summary is None:
                emit(Event.RUN_ENDED, reason=STOPPED_REASON)
                return 0
            return log_summary(summary)
        finally:
            lifecycle.broker = None


def mode_banner(settings: Settings) -> str:
    """Return the line that says in plain sight whether money is at stake."""
    return {
        "paper": "PAPER TRADING: a local Kraken, no real money.",
        "live": "*** LIVE TRADING: REAL ORDERS WITH REAL MONEY ***",
        "halt": "HALTED: watching the live account, no orders.",
    }[settings.trading_mode]


def log_summary(summary: Summary) -> int:
    """Log how the run went; return the exit code, or raise what ended it."""
    counts = summary.orders
    if summary.error is None:
        emit(Event.RUN_ENDED, reason=summary.reason)
    emit(
        Event.RUN_SUMMARIZED,
        equity_start=summary.equity_start,
        equity_end=summary.equity_end,
        last_equity=summary.last_equity,
        equity_time=None if summary.last_equity_seconds is None else format_utc(summary.last_equity_seconds),
        quote=summary.quote,
        realised=summary.realised,
        orders_placed=counts.placed,
        orders_refused=counts.refused,
        orders_unknown=counts.unknown,
        fills=counts.fills,
        refused_nonces=summary.refused_nonces,
    )
    if isinstance(summary.error, BotError):
        raise summary.error
    return 0 if summary.error is None else log_failure(summary.error)
