"""Runs a user's script again and again: `script_child.py PATH TIMES`, after a line from the parent.

A refused nonce ends one run and not the rest.
"""

from __future__ import annotations

import runpy
import sys


def run(path: str) -> None:
    """Run the script once, as a program."""
    try:
        runpy.run_path(path, run_name="__main__")
    except BaseException as error:
        # By name: to load every client takes longer than all that the script does.
        if not type(error).__name__.endswith(("InvalidNonce", "InvalidNonceError")):
            raise


def main(path: str, times: str) -> None:
    """Run the script so many times."""
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.readline()
    for _ in range(int(times)):
        run(path)


if __name__ == "__main__":
    main(*sys.argv[1:])
