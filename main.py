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

from bot.app.alerts import Alerts, DailySummary, Heartbeat, Watch
from bot.app.instance_lock import InstanceLock
from bot.app.lifecycle import Runner
from bot.app.nonce_report import show
from bot.app.preflight import check, kraken_seconds
from bot.app.reports import check_journal, fills_report, find_journal, orders_report
from bot.app.session import ENTRIES_STOPPED, Market, trade_when_leading
from bot.app.supervisor import stay
from bot.base import logging_setup
from bot.base.clock import MarketClock
from bot.base.errors import (
    AnotherBotError,
    BotError,
    CredentialsError,
    InvalidNonceError,
    JournalError,
    JournalVersionError,
    KeyRuleError,
    LockoutError,
    NoBotError,
    NonceError,
    PermissionDeniedError,
    SettingsError,
    SilenceError,
    StateLostError,
    SymbolError,
    TurnTimeout,
)
from bot.base.logging_setup import say
from bot.base.models import Fill, Order
from bot.base.timeframes import seconds_of
from bot.broker_manager import NONCE_FILE, KrakenBroker
from bot.cli.nonce_commands import adopt, migrate
from bot.cli.parser import parse
from bot.config import Settings, load_settings
from bot.dashboard import client
from bot.dashboard.opening import open_page
from bot.dashboard.snapshot import Reader
from bot.orders.journal import Journal
from bot.simulator.__main__ import main as run_simulator
from bot.simulator.errors import SimulatorError
from bot.simulator.paper import open_paper
from bot.simulator.prices_live import LiveError
from bot.trading.strategies import STRATEGIES
from bot.trading.trader import Summary

# The first that fits. docs/errors.md says what to do about each.
EXIT_CODES: tuple[tuple[int, tuple[type[Exception], ...]], ...] = (
    (5, (LiveError,)),
    (2, (SettingsError, SymbolError, SimulatorError, JournalError, JournalVersionError)),
    (3, (CredentialsError, PermissionDeniedError, KeyRuleError)),
    (5, (TurnTimeout,)),
    (4, (NonceError, InvalidNonceError, SilenceError, LockoutError)),
    (6, (AnotherBotError, StateLostError)),
    (8, (NoBotError,)),
    (5, (BotError,)),
)

# Render lets the old instance live beside the new one for 60 s, and then for up to 30 s more (zero-downtime deploys).
OVERLAP_SECONDS = 120.0

# For what is still to be told when the run is over.
ALERTS_SECONDS = 0.3

NO_JOURNAL = "No journal yet in {folder}: the next run begins one, with what Kraken has of this bot's orders."


def main(arguments: list[str]) -> int:
    """Run the program; return its exit code."""
    # Whatever is written belongs to this user alone.
    os.umask(0o077)
    logging_setup.set_up("text")
    if arguments[:1] == ["simulator"]:
        return run_simulator(arguments[1:])
    options = parse(arguments)
    try:
        settings = load_settings(strategies=STRATEGIES)
        logging_setup.hide(*settings.secrets())
        words: dict[str, Callable[[], int]] = {
            "check": lambda: run_check(settings),
            "nonce": lambda: run_nonce(settings, options),
            "orders": lambda: run_report(settings, options),
            "fills": lambda: run_report(settings, options),
            "journal": lambda: run_journal_check(settings, options.form),
            "status": lambda: client.show(settings, as_json=options.json, watch=options.watch, say=say),
            "resume": lambda: run_resume(settings),
        }
        return words.get(options.command, lambda: run(settings, options))()
    except (BotError, SimulatorError) as error:
        return fail(error)
    except KeyboardInterrupt:
        return 0


def fail(error: Exception) -> int:
    """Say what is wrong; return the exit code for it."""
    say(f"Stopped: {error}")
    return next((code for code, kinds in EXIT_CODES if isinstance(error, kinds)), 1)


def run_nonce(settings: Settings, options: argparse.Namespace) -> int:
    """Do what was asked about the nonce; return the exit code."""
    if options.what == "migrate":
        # An address with a password in it is better not seen in the list of processes.
        target = sys.stdin.readline().strip() if options.to == "-" else options.to
        logging_setup.hide(target)
        return migrate(settings, target, say)
    return adopt(settings, options.yes, say) if options.what == "adopt" else show(settings, say)


