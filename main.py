"""Start the Kraken trading bot: `python main.py --help` lists the commands."""

import sys

# Every Python since 2.7 can read this file, so that it can say which Python the rest needs.
if sys.version_info < (3, 11):  # noqa: UP036
    sys.stderr.write(
        "The bot needs Python 3.11 or newer, and this is Python "
        + sys.version.split()[0]
        + ": start it with a newer one, or with `make run`, which looks for one.\n"
    )
    sys.exit(2)

from bot.cli.start import start

if __name__ == "__main__":
    start()
