"""Controls from outside the bot that block or end trading, checked again before every order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


def _always_false() -> bool:
    return False


def _do_nothing() -> None:
    return


@dataclass(frozen=True, slots=True)
class Controls:
    """`is_halted`: the kill switch, no order at all. `entries_stopped`: nothing new is opened, and positions are
    exited by the usual rules. `check_state` raises StateLostError where the state folder no longer belongs to this
    bot."""

    is_halted: Callable[[], bool] = _always_false
    entries_stopped: Callable[[], bool] = _always_false
    check_state: Callable[[], None] = _do_nothing
