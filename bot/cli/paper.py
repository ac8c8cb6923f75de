"""`paper reset`: begins a new paper account, and keeps the files of the former one."""

from __future__ import annotations

import argparse
import contextlib
import os
from pathlib import Path

from bot.app.instance_lock import InstanceLock
from bot.base.clock import format_utc, wall_seconds
from bot.base.errors import SettingsError
from bot.base.logging_setup import print_line
from bot.base.paths import journal_file_path
from bot.base.timeframes import parse_timeframe
from bot.broker_manager import NONCE_FILE
from bot.config import Settings
from bot.simulator.paper import paper_account_paths
from bot.simulator.storage import read_key_names


def reset_paper_account(settings: Settings, _options: argparse.Namespace) -> int:
    """Move the account of PRICE_SOURCE and its journal into a folder of their own; the next run begins a new account.

    Raises BotAlreadyRunningError while a bot runs on the state folder, and StateFileInUseError while another program
    has the account open.
    """
    folder, timeframe_seconds = settings.state_dir, parse_timeframe(settings.timeframe)
    with contextlib.ExitStack() as stack:
        stack.callback(InstanceLock(folder).release)
        accounts = paper_account_paths(settings.pairs, settings.price_source, timeframe_seconds, folder)
        files = [file for account in accounts if account.exists() for file in _account_files(account)]
        if not files:
            print_line(f"There is no paper account for PRICE_SOURCE={settings.price_source} in {folder} yet.")
            return 0
        target = folder / f"paper_account.{format_utc(wall_seconds()).replace(':', '')}"
        try:
            target.mkdir(mode=0o700)
            for file in files:
                os.rename(file, target / file.name)
        except OSError as error:
            raise SettingsError([f"The paper account cannot be moved to {target}: {error.strerror}."]) from error
    print_line(f"Moved to {target}:")
    for file in files:
        print_line(f"  {file.name}")
    print_line("The next run on paper begins a new account.")
    return 0


def _account_files(account: Path) -> list[Path]:
    """Return the account's file, its journal, and what SQLite keeps beside each; the file itself first.

    Where the account is damaged, its journal is not known and stays; a new account has another key, and so another
    journal.
    """
    journals = [Path(journal_file_path(NONCE_FILE, key)) for key in read_key_names(account)]
    return [file for path in (account, *journals) for file in sorted(path.parent.glob(f"{path.name}*"))]
