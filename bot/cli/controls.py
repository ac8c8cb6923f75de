"""`pause`, `halt` and `resume`: create and remove the control files, which a running bot applies within a second."""

from __future__ import annotations

import argparse

from bot.app.control_files import ENTRIES_PAUSED_FILE_NAME, HALT_FILE_NAME, create_control_file
from bot.app.instance_lock import is_running
from bot.base.errors import SettingsError
from bot.base.logging_setup import print_line
from bot.base.paths import control_file_exists
from bot.base.private_files import make_folder
from bot.config import Settings

_PAUSED = "Entries are paused: resting ones are canceled, and none is sent; exits and stops go on."
_HALTED = "Halted: resting entries are canceled, and no order is sent but a missing stop."


def pause_entries(settings: Settings, _options: argparse.Namespace) -> int:
    """Pause entries until `resume`, also across restarts."""
    return _create(settings, ENTRIES_PAUSED_FILE_NAME, f"{_PAUSED} `python main.py resume` ends the pause.")


def halt(settings: Settings, _options: argparse.Namespace) -> int:
    """Halt the bot until `resume --halt`, also across restarts."""
    return _create(settings, HALT_FILE_NAME, f"{_HALTED} `python main.py resume --halt` lifts the halt.")


def resume(settings: Settings, options: argparse.Namespace) -> int:
    """End the pause of entries, or lift the halt; say which of the two stays."""
    if options.halt:
        _remove(settings, HALT_FILE_NAME, "The halt is lifted.", "The bot was not halted")
        if control_file_exists(settings.state_dir, ENTRIES_PAUSED_FILE_NAME):
            print_line("Entries are still paused: `python main.py resume` ends the pause.")
        return 0
    _remove(settings, ENTRIES_PAUSED_FILE_NAME, "Entries are no longer paused.", "Entries were not paused")
    if control_file_exists(settings.state_dir, HALT_FILE_NAME):
        print_line("The bot is still halted: `python main.py resume --halt` lifts the halt.")
    return 0


def _create(settings: Settings, name: str, text: str) -> int:
    path = settings.state_dir / name
    try:
        make_folder(str(settings.state_dir))
        create_control_file(settings.state_dir, name)
    except OSError as error:
        raise SettingsError([f"{path} cannot be created: {error.strerror}."]) from error
    print_line(text)
    if settings.trading_mode == "halt":
        print_line("TRADING_MODE is halt here: a bot with that setting only watches, and cancels nothing.")
    # A mistyped STATE_DIR would leave the bot trading.
    if not is_running(settings.state_dir):
        print_line(f"No bot is running on {settings.state_dir}: this is in force when one starts there.")
    return 0


def _remove(settings: Settings, name: str, done: str, nothing: str) -> None:
    path = settings.state_dir / name
    try:
        path.unlink()
    except FileNotFoundError:
        print_line(f"{nothing} in {settings.state_dir}.")
    except OSError as error:
        raise SettingsError([f"{path} cannot be removed: {error.strerror}."]) from error
    else:
        print_line(done)
