"""Reads the command and the settings, and calls the function that carries the command out."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable

from bot.base import logging_setup
from bot.base.errors import BotError
from bot.base.logging_setup import print_line
from bot.base.paths import refuse_former_state
from bot.base.redaction import hide
from bot.cli.controls import halt, pause_entries, resume
from bot.cli.exit_codes import print_failure
from bot.cli.nonce_commands import run_nonce_command
from bot.cli.parser import parse_arguments
from bot.cli.reports import check_journal_against_kraken, print_fills, print_orders
from bot.cli.run import run_bot
from bot.config import Settings, load_settings
from bot.dashboard import client
from bot.simulator.errors import SimulatorError
from bot.trading.strategies import STRATEGIES


def main(arguments: list[str]) -> int:
    """Carry out a command; return the exit code."""
    # Whatever is written belongs to this user alone.
    os.umask(0o077)
    logging_setup.configure("text")
    if arguments[:1] == ["simulator"]:
        # The simulator has its own options, and needs no settings.
        return run_simulator(arguments[1:])
    options = parse_arguments(arguments)
    try:
        settings = load_settings(strategies=STRATEGIES)
        hide(*settings.secrets())
        refuse_former_state(settings.state_dir)
        return COMMANDS[options.command or "run"](settings, options)
    except (BotError, SimulatorError) as error:
        return print_failure(error)
    except KeyboardInterrupt:
        return 0


def print_status(settings: Settings, options: argparse.Namespace) -> int:
    """Write what the running bot tells of itself."""
    return client.print_status(settings, as_json=options.json, watch=options.watch, print_line=print_line)


def check_setup(settings: Settings, options: argparse.Namespace) -> int:
    """Check everything that a start depends on."""
    # It can read paper accounts, for which it loads the simulator. Only the commands that need that wait for it.
    from bot.cli import check

    return check.check_setup(settings, options)


def reset_paper_account(settings: Settings, options: argparse.Namespace) -> int:
    """Begin a new paper account."""
    from bot.cli import paper

    return paper.reset_paper_account(settings, options)


def run_simulator(arguments: list[str]) -> int:
    """Run the local Kraken alone."""
    from bot.simulator import __main__ as simulator

    return simulator.main(arguments)


def start_simulator(_settings: Settings, options: argparse.Namespace) -> int:
    """Run the local Kraken alone, where options of the bot stand before the command."""
    return run_simulator(options.options)


# Each returns the exit code.
COMMANDS: dict[str, Callable[[Settings, argparse.Namespace], int]] = {
    "run": run_bot,
    "status": print_status,
    "pause": pause_entries,
    "halt": halt,
    "resume": resume,
    "check": check_setup,
    "nonce": run_nonce_command,
    "orders": print_orders,
    "fills": print_fills,
    "journal": check_journal_against_kraken,
    "paper": reset_paper_account,
    "simulator": start_simulator,
}
