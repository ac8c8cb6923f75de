"""Commands and options of `python main.py`."""

from __future__ import annotations

import argparse

from bot.cli.nonce_commands import FILE_TARGET

EPILOG = """exit codes: 0 done or stopped, 1 a fault in the program, 2 a wrong setting, an old Python or a missing
package, 3 the key may not be used, 4 trouble with nonces or a lockout, 5 Kraken cannot be reached or refuses,
6 another bot runs on this state folder or leads this account, or the folder was taken away,
7 journal and Kraken disagree (journal check), 8 no running bot answers (status)"""

# Renamed options. argparse alone would call the old name unknown.
RENAMED_OPTIONS = {"--stay": "--forever", "--ticks": "--cycles"}


# A new command is described here, and has a function in `COMMANDS` (commands.py).
def parse_arguments(arguments: list[str]) -> argparse.Namespace:
    """Return the command and its options."""
    parser = argparse.ArgumentParser(prog="main.py", description="A Kraken trading bot.", epilog=EPILOG)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.set_defaults(forever=False)
    parser.add_argument("--cycles", type=cycle_count, metavar="N", help="stop after N cycles at current prices")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    run_command = commands.add_parser("run", help="trade; the default command")
    run_command.add_argument(
        "--cycles", type=cycle_count, metavar="N", default=argparse.SUPPRESS, help="stop after N cycles"
    )
    run_command.add_argument(
        "--forever", action="store_true", help="keep running and try again after transient errors; implied by PORT"
    )
    status = commands.add_parser("status", help="print the status of the running bot, as its page shows it")
    status.add_argument("--watch", action="store_true", help="repeat every two seconds")
    status.add_argument("--json", action="store_true", help="print the full status as JSON")
    commands.add_parser("pause", help="pause entries: cancel resting ones and send none; exits and stops go on")
    commands.add_parser("halt", help="halt the bot: cancel resting entries and send no order but a missing stop")
    resume = commands.add_parser("resume", help="end the pause of entries")
    resume.add_argument("--halt", action="store_true", help="lift the halt instead")
    commands.add_parser("check", help="check settings, clock, nonce store, pairs and key, without trading")
    add_nonce_commands(commands)
    add_report_commands(commands)
    paper = commands.add_parser("paper", help="begin a new paper account")
    paper.add_argument(
        "action", choices=["reset"], help="reset: the next run begins a new account; the old one's files are kept"
    )
    simulator = commands.add_parser("simulator", help="run the local Kraken alone", add_help=False)
    simulator.add_argument("options", nargs=argparse.REMAINDER)
    for argument in arguments:
        option = argument.partition("=")[0]
        if option in RENAMED_OPTIONS:
            parser.error(f"{option} is now called {RENAMED_OPTIONS[option]}")
    return parser.parse_args(arguments)


def add_nonce_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the nonce commands."""
    nonce = commands.add_parser("nonce", help="show and move nonces")
    nonce_commands = nonce.add_subparsers(dest="action", metavar="COMMAND", required=True)
    nonce_commands.add_parser(
        "show",
        help="print the last nonce, its distance from the clock, its file or store, the request lock and the leader",
    )
    migrate_command = nonce_commands.add_parser(
        "migrate", help="continue in another store, above every nonce issued before"
    )
    migrate_command.add_argument(
        "--to",
        required=True,
        metavar="URL",
        help=f"the store's address, - for standard input, or {FILE_TARGET}",
    )
    migrate_command.add_argument(
        "--store-is-gone",
        action="store_true",
        help=f"with --to {FILE_TARGET}, where the store will never answer again: start from this host's local replica, "
        "for this host alone",
    )
    migrate_command.add_argument("--yes", action="store_true", help="with --store-is-gone: do not ask for confirmation")
    adopt_command = nonce_commands.add_parser(
        "adopt", help="test whether a key with a higher nonce floor works with nanoseconds"
    )
    adopt_command.add_argument("--yes", action="store_true", help="do not ask for confirmation")


def add_report_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the commands that report on the journal."""
    orders = commands.add_parser("orders", help="the bot's orders, newest last")
    orders.add_argument(
        "--open", action="store_true", help="only those that may still fill, or whose outcome is unknown"
    )
    resolve = orders.add_subparsers(dest="action", metavar="COMMAND").add_parser(
        "resolve", help="write down an outcome that cannot be proved, after a look at Kraken"
    )
    resolve.add_argument(
        "cl_ord_id", metavar="CL_ORD_ID", help="the client order id, or `history` for what an earlier run may have sent"
    )
    outcome = resolve.add_mutually_exclusive_group(required=True)
    outcome.add_argument("--placed", metavar="TXID", help="Kraken has it, with this transaction id")
    outcome.add_argument("--not-placed", action="store_true", help="Kraken has no such order")
    fills = commands.add_parser("fills", help="the bot's fills, newest last, with their sums")
    journal = commands.add_parser("journal", help="check the journal")
    journal.add_argument("action", choices=["check"], help="check: whether it agrees with Kraken to the last decimal")
    for command in (orders, fills, journal):
        format_options = command.add_mutually_exclusive_group()
        for name in ("json", "csv"):
            format_options.add_argument(
                f"--{name}", dest="output_format", action="store_const", const=name, default="table"
            )


def cycle_count(text: str) -> int:
    """Read a number of cycles, at least one."""
    number = int(text) if text.isascii() and text.isdigit() else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 up")
    return number
