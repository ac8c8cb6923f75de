"""The Kraken trading bot: `python main.py` runs it. `python main.py --help` lists what else it does."""

from __future__ import annotations

import argparse
import contextlib
import os
import socket
import sys
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path

from bot.app.alerts import Alerts, DailySummary, Heartbeat, StallAlert
from bot.app.instance_lock import InstanceLock
from bot.app.lifecycle import Lifecycle
from bot.app.nonce_report import print_nonce_report
from bot.app.preflight import fetch_kraken_time, run_checks
from bot.app.reports import check_journal, fills_report, find_journal, orders_report
from bot.app.session import ENTRIES_STOPPED_FILE_NAME, TradingVenue, trade_when_leading
from bot.app.supervisor import run_forever
from bot.base import logging_setup
from bot.base.clock import MarketClock
from bot.base.errors import (
    BotAlreadyRunningError,
    BotError,
    BotNotRunningError,
    CircuitOpenError,
    CredentialsError,
    InvalidNonceError,
    JournalError,
    JournalVersionError,
    KeyRuleError,
    LockoutError,
    NonceError,
    PermissionDeniedError,
    RequestLockTimeout,
    SettingsError,
    StateLostError,
    SymbolError,
)
from bot.base.logging_setup import print_line
from bot.base.models import Fill, Order
from bot.base.timeframes import parse_timeframe
from bot.broker_manager import NONCE_FILE, KrakenBroker
from bot.cli.nonce_commands import adopt, migrate
from bot.cli.parser import parse_arguments
from bot.config import Settings, load_settings
from bot.dashboard import client
from bot.dashboard.opening import start_dashboard
from bot.dashboard.snapshot import SnapshotReader
from bot.orders.journal import Journal
from bot.simulator.__main__ import main as run_simulator
from bot.simulator.errors import SimulatorError
from bot.simulator.paper import open_paper_account
from bot.simulator.prices_live import LivePricesError
from bot.trading.strategies import STRATEGIES
from bot.trading.trader import Summary

# The first that fits. docs/errors.md says what to do about each.
EXIT_CODES: tuple[tuple[int, tuple[type[Exception], ...]], ...] = (
    (5, (LivePricesError,)),
    (2, (SettingsError, SymbolError, SimulatorError, JournalError, JournalVersionError)),
    (3, (CredentialsError, PermissionDeniedError, KeyRuleError)),
    (5, (RequestLockTimeout,)),
    (4, (NonceError, InvalidNonceError, CircuitOpenError, LockoutError)),
    (6, (BotAlreadyRunningError, StateLostError)),
    (8, (BotNotRunningError,)),
    (5, (BotError,)),
)

# Render lets the old instance live beside the new one for 60 s, and then for up to 30 s more (zero-downtime deploys).
OVERLAP_SECONDS = 120.0

# For what is still to be told when the run is over.
ALERTS_CLOSE_TIMEOUT_SECONDS = 0.3

NO_JOURNAL_MESSAGE = "No journal yet in {folder}: the next run begins one, with what Kraken has of this bot's orders."


def main(arguments: list[str]) -> int:
    """Run the program; return its exit code."""
    # Whatever is written belongs to this user alone.
    os.umask(0o077)
    logging_setup.configure("text")
    if arguments[:1] == ["simulator"]:
        return run_simulator(arguments[1:])
    options = parse_arguments(arguments)
    try:
        settings = load_settings(strategies=STRATEGIES)
        logging_setup.hide(*settings.secrets())
        handlers: dict[str, Callable[[], int]] = {
            "check": lambda: run_check_command(settings),
            "nonce": lambda: run_nonce_command(settings, options),
            "orders": lambda: run_report_command(settings, options),
            "fills": lambda: run_report_command(settings, options),
            "journal": lambda: run_journal_check_command(settings, options.form),
            "status": lambda: client.print_status(
                settings, as_json=options.json, watch=options.watch, print_line=print_line
            ),
            "resume": lambda: run_resume_command(settings),
        }
        return handlers.get(options.command, lambda: run_command(settings, options))()
    except (BotError, SimulatorError) as error:
        return print_failure(error)
    except KeyboardInterrupt:
        return 0


def print_failure(error: Exception) -> int:
    """Say what is wrong; return the exit code for it."""
    print_line(f"Stopped: {error}")
    return next((code for code, kinds in EXIT_CODES if isinstance(error, kinds)), 1)


