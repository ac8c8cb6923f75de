"""The named steps of placing and following an order at which a bot is killed, and the hooks that kill it there.

A test's child process wraps the bot's own functions; the bot itself has no hooks.
"""

from __future__ import annotations

import os
import re
import select
import signal
import socket
from collections.abc import Callable
from functools import partial
from http.client import HTTPResponse
from typing import Any

from bot.broker_manager import KrakenBroker
from bot.kraken import http_connection
from bot.nonce.local_lock import Priority
from bot.orders.order_state import PLACED_STATES, OrderState
from bot.orders.reconciliation import QueryStep

_PLACING_STEPS = (
    "before the intent",
    "intent being recorded",
    "intent recorded",
    "lock acquired",
    "nonce issued",
    "being marked as sent",
    "marked as sent",
    "half sent",
    "sent",
    "response received",
    "response read",
    "outcome being recorded",
    "outcome recorded",
)
_FOLLOWING_STEPS = ("order updated", "fills read", "fills recorded")

# Each step, and the fault of the order (or the cancel) that leads to the step: "" for none.
STEPS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(_PLACING_STEPS, ("",)),
    "sent": ("slow", "delayed"),
    "unknown recorded": ("reset", "queued"),
    "fencing read accepted": ("no_answer", "unavailable_executed", "refuse_502", "queued", "delayed"),
    "open orders read": ("refuse_502", "queued", "delayed"),
    "closed orders read": ("refuse_502", "unavailable"),
    "found orders being recorded": ("no_answer", "queued"),
    "found orders recorded": ("no_answer", "queued"),
    "before not placed is recorded": ("refuse_502",),
    "not placed recorded": ("refuse_502",),
    **dict.fromkeys(_FOLLOWING_STEPS, ("",)),
    "cancel unsent": ("",),
    "cancel half sent": ("",),
    "cancel sent": ("", "slow", "cancel_race"),
    "cancel response received": ("", "cancel_race"),
    "cancel done": ("", "cancel_race"),
}
# The steps of a run that finds no journal, and the fault of the order before it.
HISTORY_STEPS = {
    "fencing read accepted": "queued",
    "open orders read": "delayed",
    "closed orders read": "refuse_502",
    "found orders being recorded": "no_answer",
    "found orders recorded": "queued",
    "history complete": "no_answer",
}

_STATE_STEPS = (
    ("response read", "outcome recorded", PLACED_STATES),
    ("", "unknown recorded", frozenset({OrderState.UNKNOWN})),
    ("before not placed is recorded", "not placed recorded", frozenset({OrderState.NOT_PLACED})),
)
_QUERY_STEPS = {
    QueryStep.FENCE: "fencing read accepted",
    QueryStep.OPEN: "open orders read",
    QueryStep.CLOSED: "closed orders read",
}
_COMMIT_STEPS = {
    "record_intent": "intent being recorded",
    "mark_sent": "being marked as sent",
    "set_state": "outcome being recorded",
}


class KillPoints:
    """Hooks around the functions of one broker that kill the process at the planned step."""

    def __init__(self, step: str, kill_at_visit: int) -> None:
        self._step = step
        self._remaining = kill_at_visit
        self._active_calls: list[str] = []
        self._http_method = ""

    def kill_if_reached(self, step: str) -> None:
        """Kill this process if `step` is the planned one."""
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
        """Wrap a method of an object: it reaches step `before` when it begins and step `after` when it has returned."""
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
        """Install all hooks."""
        journal, reconciler = broker.journal, broker._reconciler
        self._hook_commits(broker)
        self._hook_http()
        self.wrap(journal, "record_intent", "before the intent", "intent recorded")
        self.wrap(broker._client, "_take_nonce", "lock acquired", when=lambda _, priority: priority is Priority.ORDER)
        self.wrap(journal, "mark_sent", "nonce issued", "marked as sent")
        self.wrap(journal, "set_state")
        for before, after, states in _STATE_STEPS:
            self.wrap(reconciler, "record_state", before, after, partial(_has_state, states))
        for step, name in _QUERY_STEPS.items():
            self.wrap(reconciler, "_query_orders", "", name, partial(_is_step, step))
        self.wrap(
            journal,
            "record_orders",
            "",
            "found orders recorded",
            lambda _: "_record_found_orders" in self._active_calls,
        )
        self.wrap(
            journal, "record_orders", "", "order updated", lambda _: "_record_found_orders" not in self._active_calls
        )
        self.wrap(
            journal,
            "set_complete_until",
            "",
            "history complete",
            lambda *_: "_record_found_orders" in self._active_calls,
        )
        self.wrap(reconciler, "_record_found_orders")
        self.wrap(journal, "add_fills", "fills read", "fills recorded", bool)
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
        """Handle an SQL statement before it runs."""
        if statement == "COMMIT":
            for name in self._active_calls:
                self.kill_if_reached(_COMMIT_STEPS.get(name, ""))
            if "_record_found_orders" in self._active_calls and "record_orders" in self._active_calls:
                self.kill_if_reached("found orders being recorded")

    def _hook_http(self) -> None:
        send, parse_head = http_connection._send, http_connection._parse_head
        step_prefixes = {"AddOrder": "", "CancelOrder": "cancel "}

        def traced_send(connection: socket.socket, data: bytes, deadline_seconds: float) -> None:
            match = re.match(rb"(?:GET|POST) /0/\w+/(\w+)", data)
            self._http_method = match[1].decode() if match else ""
            head, blank_line, body = data.partition(b"\r\n\r\n")
            for part, step in ((head + blank_line, "half sent"), (body, "sent")):
                send(connection, part, deadline_seconds)
                if self._http_method in step_prefixes:
                    self.kill_if_reached(step_prefixes[self._http_method] + step)

        def traced_parse_head(stream: http_connection._AnswerStream, method: str) -> HTTPResponse:
            if self._http_method in step_prefixes:
                # Killed before it reads the response.
                select.select([stream._socket], [], [], 10.0)
                self.kill_if_reached(step_prefixes[self._http_method] + "response received")
            return parse_head(stream, method)

        http_connection._send = traced_send
        http_connection._parse_head = traced_parse_head


def _is_step(expected: QueryStep, step: QueryStep) -> bool:
    return step is expected


def _has_state(expected: frozenset[OrderState], _: str, state: OrderState, *_more: str) -> bool:
    return state in expected
