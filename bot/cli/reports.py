"""`orders`, `fills` and `journal check`: what the journal has, and whether it agrees with Kraken."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from bot.app.instance_lock import InstanceLock
from bot.app.reports import check_journal, fills_report, find_journal, orders_report
from bot.app.venue import open_venue
from bot.base.errors import SettingsError
from bot.base.logging_setup import print_line
from bot.base.models import Fill, Order
from bot.broker_manager import NONCE_FILE, KrakenBroker
from bot.cli.exit_codes import JOURNAL_DIFFERS
from bot.cli.resolve import resolve_order
from bot.config import Settings
from bot.orders.journal import Journal

NO_JOURNAL_MESSAGE = "No journal yet in {folder}: the next run begins one, with what Kraken has of this bot's orders."


def print_orders(settings: Settings, options: argparse.Namespace) -> int:
    """Write the orders of the journal; a bot may be running. `resolve` writes the outcome of one."""
    if options.action == "resolve":
        return resolve_order(settings, options)
    with _open_journal(settings) as journal:
        print_line(orders_report(journal, options.output_format, options.open))
    return 0


def print_fills(settings: Settings, options: argparse.Namespace) -> int:
    """Write the fills of the journal; a bot may be running."""
    with _open_journal(settings) as journal:
        print_line(fills_report(journal, options.output_format))
    return 0


@contextlib.contextmanager
def _open_journal(settings: Settings) -> Iterator[Journal | None]:
    """Give the journal to read from, if there is one yet, and say which one it is."""
    path = _journal_path(settings)
    if path is None:
        _print_stderr(NO_JOURNAL_MESSAGE.format(folder=settings.state_dir))
        yield None
        return
    _print_stderr(f"# {path}")
    with contextlib.closing(Journal(str(path))) as journal:
        yield journal


def _journal_path(settings: Settings) -> Path | None:
    return find_journal(NONCE_FILE, settings.api_key, settings.trading_mode == "paper")


def _print_stderr(line: str) -> None:
    """Write a line that is no part of a report, so that programs can read what is."""
    print(line, file=sys.stderr, flush=True)


def check_journal_against_kraken(settings: Settings, options: argparse.Namespace) -> int:
    """Compare the journal with Kraken; return 0 where they agree, 7 where not."""
    if _journal_path(settings) is None:
        # Not "all equal": a lost journal and a mistyped folder look like a bot that has never traded.
        raise SettingsError([f"STATE_DIR is {settings.state_dir}, where there is no journal yet: nothing to check."])
    with contextlib.ExitStack() as stack:
        if settings.trading_mode == "paper":
            _reject_recorded_market(settings)
            # A running bot has the paper account in its own hands.
            stack.callback(InstanceLock(settings.state_dir).release)
        broker = stack.enter_context(open_venue(settings)).broker
        stack.callback(broker.close)
        _print_stderr(f"# {broker.journal.path}")
        report, is_equal = check_journal(broker.journal, partial(_fetch_kraken_records, broker), options.output_format)
    print_line(report)
    return 0 if is_equal else JOURNAL_DIFFERS


def _reject_recorded_market(settings: Settings) -> None:
    """Raise SettingsError for a recorded market: opening one that has ended begins its account anew."""
    if settings.price_source.startswith("replay:"):
        raise SettingsError(
            ["PRICE_SOURCE names a recorded market, whose account ends with it: there is nothing to check."]
        )


def _fetch_kraken_records(broker: KrakenBroker) -> tuple[list[Order], list[Fill]]:
    """Return every order of this bot that Kraken has, and the account's fills."""
    # Open before closed: an order that closes in between is then in both, and never in neither.
    orders = broker.get_open_orders() + broker.get_closed_orders(0)
    return [order for order in orders if broker.is_own_order(order)], broker.get_trades(0)
