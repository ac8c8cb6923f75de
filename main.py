"""The Kraken trading bot: `python main.py` runs it. `python main.py --help` lists what else it does."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path

from bot.broker_manager import NONCE_FILE, KrakenBroker
from bot.checkup import check, kraken_seconds
from bot.clock import MarketClock
from bot.config import Settings, load_settings
from bot.errors import (
    AnotherBotError,
    BotError,
    CredentialsError,
    InvalidNonceError,
    JournalError,
    JournalVersionError,
    KeyRuleError,
    LockoutError,
    NonceError,
    PermissionDeniedError,
    SettingsError,
    SilenceError,
    SymbolError,
    TurnTimeout,
)
from bot.instance import InstanceLock
from bot.journal import Journal
from bot.models import Fill, Order
from bot.nonce_commands import FILE, adopt, migrate
from bot.nonce_words import show
from bot.reports import check_journal, fills_report, find_journal, orders_report
from bot.runner import Runner
from bot.simulator.__main__ import main as run_simulator
from bot.simulator.errors import SimulatorError
from bot.simulator.paper import open_paper
from bot.simulator.prices_live import LiveError
from bot.strategies import STRATEGIES
from bot.timeframes import seconds_of
from bot.trader import Summary
from bot.trading_session import Market, trade_when_leading

# The first that fits. docs/errors.md says what to do about each.
EXIT_CODES: tuple[tuple[int, tuple[type[Exception], ...]], ...] = (
    (5, (LiveError,)),
    (2, (SettingsError, SymbolError, SimulatorError, JournalError, JournalVersionError)),
    (3, (CredentialsError, PermissionDeniedError, KeyRuleError)),
    (5, (TurnTimeout,)),
    (4, (NonceError, InvalidNonceError, SilenceError, LockoutError)),
    (6, (AnotherBotError,)),
    (5, (BotError,)),
)

EPILOG = """exit codes: 0 done or stopped, 1 a fault in the program, 2 a wrong setting, 3 the key may not be used,
4 trouble with nonces or a lockout, 5 Kraken cannot be reached or refuses, 6 another bot runs on this state folder
or leads this account, 7 journal and Kraken disagree (journal check)"""

# Render lets the old instance live beside the new one for 60 s, and then for up to 30 s more (zero-downtime deploys).
OVERLAP_SECONDS = 120.0

NO_JOURNAL = "No journal yet in {folder}: the next run begins one, with what Kraken has of this bot's orders."


def say(text: str) -> None:
    """Write one line for the person who started the bot."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        # Whoever read this is gone (`| head`): end in good order, and say the rest to nobody.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        os.kill(os.getpid(), signal.SIGTERM)


def parse(arguments: list[str]) -> argparse.Namespace:
    """Return the command and its options."""
    parser = argparse.ArgumentParser(prog="main.py", description="A Kraken trading bot.", epilog=EPILOG)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--ticks", type=ticks, metavar="N", help="stop after N ticks at current prices")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    run_command = commands.add_parser("run", help="trade (also without any word)")
    run_command.add_argument("--ticks", type=ticks, metavar="N", default=argparse.SUPPRESS, help="stop after N ticks")
    commands.add_parser("check", help="look at settings, clock, nonce store, pairs and key, without trading")
    add_nonce_words(commands)
    add_reports(commands)
    simulator = commands.add_parser("simulator", help="run the local Kraken alone", add_help=False)
    simulator.add_argument("options", nargs=argparse.REMAINDER)
    return parser.parse_args(arguments)


def add_nonce_words(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the words about the nonce."""
    nonce = commands.add_parser("nonce", help="about the nonce")
    words = nonce.add_subparsers(dest="what", metavar="WORD", required=True)
    words.add_parser("show", help="the last nonce, its lead over the clock and its place; who has the turn, who leads")
    migrate_word = words.add_parser("migrate", help="go on in another store, above every nonce drawn before")
    migrate_word.add_argument("--to", required=True, metavar="URL", help=f"the store's address, or the word {FILE}")
    adopt_word = words.add_parser("adopt", help="find out whether a burnt key works with nanoseconds")
    adopt_word.add_argument("--yes", action="store_true", help="do not ask")


def add_reports(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the words that tell what the journal has."""
    orders = commands.add_parser("orders", help="the bot's orders, newest last")
    orders.add_argument("--open", action="store_true", help="only those that may still fill, or whose fate is unknown")
    fills = commands.add_parser("fills", help="the bot's fills, newest last, with their sums")
    journal = commands.add_parser("journal", help="about the journal")
    journal.add_argument("what", choices=["check"], help="check: whether it agrees with Kraken to the last decimal")
    for command in (orders, fills, journal):
        form = command.add_mutually_exclusive_group()
        for name in ("json", "csv"):
            form.add_argument(f"--{name}", dest="form", action="store_const", const=name, default="table")


def ticks(word: str) -> int:
    """Read a number of ticks, at least one."""
    number = int(word)
    if number < 1:
        raise ValueError
    return number


def main(arguments: list[str]) -> int:
    """Run the program; return its exit code."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    if arguments[:1] == ["simulator"]:
        return run_simulator(arguments[1:])
    options = parse(arguments)
    try:
        settings = load_settings(strategies=STRATEGIES)
        words: dict[str, Callable[[], int]] = {
            "check": lambda: run_check(settings),
            "nonce": lambda: run_nonce(settings, options),
            "orders": lambda: run_report(settings, options),
            "fills": lambda: run_report(settings, options),
            "journal": lambda: run_journal_check(settings, options.form),
        }
        return words.get(options.command, lambda: run(settings, options.ticks))()
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
        return migrate(settings, options.to, say)
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


def run(settings: Settings, max_ticks: int | None) -> int:
    """Trade until the end, a signal or an error."""
    lock = InstanceLock(settings.state_dir)
    try:
        runner = Runner(say)
        return runner.run(lambda: trade(settings, runner, max_ticks))
    finally:
        lock.release()


def trade(settings: Settings, runner: Runner, max_ticks: int | None) -> int:
    """Open the market and trade on it; return the exit code."""
    say(banner(settings))
    with open_market(settings) as market, contextlib.closing(market.broker):
        runner.broker = market.broker
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
    """Write how the run went; return the exit code."""
    counts = summary.orders
    if summary.error is None:
        say(f"Ended: {summary.reason}.")
    say(f"equity   {_money(summary.equity_start)} -> {_money(summary.equity_end)} {summary.quote}")
    outcomes = f"{counts.placed} placed, {counts.refused} refused by Kraken, {counts.unknown} unknown"
    say(f"orders   {outcomes}; fills {counts.fills}")
    say(f"realised {summary.realised:.2f} {summary.quote}")
    say(f"refused nonces: {summary.refused_nonces}")
    return 0 if summary.error is None else fail(summary.error)


def _money(value: Decimal | None) -> str:
    return "unknown" if value is None else f"{value:.2f}"


if __name__ == "__main__":
    code = main(sys.argv[1:])
    sys.stdout.flush()
    # A request that was left behind must not keep the process; nothing else is left to do.
    os._exit(code)