def run_nonce_command(settings: Settings, options: argparse.Namespace) -> int:
    """Do what was asked about the nonce; return the exit code."""
    if options.what == "migrate":
        # An address with a password in it is better not seen in the list of processes.
        target = sys.stdin.readline().strip() if options.to == "-" else options.to
        logging_setup.hide(target)
        return migrate(settings, target, print_line)
    return (
        adopt(settings, options.yes, print_line)
        if options.what == "adopt"
        else print_nonce_report(settings, print_line)
    )


def run_check_command(settings: Settings) -> int:
    """Print a line for each thing that was looked at; return the first problem's exit code."""
    code = 0
    for finding in run_checks(settings, lambda: open_live_broker(settings, live_clock(settings))):
        print_line(f"{finding.label:<8} {finding.subject}: {finding.text}")
        if finding.error and code == 0:
            code = next(code for code, kinds in EXIT_CODES if isinstance(finding.error, kinds))
    return code


def run_report_command(settings: Settings, options: argparse.Namespace) -> int:
    """Write what the journal tells of orders or fills; a bot may be running."""
    path = journal_path(settings)
    print_stderr(NO_JOURNAL_MESSAGE.format(folder=settings.state_dir) if path is None else f"# {path}")
    with contextlib.ExitStack() as stack:
        journal = None if path is None else stack.enter_context(contextlib.closing(Journal(str(path))))
        if options.command == "orders":
            print_line(orders_report(journal, options.form, options.open))
        else:
            print_line(fills_report(journal, options.form))
    return 0


def print_stderr(line: str) -> None:
    """Write a line that is no part of a report, so that programs can read what is."""
    print(line, file=sys.stderr, flush=True)


def journal_path(settings: Settings) -> Path | None:
    """Return the journal to read from, if there is one yet."""
    return find_journal(NONCE_FILE, settings.api_key, settings.trading_mode == "paper")


def run_journal_check_command(settings: Settings, output_format: str) -> int:
    """Compare the journal with Kraken; return 0 where they agree, 7 where not."""
    if journal_path(settings) is None:
        # Not "all equal": a lost journal and a mistyped folder look like a bot that has never traded.
        raise SettingsError([f"STATE_DIR is {settings.state_dir}, where there is no journal yet: nothing to check."])
    with contextlib.ExitStack() as stack:
        if settings.trading_mode == "paper":
            reject_recorded_market(settings)
            # A running bot has the paper account in its own hands.
            stack.callback(InstanceLock(settings.state_dir).release)
        broker = stack.enter_context(open_venue(settings)).broker
        stack.callback(broker.close)
        print_stderr(f"# {broker.journal.path}")
        report, is_equal = check_journal(broker.journal, lambda: fetch_kraken_records(broker), output_format)
    print_line(report)
    return 0 if is_equal else 7


def reject_recorded_market(settings: Settings) -> None:
    """Raise SettingsError for a recorded market: opening one that has ended begins its account anew."""
    if settings.price_source.startswith("replay:"):
        raise SettingsError(["PRICES names a recorded market, whose account ends with it: there is nothing to check."])


def fetch_kraken_records(broker: KrakenBroker) -> tuple[list[Order], list[Fill]]:
    """Return every order of this bot that Kraken has, and the account's fills."""
    # Open before closed: an order that closes in between is then in both, and never in neither.
    orders = broker.get_open_orders() + broker.get_closed_orders(0)
    return [order for order in orders if broker.is_own_order(order)], broker.get_trades(0)


def run_resume_command(settings: Settings) -> int:
    """Let entries go on."""
    try:
        (settings.state_dir / ENTRIES_STOPPED_FILE_NAME).unlink()
    except FileNotFoundError:
        print_line(f"Entries were not stopped in {settings.state_dir}.")
    except OSError as error:
        raise SettingsError(
            [f"{settings.state_dir / ENTRIES_STOPPED_FILE_NAME} cannot be removed: {error.strerror}."]
        ) from error
    else:
        print_line("Entries go on.")
    return 0


def run_command(settings: Settings, options: argparse.Namespace) -> int:
    """Trade until the end, a signal or an error; as a service, whatever passes."""
    logging_setup.configure(settings.log_format)
    lifecycle = Lifecycle(print_line)
    print_line(mode_banner(settings))
    with monitoring(settings, lifecycle) as url:

        def run_once() -> int:
            acquire_state_folder(settings, lifecycle, url)
            return trade(settings, lifecycle, options.ticks)

        def run_to_end() -> int:
            try:
                if settings.port or options.stay:
                    return run_forever(run_once, lifecycle, print_line, transient_errors=(BotError, LivePricesError))
                return run_once()
            finally:
                # Here, where it has ended: a request that is left behind keeps the folder until the process is gone.
                if lifecycle.instance_lock is not None:
                    lifecycle.instance_lock.release()

        return lifecycle.run(run_to_end)


