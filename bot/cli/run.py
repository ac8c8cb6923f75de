"""`run`: trades until the end, a signal or an error; as a service, also through errors that pass."""

from __future__ import annotations

import argparse
import contextlib
from decimal import Decimal

from bot.app.lifecycle import Lifecycle
from bot.app.session import trade_when_leading
from bot.app.supervisor import run_forever
from bot.app.venue import open_venue
from bot.base import logging_setup
from bot.base.errors import BotError
from bot.base.logging_setup import print_line
from bot.cli.exit_codes import print_failure
from bot.cli.monitoring import monitoring
from bot.config import Settings
from bot.simulator.prices_live import LivePricesError
from bot.trading.trader import Summary


def run_bot(settings: Settings, options: argparse.Namespace) -> int:
    """Trade until the end, a signal or an error; as a service, whatever passes."""
    logging_setup.configure(settings.log_format)
    lifecycle = Lifecycle(print_line)
    print_line(mode_banner(settings))
    with monitoring(settings, lifecycle) as dashboard_url:
        bot_run = _BotRun(settings, lifecycle, dashboard_url, max_cycles=options.ticks, is_service=options.stay)
        return lifecycle.run(bot_run.run_to_end)


class _BotRun:
    """What the bot's thread does: hold the state folder and trade, as a service again and again."""

    def __init__(
        self,
        settings: Settings,
        lifecycle: Lifecycle,
        dashboard_url: str,
        *,
        max_cycles: int | None,
        is_service: bool,
    ) -> None:
        self._settings = settings
        self._lifecycle = lifecycle
        self._dashboard_url = dashboard_url
        self._max_cycles = max_cycles
        # A port is given where a platform runs the bot.
        self._is_service = is_service or bool(settings.port)

    def run_to_end(self) -> int:
        try:
            if self._is_service:
                return run_forever(
                    self._run_once, self._lifecycle, print_line, transient_errors=(BotError, LivePricesError)
                )
            return self._run_once()
        finally:
            # Here, where it has ended: a request that is left behind keeps the folder until the process is gone.
            self._lifecycle.release_state_folder()

    def _run_once(self) -> int:
        self._lifecycle.hold_state_folder(self._settings.state_dir, self._dashboard_url)
        return trade(self._settings, self._lifecycle, self._max_cycles)


def trade(settings: Settings, lifecycle: Lifecycle, max_cycles: int | None) -> int:
    """Open the market and trade on it; return the exit code, or raise what ended it."""
    with contextlib.ExitStack() as stack:
        venue = stack.enter_context(open_venue(settings))
        stack.callback(venue.broker.close)
        stack.callback(lifecycle.clear_broker)
        lifecycle.broker = lifecycle.last_broker = venue.broker
        lifecycle.price_source = venue.price_source
        summary = trade_when_leading(settings, venue, lifecycle, max_cycles, print_line)
        if summary is None:
            print_line("Ended: stopped while not trading.")
            return 0
        return print_summary(summary)


def mode_banner(settings: Settings) -> str:
    """Return the line that says in plain sight whether money is at stake."""
    return {
        "paper": "PAPER TRADING: a local Kraken, no real money.",
        "live": "*** LIVE TRADING: REAL ORDERS WITH REAL MONEY ***",
        "halt": "HALTED: watching the live account, no orders.",
    }[settings.trading_mode]


def print_summary(summary: Summary) -> int:
    """Write how the run went; return the exit code, or raise what ended it."""
    counts = summary.orders
    if summary.error is None:
        print_line(f"Ended: {summary.reason}.")
    print_line(f"equity   {_format_money(summary.equity_start)} -> {_format_money(summary.equity_end)} {summary.quote}")
    outcomes = f"{counts.placed} placed, {counts.refused} refused by Kraken, {counts.unknown} unknown"
    print_line(f"orders   {outcomes}; fills {counts.fills}")
    print_line(f"realised {summary.realised:.2f} {summary.quote}")
    print_line(f"refused nonces: {summary.refused_nonces}")
    if isinstance(summary.error, BotError):
        raise summary.error
    return 0 if summary.error is None else print_failure(summary.error)


def _format_money(value: Decimal | None) -> str:
    return "unknown" if value is None else f"{value:.2f}"
