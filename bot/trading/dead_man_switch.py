"""The dead man's switch: Kraken cancels every order of the account when the bot has not renewed it in time.

It is one timer for the whole account (Kraken: CancelAllOrdersAfter page). It cancels all orders, whoever placed them
and whatever they protect; so it is armed only while nothing but this bot's entries and exits is open. An order that
somebody places between two reads of the open orders is canceled with the others.
"""

from __future__ import annotations

import math

from bot.base.errors import BotError
from bot.base.event_catalog import Event
from bot.trading.broker import Broker
from bot.trading.decision_log import DecisionLog

# Kraken advises every 15 to 30 s for a time-out of 60 s, so that an answer may fail.
REARMS_PER_TIMEOUT = 3
_PROTECTIVE_KINDS = ("stop", "take-profit")
_TOPIC = "dead man's switch"


class DeadManSwitch:
    """Arms the switch repeatedly while that is safe, and disarms it when it is not.

    With `timeout_seconds` 0 it is off, and nothing is ever sent. `due_seconds` is the time at which `refresh` has
    something to do, in Unix seconds of the market.
    """

    def __init__(self, broker: Broker, timeout_seconds: int, decision_log: DecisionLog) -> None:
        self._broker = broker
        self._timeout_seconds = timeout_seconds
        self._decision_log = decision_log
        self._is_previous_disarmed = False
        self._may_be_armed = False
        self._is_stopped = False
        self.due_seconds = -math.inf if timeout_seconds else math.inf

    def disarm_previous(self) -> None:
        """Disarm it, once: an earlier run may have left it armed. Raises BotError; then `refresh` disarms it."""
        if self._timeout_seconds and not self._is_previous_disarmed:
            self._disarm()
            self._is_previous_disarmed = True

    def refresh(self, blocked_reason: str) -> None:
        """If it is due, read all open orders of the account, and arm or disarm.

        `blocked_reason` says why the bot opens nothing now (the status, a halt), or is empty; an armed switch is then
        disarmed at once. Raises BotError, and is then due again.
        """
        now = self._broker.now()
        if now < self.due_seconds and not (blocked_reason and self._may_be_armed):
            return
        self.disarm_previous()
        reason = blocked_reason or self._reason_not_to_arm()
        if reason:
            if self._may_be_armed:
                self._disarm()
            self._decision_log.record_once(_TOPIC, reason, Event.DEAD_MAN_SWITCH_DISARMED, reason=reason)
        elif not self._is_stopped:
            self._arm()
        self.due_seconds = now + self._timeout_seconds / REARMS_PER_TIMEOUT

    def stop(self) -> None:
        """Disarm it for the end of a run; also from another thread, while `refresh` hangs in a call."""
        if not self._timeout_seconds:
            return
        self._is_stopped = True
        try:
            self._disarm()
        except BotError as problem:
            self._decision_log.record(
                Event.DEAD_MAN_SWITCH_DISARM_FAILED, error=problem, timeout_seconds=self._timeout_seconds
            )

    def _reason_not_to_arm(self) -> str:
        """Return the open order that must not be canceled, as a reason; empty if there is none."""
        for order in self._broker.get_open_orders():
            description = f"{order.symbol} {order.kind} {order.txid}"
            if not self._broker.is_own_order(order):
                return f"it would cancel the order of another sender ({description})"
            if any(kind in order.kind for kind in _PROTECTIVE_KINDS):
                return f"it would cancel what protects a position ({description})"
        return ""

    def _arm(self) -> None:
        # Set before the answer, which may be lost.
        self._may_be_armed = True
        self._broker.arm_dead_man_switch(self._timeout_seconds)
        self._decision_log.record_once(
            _TOPIC, "armed", Event.DEAD_MAN_SWITCH_ARMED, timeout_seconds=self._timeout_seconds
        )

    def _disarm(self) -> None:
        self._broker.arm_dead_man_switch(0)
        self._may_be_armed = False