def acquire_state_folder(settings: Settings, lifecycle: Lifecycle, url: str) -> None:
    """Take the state folder, or see that it is still ours: a service that waits is running, too."""
    lifecycle.check_state()
    if lifecycle.instance_lock is None:
        lifecycle.instance_lock = InstanceLock(settings.state_dir)
        if url:
            lifecycle.instance_lock.publish(status_url=url)


@contextlib.contextmanager
def monitoring(settings: Settings, lifecycle: Lifecycle) -> Iterator[str]:
    """Let the bot be seen while it runs: its page, alerts, a heartbeat; give the page's address, or ""."""
    with contextlib.ExitStack() as stack:
        if settings.alert_webhook_url:
            alerts = Alerts(
                str.__str__(settings.alert_webhook_url), name=f"{settings.trading_mode} bot on {socket.gethostname()}"
            )
            alerts.start()
            stack.callback(alerts.close, ALERTS_CLOSE_TIMEOUT_SECONDS)
            snapshot_reader = stack.enter_context(contextlib.closing(SnapshotReader(settings, lifecycle)))
            DailySummary(lambda: client.format_summary(snapshot_reader.read())).start()
            StallAlert(snapshot_reader.stall_reason).start()
        if settings.heartbeat_url:
            Heartbeat(str.__str__(settings.heartbeat_url), lifecycle.is_alive).start()
        if settings.port == 0:
            yield ""
            return
        server = start_dashboard(settings, lifecycle)
        stack.callback(server.close)
        print_line(f"page     {server.location}")
        yield server.url


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


@contextlib.contextmanager
def open_venue(settings: Settings) -> Iterator[TradingVenue]:
    """Open the local Kraken or the real one: the code above it cannot tell which."""
    if settings.trading_mode != "paper":
        clock = live_clock(settings)
        yield TradingVenue(open_live_broker(settings, clock), clock, f"live, from {settings.api_url}")
        return
    timeframe_seconds = parse_timeframe(settings.timeframe)
    with open_paper_account(
        settings.pairs,
        settings.price_source,
        timeframe_seconds,
        settings.state_dir,
        speed=settings.market_speed,
        live_url=settings.api_url,
    ) as paper:
        broker = open_broker(settings, paper.key, paper.secret, paper.url, paper.clock)
        yield TradingVenue(broker, paper.clock, paper.price_source_label)


def live_clock(settings: Settings) -> MarketClock:
    """Return the wall clock; for a simulator whose market runs faster, a clock as fast, set by its Time."""
    if settings.market_speed == 1:
        return MarketClock()
    return MarketClock(fetch_kraken_time(settings), settings.market_speed)


def open_live_broker(settings: Settings, clock: MarketClock) -> KrakenBroker:
    """Return the broker of the user's own account."""
    return open_broker(settings, settings.api_key, settings.api_secret, settings.api_url, clock)


def open_broker(settings: Settings, key: str, secret: str, url: str, clock: MarketClock) -> KrakenBroker:
    """Return a broker for a key."""
    return KrakenBroker(
        key,
        secret,
        api_url=url,
        proxy=settings.proxy if url == settings.api_url else "",
        bot_id=settings.bot_id,
        nonce_unit=settings.nonce_unit,
        tier=settings.tier,
        max_order_value=settings.max_order_value,
        max_slippage_percent=settings.max_slippage_percent,
        allow_withdraw_key=settings.allow_withdraw_key,
        overlap_seconds=overlap_seconds(settings),
        market_clock=clock,
    )


def overlap_seconds(settings: Settings) -> float:
    """Return for how long another instance, on a disk of its own, may still trade: a platform may start the new one
    before it stops the old one."""
    return 0.0 if settings.skip_overlap_wait or settings.trading_mode != "live" else OVERLAP_SECONDS


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


if __name__ == "__main__":
    code = main(sys.argv[1:])
    if sys.stdout is not None:  # a program may be started without one
        sys.stdout.flush()
    # A request that was left behind must not keep the process; nothing else is left to do.
    os._exit(code)
