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
from bot.orders.order_state import PLACED_STATES, OrderState
from bot.orders.reconciliation import QueryStep

_PLACING_STEPS = (
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
_FOLLOWING_STEPS = ("row followed", "fills read", "fills written")

# Each step, and what goes wrong with the order (or the cancel) so that the step is come to: "" for nothing.
STEPS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(_PLACING_STEPS, ("",)),
    "sent": ("slow", "delayed"),
    "unknown written": ("reset", "queued"),
    "fence accepted": ("no_answer", "unavailable_executed", "refuse_502", "queued", "delayed"),
    "open orders read": ("refuse_502", "queued", "delayed"),
    "closed orders read": ("refuse_502", "unavailable"),
    "found rows being written": ("no_answer", "queued"),
    "found rows written": ("no_answer", "queued"),
    "not placed, unwritten": ("refuse_502",),
    "not placed, written": ("refuse_502",),
    **dict.fromkeys(_FOLLOWING_STEPS, ("",)),
    "cancel unsent": ("",),
    "cancel half sent": ("",),
    "cancel sent": ("", "slow", "cancel_race"),
    "cancel answered": ("", "cancel_race"),
    "cancel done": ("", "cancel_race"),
}
# The steps of a life that finds no journal, and what had gone wrong with the order before it.
HISTORY_STEPS = {
    "fence accepted": "queued",
    "open orders read": "delayed",
    "closed orders read": "refuse_502",
    "found rows being written": "no_answer",
    "found rows written": "queued",
    "past known": "no_answer",
}

_STATE_STEPS = (
    ("answer read", "outcome written", PLACED_STATES),
    ("", "unknown written", frozenset({OrderState.UNKNOWN})),
    ("not placed, unwritten", "not placed, written", frozenset({OrderState.NOT_PLACED})),
)
_QUERY_STEPS = {
    QueryStep.FENCE: "fence accepted",
    QueryStep.OPEN: "open orders read",
    QueryStep.CLOSED: "closed orders read",
}
_COMMIT_STEPS = {"intend": "being intended", "leave": "being written down", "set_state": "outcome being written"}


class KillPoints:
    """Where a life may end, put around the functions of one broker; it ends where the plan says."""

    def __init__(self, step: str, times: int) -> None:
        self._step = step
        self._remaining = times
        self._active_calls: list[str] = []
        self._http_method = ""

    def kill_if_reached(self, step: str) -> None:
        """Die, if it is here."""
        if step and step == self._step:
            self._remaining -= 1
            if self._remaining == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    def wrap(
        self,
        target: object,
        name: str,
        before: str = "",
        after: str = "",
        when: Callable[..., bool] = lambda *_: True,
    ) -> None:
        """Make a function of an object come to a step before it begins, and to another after it has ended."""
        original = getattr(target, name)

        def wrapper(*arguments: Any, **options: Any) -> Any:
            is_matching = when(*arguments)
            self.kill_if_reached(before if is_matching else "")
            self._active_calls.append(name)
            try:
                result = original(*arguments, **options)
            finally:
                self._active_calls.pop()
            self.kill_if_reached(after if is_matching else "")
            return result

        setattr(target, name, wrapper)

    def install(self, broker: KrakenBroker) -> None:
        """Put them all in place."""
        journal, reconciler = broker.journal, broker._reconciler
        self._hook_commits(broker)
        self._hook_http()
        self.wrap(journal, "intend", "before it is intended", "intended")
        self.wrap(
            broker._client, "_exchange", "turn taken", when=lambda _, request, *rest: request.method == "AddOrder"
        )
        self.wrap(journal, "leave", "nonce drawn", "written down")
        self.wrap(journal, "set_state")
        for before, after, states in _STATE_STEPS:
            self.wrap(reconciler, "write", before, after, partial(_has_state, states))
        for step, name in _QUERY_STEPS.items():
            self.wrap(reconciler, "_look_up", "", name, partial(_is_step, step))
        self.wrap(journal, "take_rows", "", "found rows written", lambda rows: "_write_found" in self._active_calls)
        self.wrap(journal, "take_rows", "", "row followed", lambda rows: "_write_found" not in self._active_calls)
        self.wrap(journal, "set_known_until", "", "past known", lambda *_: "_write_found" in self._active_calls)
        self.wrap(reconciler, "_write_found")
        self.wrap(journal, "add_fills", "fills read", "fills written", bool)
        self.wrap(broker.orders, "cancel", "cancel unsent", "cancel done")

    def _hook_commits(self, broker: KrakenBroker) -> None:
        database = broker.journal._database
        open_connection = database._open

        def open_traced() -> Any:
            connection = open_connection()
            connection.set_trace_callback(self._on_statement)
            return connection

        database._open = open_traced  # type: ignore[method-assign]

    def _on_statement(self, statement: str) -> None:
        """Called with each statement before it runs."""
        if statement == "COMMIT":
            for name in self._active_calls:
                self.kill_if_reached(_COMMIT_STEPS.get(name, ""))
            if "_write_found" in self._active_calls and "take_rows" in self._active_calls:
                self.kill_if_reached("found rows being written")

    def _hook_http(self) -> None:
        send, getresponse = HTTPConnection.send, HTTPConnection.getresponse
        step_prefixes = {"AddOrder": "", "CancelOrder": "cancel "}

        def traced_send(connection: HTTPConnection, data: Any) -> None:
            send(connection, data)
            if match := re.match(rb"(?:GET|POST) /0/\w+/(\w+)", data):
                self._http_method = match[1].decode()
                step = "half sent"
            else:
                step = "sent"
            if self._http_method in step_prefixes:
                self.kill_if_reached(step_prefixes[self._http_method] + step)

        def traced_getresponse(connection: HTTPConnection) -> HTTPResponse:
            if self._http_method in step_prefixes:
                # Dead before it reads what has come.
                select.select([connection.sock], [], [], 10.0)
                self.kill_if_reached(step_prefixes[self._http_method] + "answered")
            return getresponse(connection)

        HTTPConnection.send = traced_send  # type: ignore[assignment, method-assign]
        HTTPConnection.getresponse = traced_getresponse  # type: ignore[assignment, method-assign]


def _is_step(expected: QueryStep, step: QueryStep) -> bool:
    return step is expected


def _has_state(expected: frozenset[OrderState], _: str, state: OrderState, *_more: str) -> bool:
    return state in expected
