"""The status of the running bot as one dictionary for JSON, read from memory and never requested from Kraken."""

from __future__ import annotations

import os
from typing import Any

from bot import __version__, broker_manager
from bot.app.control_files import ENTRIES_PAUSED_FILE_NAME, HALT_FILE_NAME
from bot.app.lifecycle import HANG_TIMEOUT_SECONDS, Lifecycle, LifecycleState
from bot.app.nonce_report import file_store_for_settings
from bot.app.reports import Row, fill_rows, format_exact, order_rows
from bot.base import events, logging_setup, metrics
from bot.base.clock import boottime_seconds, format_utc, nonce_clock, wall_seconds
from bot.base.errors import JournalError
from bot.base.event_catalog import Event
from bot.base.models import Fill
from bot.base.paths import control_file_exists
from bot.base.redaction import redact
from bot.broker_manager import KrakenBroker
from bot.config import Settings
from bot.nonce.file_store import UNITS
from bot.orders.journal import Journal
from bot.trading.snapshot import PairSnapshot, Snapshot
from bot.trading.trader import Trader

EQUITY_CURVE_POINTS_MAX = 300
FILLS_MAX = 20
# For the marks in the charts.
CHART_FILLS_MAX = 200
# A cycle comes every ten seconds; one that has not ended for so long hangs, or waits for Kraken.
READY_CYCLE_AGE_SECONDS_MAX = 60.0

JsonObject = dict[str, Any]


