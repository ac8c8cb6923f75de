"""Run a user's script repeatedly: `script_child.py PATH TIMES`, after a line from the parent.

A refused nonce ends one run and not the others.
"""

from __future__ import annotations

import runpy
import sys


def run(path: str) -> None:
    """Run the script once, as a program."""
    try:
        runpy.run_path(path, run_name="__main__")
    except BaseException as error:
        # By name, because importing every client takes longer than the whole script.
        if not type(error).__name__.endswith(("InvalidNonce", "InvalidNonceError")):
            raise


def main(path: str, times: str) -> None:
    """Run the script `times` times."""
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.readline()
    for _ in range(int(times)):
        run(path)


if __name__ == "__main__":
    main(*sys.argv[1:])
