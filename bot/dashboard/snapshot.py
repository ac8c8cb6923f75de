"""What the page tells, as one dictionary that is JSON: read off the running bot, and never asked for at Kraken."""

from __future__ import annotations

import os
from decimal import Decimal
from typing import Any

from bot import __version__, broker_manager
from bot.app.lifecycle import Runner, State
from bot.app.nonce_report import file_of
from bot.app.reports import fill_rows, order_rows
from bot.app.session import ENTRIES_STOPPED, HALT
from bot.app.table import Row, exact
from bot.base import events, logging_setup, metrics
from bot.base.clock import boottime_seconds, nonce_clock, utc, wall_seconds
from bot.base.errors import JournalError
from bot.base.models import Fill
from bot.base.redaction import redact
from bot.broker_manager import KrakenBroker
from bot.config import Settings
from bot.nonce.file_store import UNITS
from bot.orders.journal import Journal
from bot.trading.snapshot import Observation, PairView
from bot.trading.trader import Trader

CURVE_POINTS = 300
FILLS_SHOWN = 20
# For the marks in the charts.
FILLS_READ = 200
# A pass comes every ten seconds; what has not ended for so long hangs, or waits for Kraken.
FRESH_SECONDS = 60.0

Facts = dict[str, Any]


class Reader:
    """Reads the facts. For the thread of the server alone; what the bot's threads write is read without their locks."""

    def __init__(self, settings: Settings, runner: Runner) -> None:
        self._settings = settings
        self._runner = runner
        self._began_seconds = boottime_seconds()
        self._refused = _Today()
        self._stop_counting = events.listen(self._refused.hear)
        self._journal: Journal | None = None

    def close(self) -> None:
        """Close what was opened."""
        self._stop_counting()
        if self._journal is not None:
            self._journal.close()

    @property
    def alive_seconds(self) -> float | None:
        """How long ago the bot's last pass ended; None where there was none yet in this run."""
        seen = self._seen(self._runner.trader)
        return None if seen is None else boottime_seconds() - seen.boot_seconds

    def standing(self) -> tuple[State, str, bool]:
        """Return what the bot is doing, why it does not trade, and whether it is ready: its passes go through."""
        state, reason = self._runner.standing
        trader = self._runner.trader
        if state is State.TRADING and trader is not None:
            reason = trader.trouble
        age_seconds = self.alive_seconds
        ready = state is State.TRADING and not reason and age_seconds is not None and age_seconds < FRESH_SECONDS
        return state, reason, ready

    def stuck(self) -> str:
        """Return why a bot that has begun to trade does not get through, or ""."""
        state, reason, ready = self.standing()
        if state is not State.TRADING or ready or self.alive_seconds is None:
            return ""
        return reason or f"its last pass ended {self.alive_seconds:.0f} s ago"

    def read(self) -> Facts:
        """Return everything that is known now. A value that is not known is None, never 0."""
        runner, settings = self._runner, self._settings
        broker, seen = runner.last_broker, self._seen(runner.trader)
        state, reason, ready = self.standing()
        return {
            "version": __version__,
            "pid": os.getpid(),
            "time": utc(wall_seconds()),
            "mode": settings.trading_mode,
            "state": str(state),
            "reason": redact(reason),
            "ready": ready,
            "bot_id": broker.bot_id if broker else None,
            "strategy": settings.strategy,
            "timeframe": settings.timeframe,
            "prices": runner.prices,
            "uptime_seconds": int(boottime_seconds() - self._began_seconds),
            "last_tick_seconds": self.alive_seconds,
            "entries": self._entries(),
            "account": _account(seen),
            "balances": _balances(seen),
            "limits": _limits(settings),
            "refusals": _refusals(seen),
            "nonce": self._nonce(broker),
            "lease": self._lease(),
            "rate_limits": {"rest": _rest(broker), "engine": broker.engine_levels if broker else {}},
            "log": logging_setup.recent(),
            **self._from_journal(broker, seen),
        }

    @staticmethod
    def _seen(trader: Trader | None) -> Observation | None:
        return trader.observer.latest if trader else None

    def _entries(self) -> str:
        folder = self._settings.state_dir
        if self._settings.trading_mode == "halt" or (folder / HALT).exists():
            return "halted"
        return "stopped" if (folder / ENTRIES_STOPPED).exists() else "open"

    def _nonce(self, broker: KrakenBroker | None) -> Facts:
        unit = UNITS[self._settings.nonce_unit]
        # Not asked for in the store, which may be away: what this process has drawn, or its file holds.
        last = (broker.last_nonce if broker else None) or file_of(self._settings).peek()
        silence = broker.silence if broker else None
        return {
            "last": None if last is None else str(last),
            "unit": unit.name,
            "lead_seconds": None if last is None else last / (1e6 * unit.ticks) - nonce_clock.now_us() / 1e6,
            "place": _place(broker),
            "issued": metrics.issued(),
            "refused": metrics.refused(),
            "refused_today": self._refused.count(wall_seconds()),
            "turn_wait_seconds": metrics.turn_wait_mean_seconds(),
            "breaker": None if broker is None else "open" if silence else "closed",
            "breaker_reason": redact(silence.reason) if silence else "",
            "breaker_until": utc(silence.until_seconds) if silence and silence.until_seconds else None,
        }

    def _lease(self) -> Facts:
        leadership = self._runner.leadership
        if leadership is None:
            # By the lock on the state folder, which knows of no leader.
            role = "standby" if self._runner.standing[0] is State.STANDBY else "alone"
            return {"role": role, "leader": None, "generation": None}
        leader, generation = leadership.leader
        role = "leader" if leadership.leads else "standby"
        return {"role": role, "leader": leader or None, "generation": generation or None}

    def _from_journal(self, broker: KrakenBroker | None, seen: Observation | None) -> Facts:
        nothing: Facts = {"equity_curve": [], "open_orders": [], "unknown_orders": [], "fills": []}
        if broker is None or not os.path.exists(broker.journal.path):
            # Read only: whoever stands by begins no journal.
            return nothing | {"pairs": _pairs(seen, [])}
        try:
            journal = self._opened(broker.journal.path)
            fills = journal.latest_fills(FILLS_READ)
            working, unsettled = journal.working(), journal.unsettled()
            curve = journal.equity_curve(CURVE_POINTS)
        except JournalError as error:
            return nothing | {"pairs": _pairs(seen, []), "journal_problem": redact(str(error))}
        rows = seen.open_orders if seen else ()
        return {
            "equity_curve": [[point.time_seconds, f"{point.value:f}"] for point in curve],
            "open_orders": _exact_rows(order_rows(working, rows, broker.now(), only_open=True)),
            "unknown_orders": _exact_rows(order_rows(unsettled, [], broker.now(), only_open=True)),
            "fills": _exact_rows(fill_rows(fills[:FILLS_SHOWN])),
            "pairs": _pairs(seen, fills),
        }

    def _opened(self, path: str) -> Journal:
        # A connection of its own: the bot's is locked while an order is written down.
        if self._journal is None or self._journal.path != path:
            if self._journal is not None:
                self._journal.close()
            self._journal = Journal(path)
        return self._journal