def run_check(settings: Settings) -> int:
    """Print a line for each thing that was looked at; return the first problem's exit code."""
    code = 0
    for finding in check(settings, lambda: open_live_broker(settings, live_clock(settings))):
        say(f"{finding.verdict:<8} {finding.subject}: {finding.text}")
        if finding.error and code == 0:
            code = next(code for code, kinds in EXIT_CODES if isinstance(finding.error, kinds))
    return code


def run_report(settings: Settings, options: argparse.Namespace) -> int:
    """Write what the journal tells of orders or fills; a bot may be running."""
    path = journal_path(settings)
    note(NO_JOURNAL.format(folder=settings.state_dir) if path is None else f"# {path}")
    with contextlib.ExitStack() as stack:
        journal = None if path is None else stack.enter_context(contextlib.closing(Journal(str(path))))
        if options.command == "orders":
            say(orders_report(journal, options.form, options.open))
        else:
            say(fills_report(journal, options.form))
    return 0


def note(text: str) -> None:
    """Write a line that is no part of a report, so that programs can read what is."""
    print(text, file=sys.stderr, flush=True)


def journal_path(settings: Settings) -> Path | None:
    """Return the journal to read from, if there is one yet."""
    return find_journal(NONCE_FILE, settings.api_key, settings.trading_mode == "paper")


def run_journal_check(settings: Settings, form: str) -> int:
    """Compare the journal with Kraken; return 0 where they agree, 7 where not."""
    if journal_path(settings) is None:
        # Not "all equal": a lost journal and a mistyped folder look like a bot that has never traded.
        raise SettingsError([f"STATE_DIR is {settings.state_dir}, where there is no journal yet: nothing to check."])
    with contextlib.ExitStack() as stack:
        if settings.trading_mode == "paper":
            check_paper_goes_on(settings)
            # A running bot has the paper account in its own hands.
            stack.callback(InstanceLock(settings.state_dir).release)
        broker = stack.enter_context(open_market(settings)).broker
        stack.callback(broker.close)
        note(f"# {broker.journal.path}")
        report, is_equal = check_journal(broker.journal, lambda: kraken_side(broker), form)
    say(report)
    return 0 if is_equal else 7


def check_paper_goes_on(settings: Settings) -> None:
    """Raise SettingsError for a recorded market: opening one that has ended begins its account anew."""
    if settings.prices.startswith("replay:"):
        raise SettingsError(["PRICES names a recorded market, whose account ends with it: there is nothing to check."])


def kraken_side(broker: KrakenBroker) -> tuple[list[Order], list[Fill]]:
    """Return every order of this bot that Kraken has, and the account's fills."""
    # Open before closed: an order that closes in between is then in both, and never in neither.
    rows = broker.get_open_orders() + broker.get_closed_orders(0)
    return [order for order in rows if broker.owns(order)], broker.get_trades(0)


def run_resume(settings: Settings) -> int:
    """Let entries go on."""
    try:
        (settings.state_dir / ENTRIES_STOPPED).unlink()
    except FileNotFoundError:
        say(f"Entries were not stopped in {settings.state_dir}.")
    except OSError as error:
        raise SettingsError([f"{settings.state_dir / ENTRIES_STOPPED} cannot be removed: {error.strerror}."]) from error
    else:
        say("Entries go on.")
    return 0


def run(settings: Settings, options: argparse.Namespace) -> int:
    """Trade until the end, a signal or an error; as a service, whatever passes."""
    logging_setup.set_up(settings.log_format)
    runner = Runner(say)
    say(banner(settings))
    with watched(settings, runner) as url:

        def work() -> int:
            hold_folder(settings, runner, url)
            return trade(settings, runner, options.ticks)

        def whole() -> int:
            try:
                if settings.port or options.stay:
                    return stay(work, runner, say, passes=(BotError, LiveError))
                return work()
            finally:
                # Here, where it has ended: a request that is left behind keeps the folder until the process is gone.
                if runner.lock is not None:
                    runner.lock.release()

        return runner.run(whole)


def hold_folder(settings: Settings, runner: Runner, url: str) -> None:
    """Take the state folder, or see that it is still ours: a service that waits is running, too."""
    runner.check_state()
    if runner.lock is None:
        runner.lock = InstanceLock(settings.state_dir)
        if url:
            runner.lock.note(status_url=url)


