"""The steps of an order's life at which a bot is killed, by name, and the seams that kill it there.

The seams are put around the bot's own functions by a test's child process; the bot itself has none.
"""

from __future__ import annotations

import os
import re
import select
import signal
from collections.abc import Callable
from functools import partial
from http.client import HTTPConnection, HTTPResponse
from typing import Any

from bot.broker_manager import KrakenBroker
from bot.orders.order_state import PLACED, OrderState
from bot.orders.reconciliation import Step

_PLACING = (
    "before it is intended",
    "being intended",
    "intended",
    "turn taken",
    "nonce drawn",
    "being written down",
    "written down",
    "half sent",
    "sent",
    "answered",
    "answer read",
    "outcome being written",
    "outcome written",
)
_FOLLOWING = ("row followed", "fills read", "fills written")

# Each step, and what goes wrong with the order (or the cancel) so that the step is come to: "" for nothing.
STEPS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(_PLACING, ("",)),
    "sent": ("slow", "delayed"),
    "unknown written": ("reset", "queued"),
    "fence accepted": ("no_answer", "unavailable_executed", "refuse_502", "queued", "delayed"),
    "open orders read": ("refuse_502", "queued", "delayed"),
    "closed orders read": ("refuse_502", "unavailable"),
    "found rows being written": ("no_answer", "queued"),
    "found rows written": ("no_answer", "queued"),
    "not placed, unwritten": ("refuse_502",),
    "not placed, written": ("refuse_502",),
    **dict.fromkeys(_FOLLOWING, ("",)),
    "cancel unsent": ("",),
    "cancel half sent": ("",),
    "cancel sent": ("", "slow", "cancel_race"),
    "cancel answered": ("", "cancel_race"),
    "cancel done": ("", "cancel_race"),
}
# The steps of a life that finds no journal, and what had gone wrong with the order before it.
PAST_STEPS = {
    "fence accepted": "queued",
    "open orders read": "delayed",
    "closed orders read": "refuse_502",
    "found rows being written": "no_answer",
    "found rows written": "queued",
    "past known": "no_answer",
}

_WRITTEN = (
    ("answer read", "outcome written", PLACED),
    ("", "unknown written", frozenset({OrderState.UNKNOWN})),
    ("not placed, unwritten", "not placed, written", frozenset({OrderState.NOT_PLACED})),
)
_LOOKED_UP = {Step.FENCE: "fence accepted", Step.OPEN: "open orders read", Step.CLOSED: "closed orders read"}
_WRITING = {"intend": "being intended", "leave": "being written down", "set_state": "outcome being written"}


class Seams:
    """Where a life may end, put around the functions of one broker; it ends where the plan says."""

    def __init__(self, step: str, times: int) -> None:
        self._step = step
        self._left = times
        self._inside: list[str] = []
        self._method = ""

    def reached(self, step: str) -> None:
        """Die, if it is here."""
        if step and step == self._step:
            self._left -= 1
            if self._left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    def around(
        self,
        owner: object,
        name: str,
        before: str = "",
        after: str = "",
        when: Callable[..., bool] = lambda *_: True,
    ) -> None:
        """Make a function of an object come to a step before it begins, and to another after it has ended."""
        work = getattr(owner, name)

        def seen(*arguments: Any, **named: Any) -> Any:
            is_it = when(*arguments)
            self.reached(before if is_it else "")
            self._inside.append(name)
            try:
                result = work(*arguments, **named)
            finally:
                self._inside.pop()
            self.reached(after if is_it else "")
            return result

        setattr(owner, name, seen)

    def watch(self, broker: KrakenBroker) -> None:
        """Put them all in place."""
        journal, settlement = broker.journal, broker._settlement
        self._watch_commits(broker)
        self._watch_wire()
        self.around(journal, "intend", "before it is intended", "intended")
        self.around(broker, "_send", "turn taken", when=lambda _, method, *rest: method == "AddOrder")
        self.around(journal, "leave", "nonce drawn", "written down")
        self.around(journal, "set_state")
        for before, after, states in _WRITTEN:
            self.around(settlement, "write", before, after, partial(_is_among, states))
        for step, name in _LOOKED_UP.items():
            self.around(settlement, "_look_up", "", name, partial(_is_one, step))
        self.around(journal, "take_rows", "", "found rows written", lambda rows: "_write_found" in self._inside)
        self.around(journal, "take_rows", "", "row followed", lambda rows: "_write_found" not in self._inside)
        self.around(journal, "set_known_until", "", "past known", lambda *_: "_write_found" in self._inside)
        self.around(settlement, "_write_found")
        self.around(journal, "add_fills", "fills read", "fills written", bool)
        self.around(broker._desk, "cancel", "cancel unsent", "cancel done")

    def _watch_commits(self, broker: KrakenBroker) -> None:
        file = broker.journal._file
        work = file._open

        def opened() -> Any:
            connection = work()
            connection.set_trace_callback(self._statement)
            return connection

        file._open = opened  # type: ignore[method-assign]

    def _statement(self, statement: str) -> None:
        """Called with each statement before it runs."""
        if statement == "COMMIT":
            for name in self._inside:
                self.reached(_WRITING.get(name, ""))
            if "_write_found" in self._inside and "take_rows" in self._inside:
                self.reached("found rows being written")

    def _watch_wire(self) -> None:
        send, getresponse = HTTPConnection.send, HTTPConnection.getresponse
        words = {"AddOrder": "", "CancelOrder": "cancel "}

        def seen_send(connection: HTTPConnection, data: Any) -> None:
            send(connection, data)
            if found := re.match(rb"(?:GET|POST) /0/\w+/(\w+)", data):
                self._method = found[1].decode()
                step = "half sent"
            else:
                step = "sent"
            if self._method in words:
                self.reached(words[self._method] + step)

        def seen_getresponse(connection: HTTPConnection) -> HTTPResponse:
            if self._method in words:
                # Dead before it reads what has come.
                select.select([connection.sock], [], [], 10.0)
                self.reached(words[self._method] + "answered")
            return getresponse(connection)

        HTTPConnection.send = seen_send  # type: ignore[assignment, method-assign]
        HTTPConnection.getresponse = seen_getresponse  # type: ignore[assignment, method-assign]


def _is_one(wanted: Step, step: Step) -> bool:
    return step is wanted


def _is_among(wanted: frozenset[OrderState], _: str, state: OrderState, *_more: str) -> bool:
    return state in wanted