class _Today:
    """Counts the refused nonces of a day, UTC."""

    def __init__(self) -> None:
        self._day, self._count = "", 0

    def hear(self, event: events.Event, _text: str) -> None:
        if event is events.Event.REFUSED_NONCE:
            today = utc(wall_seconds())[:10]
            self._day, self._count = today, self._count + 1 if self._day == today else 1

    def count(self, now_seconds: float) -> int:
        return self._count if self._day == utc(now_seconds)[:10] else 0


def _place(broker: KrakenBroker | None) -> str:
    store = broker.shared_store if broker else None
    return store.place if store else broker_manager.NONCE_FILE


def _account(seen: Observation | None) -> Facts | None:
    if seen is None:
        return None
    return {
        "quote": seen.quote,
        "equity": _text(seen.equity),
        "realised": _text(seen.realised),
        "day_loss": _text(seen.day_loss),
    }


def _balances(seen: Observation | None) -> list[Facts]:
    held = (seen.balances if seen else None) or {}
    return [
        {"asset": one.asset, "total": _text(one.total), "free": _text(one.free)} for one in held.values() if one.total
    ]


def _limits(settings: Settings) -> Facts:
    return {
        "order_value": _text(settings.order_value),
        "max_order_value": _text(settings.max_order_value),
        "max_position_value": _text(settings.max_position_value),
        "max_daily_loss": _text(settings.max_daily_loss),
        "loss_pause_seconds": settings.loss_pause_seconds,
        "market_collar_percent": _text(settings.market_collar_percent),
        "stop_percent": _text(settings.stop_percent),
    }


def _refusals(seen: Observation | None) -> list[Facts]:
    return [
        {
            "time": utc(time_seconds),
            "pair": refusal.order.symbol,
            "kind": refusal.order.kind,
            "rule": refusal.rule,
            "reason": refusal.reason,
        }
        for time_seconds, refusal in reversed(seen.refusals if seen else ())
    ]


def _rest(broker: KrakenBroker | None) -> Facts | None:
    if broker is None:
        return None
    level, maximum = broker.rest_level
    return {"level": round(level, 2), "maximum": maximum}


def _pairs(seen: Observation | None, fills: list[Fill]) -> list[Facts]:
    return [
        _pair(view, [fill for fill in fills if fill.symbol == view.symbol]) for view in (seen.pairs if seen else ())
    ]


def _pair(view: PairView, fills: list[Fill]) -> Facts:
    candles, holding = view.candles, view.holding
    since = candles[0].time_seconds if candles else 0
    return {
        "symbol": view.symbol,
        "price": _text(candles[-1].close) if candles else None,
        "quantity": _text(holding.quantity),
        "average_price": _text(holding.average_price) if holding.quantity else None,
        "candles": [
            [one.time_seconds, f"{one.open:f}", f"{one.high:f}", f"{one.low:f}", f"{one.close:f}"] for one in candles
        ],
        "fills": [
            {
                "time_seconds": fill.time_seconds,
                "side": str(fill.side),
                "price": _text(fill.price),
                "volume": _text(fill.volume),
            }
            for fill in fills
            if fill.time_seconds >= since
        ],
    }


def _exact_rows(rows: list[Row]) -> list[Facts]:
    # Why an order ended may be told in somebody else's words.
    reasons = [{"reason": redact(str(row["reason"]))} if row.get("reason") else {} for row in rows]
    return [{name: exact(value) for name, value in row.items()} | own for row, own in zip(rows, reasons, strict=True)]


def _text(value: Decimal | None) -> str | None:
    return None if value is None else f"{value:f}"