@contextlib.contextmanager
def watched(settings: Settings, runner: Runner) -> Iterator[str]:
    """Let the bot be seen while it runs: its page, alerts, a heartbeat; give the page's address, or ""."""
    with contextlib.ExitStack() as stack:
        if settings.alert_webhook_url:
            alerts = Alerts(
                str.__str__(settings.alert_webhook_url), name=f"{settings.trading_mode} bot on {socket.gethostname()}"
            )
            alerts.start()
            stack.callback(alerts.close, ALERTS_SECONDS)
            reader = stack.enter_context(contextlib.closing(Reader(settings, runner)))
            DailySummary(lambda: client.summary(reader.read())).start()
            Watch(reader.stuck).start()
        if settings.heartbeat_url:
            Heartbeat(str.__str__(settings.heartbeat_url), runner.is_alive).start()
        if settings.port == 0:
            yield ""
            return
        server = open_page(settings, runner)
        stack.callback(server.close)
        say(f"page     {server.place}")
        yield server.url


def trade(settings: Settings, runner: Runner, max_ticks: int | None) -> int:
    """Open the market and trade on it; return the exit code, or raise what ended it."""
    with contextlib.ExitStack() as stack:
        market = stack.enter_context(open_market(settings))
        stack.callback(market.broker.close)
        stack.callback(runner.forget)
        runner.broker = runner.last_broker = market.broker
        runner.prices = market.prices
        summary = trade_when_leading(settings, market, runner, max_ticks, say)
        if summary is None:
            say("Ended: stopped while not trading.")
            return 0
        return say_summary(summary)


def banner(settings: Settings) -> str:
    """Return the line that says in plain sight whether money is at stake."""
    return {
        "paper": "PAPER TRADING: a local Kraken, no real money.",
        "live": "*** LIVE TRADING: REAL ORDERS WITH REAL MONEY ***",
        "halt": "HALTED: watching the live account, no orders.",
    }[settings.trading_mode]


@contextlib.contextmanager
def open_market(settings: Settings) -> Iterator[Market]:
    """Open the local Kraken or the real one: the code above it cannot tell which."""
    if settings.trading_mode != "paper":
        clock = live_clock(settings)
        yield Market(open_live_broker(settings, clock), clock, f"live, from {settings.api_url}")
        return
    timeframe_seconds = seconds_of(settings.timeframe)
    with open_paper(
        settings.pairs,
        settings.prices,
        timeframe_seconds,
        settings.state_dir,
        speed=settings.market_speed,
        live_url=settings.api_url,
    ) as paper:
        broker = open_broker(settings, paper.key, paper.secret, paper.url, paper.clock)
        yield Market(broker, paper.clock, paper.prices_label)


def live_clock(settings: Settings) -> MarketClock:
    """Return the wall clock; for a simulator whose market runs faster, a clock as fast, set by its Time."""
    if settings.market_speed == 1:
        return MarketClock()
    return MarketClock(kraken_seconds(settings), settings.market_speed)


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
        market_collar_percent=settings.market_collar_percent,
        allow_withdraw_key=settings.allow_withdraw_key,
        overlap_seconds=overlap_seconds(settings),
        market=clock,
    )


def overlap_seconds(settings: Settings) -> float:
    """Return for how long another instance, on a disk of its own, may still trade: a platform may start the new one
    before it stops the old one."""
    return 0.0 if settings.single_instance or settings.trading_mode != "live" else OVERLAP_SECONDS


def say_summary(summary: Summary) -> int:
    """Write how the run went; return the exit code, or raise what ended it."""
    counts = summary.orders
    if summary.error is None:
        say(f"Ended: {summary.reason}.")
    say(f"equity   {_money(summary.equity_start)} -> {_money(summary.equity_end)} {summary.quote}")
    outcomes = f"{counts.placed} placed, {counts.refused} refused by Kraken, {counts.unknown} unknown"
    say(f"orders   {outcomes}; fills {counts.fills}")
    say(f"realised {summary.realised:.2f} {summary.quote}")
    say(f"refused nonces: {summary.refused_nonces}")
    if isinstance(summary.error, BotError):
        raise summary.error
    return 0 if summary.error is None else fail(summary.error)


def _money(value: Decimal | None) -> str:
    return "unknown" if value is None else f"{value:.2f}"


if __name__ == "__main__":
    code = main(sys.argv[1:])
    if sys.stdout is not None:  # a program may be started without one
        sys.stdout.flush()
    # A request that was left behind must not keep the process; nothing else is left to do.
    os._exit(code)