class SnapshotReader:
    """Reads the status. For the thread of the server alone; it reads what the bot's threads write without their
    locks."""

    def __init__(self, settings: Settings, lifecycle: Lifecycle) -> None:
        self._settings = settings
        self._lifecycle = lifecycle
        self._started_seconds = boottime_seconds()
        self._refused_nonces = _DailyCounter()
        self._unsubscribe = events.subscribe(self._refused_nonces.on_event)
        self._journal: Journal | None = None

    def close(self) -> None:
        """Close the reader's own journal connection."""
        self._unsubscribe()
        if self._journal is not None:
            self._journal.close()

    @property
    def last_cycle_age_seconds(self) -> float | None:
        """How long ago the bot's last cycle ended; None before the first one of this run."""
        snapshot = self._latest_snapshot(self._lifecycle.trader)
        return None if snapshot is None else boottime_seconds() - snapshot.boot_seconds

    def status(self) -> tuple[LifecycleState, str, bool]:
        """Return what the bot is doing, why it does not trade, and whether it is ready: its cycles succeed."""
        state, reason = self._lifecycle.status
        trader = self._lifecycle.trader
        if state is LifecycleState.TRADING and trader is not None:
            reason = trader.last_error
        age_seconds = self.last_cycle_age_seconds
        is_ready = (
            state is LifecycleState.TRADING
            and not reason
            and age_seconds is not None
            and age_seconds < READY_CYCLE_AGE_SECONDS_MAX
        )
        return state, reason, is_ready

    def stall_reason(self) -> str:
        """Return why a trading bot is stalled, from the start of its run on, or ""."""
        state, reason, is_ready = self.status()
        if state is not LifecycleState.TRADING or is_ready or reason:
            return reason if state is LifecycleState.TRADING else ""
        age_seconds = self.last_cycle_age_seconds
        if age_seconds is not None:
            return f"its last cycle ended {age_seconds:.0f} s ago"
        # The first cycle may have to wait for orders of an earlier run.
        run_seconds = self._lifecycle.state_age_seconds
        return f"its first cycle has lasted {run_seconds:.0f} s" if run_seconds >= HANG_TIMEOUT_SECONDS else ""

    def read(self) -> JsonObject:
        """Return everything that is known now. An unknown value is None, never 0."""
        lifecycle, settings = self._lifecycle, self._settings
        broker, snapshot = lifecycle.last_broker, self._latest_snapshot(lifecycle.trader)
        state, reason, is_ready = self.status()
        return {
            "version": __version__,
            "pid": os.getpid(),
            "time": format_utc(wall_seconds()),
            "mode": settings.trading_mode,
            "state": str(state),
            "reason": redact(reason),
            "ready": is_ready,
            "bot_id": broker.bot_id if broker else None,
            "strategy": settings.strategy,
            "timeframe": settings.timeframe,
            "price_source": lifecycle.price_source,
            "uptime_seconds": int(boottime_seconds() - self._started_seconds),
            "last_cycle_age_seconds": self.last_cycle_age_seconds,
            "entries": self._entries_state(),
            "account": _account_status(snapshot),
            "balances": _balance_rows(snapshot),
            "limits": _limit_settings(settings),
            "refusals": _refusal_rows(snapshot),
            "nonce": self._nonce_status(broker),
            "lease": self._lease_status(),
            "rate_limits": {"rest": _rest_counter(broker), "matching_engine": broker.engine_levels if broker else {}},
            "log": logging_setup.recent_lines(),
            **self._journal_status(broker, snapshot),
        }

    @staticmethod
    def _latest_snapshot(trader: Trader | None) -> Snapshot | None:
        return trader.snapshot_publisher.latest if trader else None

    def _entries_state(self) -> str:
        folder = self._settings.state_dir
        if self._settings.trading_mode == "halt" or control_file_exists(folder, HALT_FILE_NAME):
            return "halted"
        return "paused" if control_file_exists(folder, ENTRIES_PAUSED_FILE_NAME) else "open"

    def _nonce_status(self, broker: KrakenBroker | None) -> JsonObject:
        unit = UNITS[self._settings.nonce_unit]
        # Not requested from the store, which may be unreachable: the last nonce of this process, or of its file.
        last_nonce = (broker.last_nonce if broker else None) or file_store_for_settings(self._settings).peek()
        open_breaker = broker.breaker_state if broker else None
        shared_store = broker.shared_store if broker else None
        return {
            "last": None if last_nonce is None else str(last_nonce),
            "unit": unit.name,
            "ahead_seconds": None
            if last_nonce is None
            else last_nonce / (1e6 * unit.units_per_microsecond) - nonce_clock.now_us() / 1e6,
            "location": shared_store.location if shared_store else broker_manager.NONCE_FILE,
            "issued": metrics.issued_total(),
            "refused": metrics.refused_total(),
            "refused_today": self._refused_nonces.count(wall_seconds()),
            "request_lock_wait_seconds": metrics.mean_request_lock_wait_seconds(),
            "circuit_breaker": None if broker is None else "open" if open_breaker else "closed",
            "circuit_breaker_reason": redact(open_breaker.reason) if open_breaker else "",
            "circuit_breaker_until": format_utc(open_breaker.until_seconds)
            if open_breaker and open_breaker.until_seconds
            else None,
        }

    def _lease_status(self) -> JsonObject:
        election = self._lifecycle.leadership
        if election is None:
            # A standby by the lock on the state folder, which has no leader.
            role = "standby" if self._lifecycle.status[0] is LifecycleState.STANDBY else "standalone"
            return {"role": role, "leader": None, "fencing_token": None}
        leader, fencing_token = election.leader
        role = "leader" if election.is_leader else "standby"
        return {"role": role, "leader": leader or None, "fencing_token": fencing_token or None}

    def _journal_status(self, broker: KrakenBroker | None, snapshot: Snapshot | None) -> JsonObject:
        empty: JsonObject = {"equity_curve": [], "open_orders": [], "unknown_orders": [], "fills": []}
        if broker is None or not os.path.exists(broker.journal.path):
            # Read only: a standby creates no journal.
            return empty | {"pairs": _pair_statuses(snapshot, [])}
        try:
            journal = self._open_journal(broker.journal.path)
            fills = journal.latest_fills(CHART_FILLS_MAX)
            working, unknown = journal.working_intents(), journal.unresolved_intents()
            equity_points = journal.equity_curve(EQUITY_CURVE_POINTS_MAX)
        except JournalError as error:
            return empty | {"pairs": _pair_statuses(snapshot, []), "journal_problem": redact(str(error))}
        open_orders = snapshot.open_orders if snapshot else ()
        return {
            "equity_curve": [[point.time_seconds, f"{point.value:f}"] for point in equity_points],
            "open_orders": _json_rows(order_rows(working, open_orders, broker.now(), only_open=True)),
            "unknown_orders": _json_rows(order_rows(unknown, [], broker.now(), only_open=True)),
            "fills": _json_rows(fill_rows(fills[:FILLS_MAX])),
            "pairs": _pair_statuses(snapshot, fills),
        }

    def _open_journal(self, path: str) -> Journal:
        # A connection of its own: the bot's is locked while an order is written.
        if self._journal is None or self._journal.path != path:
            if self._journal is not None:
                self._journal.close()
            self._journal = Journal(path)
        return self._journal


