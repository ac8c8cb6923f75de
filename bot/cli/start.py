"""Starts the command line and ends the process; names a package that is missing.

It imports only the standard library at the top: every other module of the bot may need a package that is missing.
"""

from __future__ import annotations

import os
import sys
from typing import NoReturn

# As for a wrong setting. `exit_codes` cannot be imported without every package.
MISSING_PACKAGE_EXIT_CODE = 2

# Packages whose name at the package index differs from the name of their module.
_PACKAGE_NAMES = {"dotenv": "python-dotenv", "prometheus_client": "prometheus-client"}


def start() -> NoReturn:
    """Run the command line and end the process with its exit code."""
    try:
        from bot.cli.commands import main

        code = main(sys.argv[1:])
    except ImportError as error:
        package = missing_package(error)
        if not package:
            raise
        print(missing_package_message(package, error), file=sys.stderr, flush=True)
        code = MISSING_PACKAGE_EXIT_CODE
    if sys.stdout is not None:  # a program may be started without one
        sys.stdout.flush()
    # A request that was left behind must not keep the process; nothing else is left to do.
    os._exit(code)


def missing_package(error: ImportError) -> str:
    """Return the package that the import needs, or "" where a module of the bot or of Python itself is at fault."""
    module = (error.name or "").partition(".")[0]
    if not module or module == "bot" or module in sys.stdlib_module_names:
        return ""
    return _PACKAGE_NAMES.get(module, module)


def missing_package_message(package: str, error: ImportError) -> str:
    """Say which package is missing, and how to install all that is missing."""
    return (
        f"The package {package} is missing or has the wrong version ({error}): install what the bot needs with "
        "`make run`, or with `python -m pip install .` in the environment in use."
    )
