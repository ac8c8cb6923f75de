"""An hour of a bot with several pairs on one key, on a clock that moves only by waits and by requests."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

from bot.base.clock import ReplayClock
from bot.base.event_catalog import Event
from bot.base.models import OrderRequest, Side
from bot.broker_manager import KrakenBroker
from bot.kraken.rate_counters import TIERS, rest_points
from bot.nonce.file_store import MICROSECONDS
from bot.simulator.instruments import KNOWN_PAIRS, AssetRules, Instruments, PairRules
from bot.simulator.options import SimulatorOptions
from bot.simulator.prices import SyntheticPrices
from bot.simulator.server import Simulator
from bot.trading.risk import Controls
from bot.trading.strategies.base import StrategyContext, buy_price, entry_quantity
from bot.trading.trader import Trader, TraderSettings
from tests.event_log import EventLog, capture_events
from tests.trading_fakes import WIDE_LIMITS, InstantEvent

COINS = ("AAA", "BBB", "CCC", "DDD", "EEE", "FFF", "GGG", "HHH", "III", "JJJ")
START = 1_790_000_040 // 60 * 60
HOUR = 3600.0
YEAR_SECONDS = 365 * 86_400
REQUEST_SECONDS = 0.15
# The transport gives up after so long.
LOST_REQUEST_SECONDS = 10.0
CYCLE_SECONDS = 6 * 60
# The close of the candle whose signal is the exit.
EXIT_OFFSET_SECONDS = 4 * 60


def make_instruments(pair_count: int) -> Instruments:
    """Return so many pairs with the rules of SOL/USD."""
    return Instruments(_rename(KNOWN_PAIRS["SOL/USD"], coin) for coin in COINS[:pair_count])


def _rename(pair: PairRules, coin: str) -> PairRules:
    name = f"{coin}/USD"
    return replace(
        pair,
        symbol=name,
        pair_id=f"{coin}USD",
        altname=f"{coin}USD",
        wsname=name,
        base=AssetRules(coin, coin, 10, 5),
    )


class StandingClock(ReplayClock):
    """A market clock that stands still until somebody waits, and counts as live. The market ends at `end_seconds`."""

    def __init__(self, start_seconds: float, end_seconds: float) -> None:
        super().__init__(start_seconds, start_seconds + YEAR_SECONDS)
        self._market_end_seconds = end_seconds

    @property
    def has_ended(self) -> bool:
        return self.now() >= self._market_end_seconds

    @property
    def is_replaying(self) -> bool:
        return False

    @property
    def is_catching_up(self) -> bool:
        return False

    def advance(self, seconds: float) -> None:
        """Let this much time pass."""
        assert self._replay_seconds is not None
        self._replay_seconds += seconds


class InAndOut:
    """A strategy that buys every pair in the same candle, and sells every pair three candles later."""

    name = "in_and_out"

    def decide(self, context: StrategyContext) -> list[OrderRequest]:
        """Return the entry or the exit."""
        candle, symbol = context.candles[-1], context.pair.symbol
        phase = candle.time_seconds % CYCLE_SECONDS // 60
        if context.position_quantity and phase >= 3:
            return [OrderRequest(symbol, Side.SELL, context.position_quantity, None, "exit", candle.time_seconds, "up")]
        if phase == 0 and not context.position_quantity and not context.has_open_entry:
            price = buy_price(context.pair, candle.close * Decimal("1.001"))
            quantity = entry_quantity(context, price)
            return [OrderRequest(symbol, Side.BUY, quantity, price, "entry", candle.time_seconds, "now")]
        return []


@dataclass(frozen=True)
class Hour:
    """What an hour gave. `reads` counts the private calls by method, `points` sums what they add to the counter."""

    reads: Counter[str]
    cycle_count: int
    pair_count: int
    stale_refusals: list[str]
    exit_delays_seconds: list[float]
    resolved_after_seconds: list[float]
    events: EventLog

    @property
    def points(self) -> int:
        """The points that the reads added to the REST counter."""
        return sum(rest_points(method) * count for method, count in self.reads.items())

    def describe(self) -> str:
        """Return one line."""
        count = sum(self.reads.values())
        longest_exit = max(self.exit_delays_seconds, default=0.0)
        return (
            f"{self.pair_count} pairs: {count} private reads ({self.points} points) in {self.cycle_count} cycles, "
            f"{count / self.cycle_count / self.pair_count:.2f} per cycle and pair; {len(self.stale_refusals)} refusals "
            f"for a stale status; {len(self.exit_delays_seconds)} exits, the latest {longest_exit:.0f} s after its "
            f"signal; unknown orders resolved after {[round(one) for one in self.resolved_after_seconds]} s; "
            f"{dict(self.reads)}"
        )


def run_hour(
    tier: str, pair_count: int, *, timeframe: str = "1m", lost_orders: tuple[int, ...] = (), hours: float = 1.0
) -> Hour:
    """Trade for an hour; the AddOrders of these numbers get no answer."""
    clock = StandingClock(START + 1.0, START + hours * HOUR)
    instruments = make_instruments(pair_count)
    pairs = tuple(pair.symbol for pair in instruments.pairs)
    options = SimulatorOptions(balances={"ZUSD": "100000"}, tier=tier)
    reads: Counter[str] = Counter()
    resolved: list[float] = []
    exit_delays: list[float] = []
    order_count = 0
    with Simulator(options, clock, SyntheticPrices(), instruments) as simulator, capture_events() as log:
        broker = KrakenBroker(
            simulator.key,
            simulator.secret,
            api_url=simulator.url,
            tier=TIERS[tier],
            market_clock=clock,
            bot_id="bot01",
            nonce_unit=MICROSECONDS.name,
        )
        sent_at: dict[str, float] = {}
        private, public = broker.api.send_private, broker.api.query_public

        def send_private(method: str, params: Mapping[str, Any], nonce: int | str) -> Any:
            nonlocal order_count
            clock.advance(REQUEST_SECONDS)
            if method not in ("AddOrder", "CancelOrder"):
                reads[method] += 1
            if method == "AddOrder":
                order_count += 1
                if params["type"] == "sell" and params["ordertype"] == "limit":
                    exit_delays.append((clock.now() - EXIT_OFFSET_SECONDS) % CYCLE_SECONDS)
                if order_count in lost_orders:
                    sent_at[params["cl_ord_id"]] = clock.now()
                    simulator.faults.fire_next("refuse_502", "AddOrder")
                    try:
                        return private(method, params, nonce)
                    finally:
                        clock.advance(LOST_REQUEST_SECONDS)
            return private(method, params, nonce)

        def query_public(method: str, params: dict[str, Any] | None = None, timeout: Any = None) -> Any:
            clock.advance(REQUEST_SECONDS)
            return public(method, params)

        broker.api.send_private = send_private  # type: ignore[method-assign]
        broker.api.query_public = query_public  # type: ignore[method-assign,assignment]
        trader = Trader(
            broker,
            InAndOut(),
            TraderSettings(
                pairs,
                timeframe,
                Decimal(500),
                replace(WIDE_LIMITS, max_daily_loss=Decimal(10**6), max_position_value=Decimal(10**4)),
                stop_loss_percent=Decimal(5),
            ),
            clock=clock,
            stop=InstantEvent(),
            controls=Controls(lambda: False, lambda: False, lambda: None),
        )
        reconcile = broker.reconcile_unknown_orders

        def note_resolutions() -> Any:
            resolutions = reconcile()
            resolved.extend(clock.now() - sent_at[one.unknown_order.cl_ord_id] for one in resolutions)
            return resolutions

        broker.reconcile_unknown_orders = note_resolutions  # type: ignore[method-assign]
        try:
            broker.connect()
            summary = trader.run()
        finally:
            broker.close()
        assert summary.error is None, summary.error
        refusals = log.of(Event.ORDER_REFUSED_BY_RISK, Event.STOP_REFUSED_BY_RISK).values("reason")
    return Hour(
        reads,
        summary.cycles,
        pair_count,
        [reason for reason in refusals if "the system status is" in reason],
        exit_delays,
        resolved,
        log,
    )
