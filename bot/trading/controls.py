"""What may end or hold back trading from outside the bot, asked again before every order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


def _no() -> bool:
    return False


def _nothing() -> None:
    return


@dataclass(frozen=True, slots=True)
class Switches:
    """`halted`: the kill switch, no order at all. `entries_stopped`: nothing new is opened, and what is held is left by
    the usual rules. `check_state` raises StateLostError where the state folder is not ours any more."""

    halted: Callable[[], bool] = _no
    entries_stopped: Callable[[], bool] = _no
    check_state: Callable[[], None] = _nothing