class _DailyCounter:
    """Counts the refused nonces of a UTC day."""

    def __init__(self) -> None:
        self._day, self._count = "", 0

    def on_event(self, event: Event, _fields: events.Fields, _text: str) -> None:
        if event is Event.NONCE_REFUSED:
            today = format_utc(wall_seconds())[:10]
            self._day, self._count = today, self._count + 1 if self._day == today else 1

    def count(self, now_seconds: float) -> int:
        return self._count if self._day == format_utc(now_seconds)[:10] else 0


def _account_status(snapshot: Snapshot | None) -> JsonObject | None:
    if snapshot is None:
        return None
    return {
        "quote": snapshot.quote,
        "equity": format_exact(snapshot.equity),
        "realised_pnl": format_exact(snapshot.realised),
        "realised_loss_today": format_exact(snapshot.realised_loss_today),
    }


def _balance_rows(snapshot: Snapshot | None) -> list[JsonObject]:
    balances = (snapshot.balances if snapshot else None) or {}
    return [
        {"asset": balance.asset, "total": format_exact(balance.total), "free": format_exact(balance.free)}
        for balance in balances.values()
        if balance.total
    ]


def _limit_settings(settings: Settings) -> JsonObject:
    return {
        "order_value": format_exact(settings.order_value),
        "max_order_value": format_exact(settings.max_order_value),
        "max_position_value": format_exact(settings.max_position_value),
        "max_daily_loss": format_exact(settings.max_daily_loss),
        "cooldown_seconds": settings.cooldown_seconds,
        "max_slippage_percent": format_exact(settings.max_slippage_percent),
        "stop_loss_percent": format_exact(settings.stop_loss_percent),
    }


def _refusal_rows(snapshot: Snapshot | None) -> list[JsonObject]:
    return [
        {
            "time": format_utc(time_seconds),
            "pair": refusal.order.symbol,
            "kind": refusal.order.kind,
            "rule": refusal.rule,
            "reason": refusal.reason,
        }
        for time_seconds, refusal in reversed(snapshot.refusals if snapshot else ())
    ]


def _rest_counter(broker: KrakenBroker | None) -> JsonObject | None:
    if broker is None:
        return None
    level, maximum = broker.rest_level
    return {"level": round(level, 2), "maximum": maximum}


def _pair_statuses(snapshot: Snapshot | None, fills: list[Fill]) -> list[JsonObject]:
    return [
        _pair_status(pair, [fill for fill in fills if fill.symbol == pair.symbol])
        for pair in (snapshot.pairs if snapshot else ())
    ]


def _pair_status(pair: PairSnapshot, fills: list[Fill]) -> JsonObject:
    candles, position = pair.candles, pair.holding
    first_candle_seconds = candles[0].time_seconds if candles else 0
    return {
        "symbol": pair.symbol,
        "price": format_exact(candles[-1].close) if candles else None,
        "quantity": format_exact(position.quantity),
        "average_entry": format_exact(position.average_price) if position.quantity else None,
        "candles": [
            [candle.time_seconds, f"{candle.open:f}", f"{candle.high:f}", f"{candle.low:f}", f"{candle.close:f}"]
            for candle in candles
        ],
        "fills": [
            {
                "time_seconds": fill.time_seconds,
                "side": str(fill.side),
                "price": format_exact(fill.price),
                "volume": format_exact(fill.volume),
            }
            for fill in fills
            if fill.time_seconds >= first_candle_seconds
        ],
    } | ({"balance_problem": pair.balance_problem} if pair.balance_problem else {})


def _json_rows(rows: list[Row]) -> list[JsonObject]:
    # The reason why an order ended may be text from Kraken.
    return [
        {
            name: redact(value) if name == "reason" and isinstance(value, str) else format_exact(value)
            for name, value in row.items()
        }
        for row in rows
    ]
