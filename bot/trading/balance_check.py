"""Compares the bot's positions with the coins that the account has."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal

from bot.base.event_catalog import Event
from bot.base.models import ZERO, swept_asset
from bot.kraken.pairs import format_decimal
from bot.trading.broker import Broker
from bot.trading.decision_log import DecisionLog
from bot.trading.executor import Executor

# Kraken may show the coins of a fill, or the fill itself, so much later (Kraken answered so in 2025).
CONFIRM_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class _Amounts:
    """What the bot holds of an asset by its order records, and what the account has of it; `swept` is in the `.F`
    row."""

    held: Decimal
    balance: Decimal
    swept: Decimal

    def problem(self, asset: str, tolerance: Decimal) -> tuple[str, str]:
        """Return the kind of a disagreement and what it means, or two empty texts."""
        swept = f"{format_decimal(self.swept)} {asset} are in {swept_asset(asset)} (auto-earn)"
        if self.balance + self.swept <= self.held - tolerance:
            missing = self.held - self.balance - self.swept
            where = f"; {swept}" if self.swept else ""
            reason = f"{format_decimal(missing)} were sold or moved by somebody else; only what is there is sold{where}"
            return "missing", reason
        if self.balance <= self.held - tolerance:
            return "swept", f"{swept}, and count for an exit; if Kraken refuses it, move them back"
        if self.balance + self.swept >= self.held + tolerance:
            return "surplus", "the others are not this bot's, and it leaves them alone"
        return "", ""


class BalanceCheck:
    """Reports once where position and balance of a pair disagree, in either direction, and when they agree again.

    A disagreement counts once two readings a minute apart show it. `problems` has the current ones by symbol.
    """

    def __init__(self, broker: Broker, executor: Executor, decision_log: DecisionLog) -> None:
        self._broker = broker
        self._executor = executor
        self._decision_log = decision_log
        self._suspected: dict[str, tuple[_Amounts, float]] = {}
        self.problems: dict[str, str] = {}

    def check(self, symbols: Iterable[str]) -> None:
        """Compare the last balances with the positions. Sends no request."""
        for symbol in symbols if self._executor.order_tracker.is_loaded else ():
            self._check_pair(symbol)

    def _check_pair(self, symbol: str) -> None:
        pair = self._broker.pair(symbol)
        holdings = self._executor.order_tracker.book.holdings.values()
        amounts = _Amounts(
            sum((holding.quantity for holding in holdings if holding.symbol.partition("/")[0] == pair.base), ZERO),
            self._executor.last_balance(pair.base).total,
            self._executor.last_balance(swept_asset(pair.base)).total,
        )
        # Less than the pair's minimum cannot be sold anyway.
        kind, reason = amounts.problem(pair.base, max(pair.order_minimum, Decimal(1).scaleb(-pair.lot_decimals)))
        if not kind:
            self._suspected.pop(symbol, None)
            self.problems.pop(symbol, None)
            self._decision_log.record_resolved(f"balance {symbol}", Event.BALANCE_AGREES, symbol=symbol)
        elif self._is_confirmed(symbol, amounts):
            text = (
                f"the bot holds {format_decimal(amounts.held)}, the account has {format_decimal(amounts.balance)}"
                f" {pair.base}: {reason}"
            )
            self.problems[symbol] = text
            self._decision_log.record_once(
                f"balance {symbol}",
                kind,
                Event.BALANCE_DISAGREES,
                symbol=symbol,
                asset=pair.base,
                volume=amounts.held,
                balance=amounts.balance,
                reason=reason,
            )

    def _is_confirmed(self, symbol: str, amounts: _Amounts) -> bool:
        now = self._broker.now()
        suspected_amounts, since_seconds = self._suspected.get(symbol, (None, now))
        if suspected_amounts != amounts:
            self._suspected[symbol] = amounts, now
            return False
        if now - since_seconds < CONFIRM_SECONDS:
            return False
        if self._executor.balances_seconds - since_seconds < CONFIRM_SECONDS:
            # The next cycle reads them again.
            self._executor.invalidate_balances()
            return False
        return True
