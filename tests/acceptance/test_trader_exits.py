"""A position from entry over stop to exit over real HTTP, with the bot killed at each of its requests."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from bot.base.clock import ReplayClock
from bot.base.models import OrderRequest, Side
from bot.broker_manager import KrakenBroker
from bot.kraken.rate_counters import UNLIMITED
from bot.simulator.instruments import PairRules
from bot.simulator.options import SimulatorOptions
from bot.simulator.prices import SimCandle
from bot.simulator.server import Simulator
from bot.trading.risk import Controls
from bot.trading.strategies.base import StrategyContext
from bot.trading.trader import Trader, TraderSettings
from tests.acceptance.broker_tools import YEARS_SECONDS
from tests.simulator_parts import START, ScriptedPrices
from tests.trading_fakes import WIDE_LIMITS, InstantEvent

pytestmark = pytest.mark.usefixtures("nonce_file")

EXTERNAL_COINS = Decimal(5)
ENTRY_SECONDS = int(START) // 60 * 60 + 60
EXIT_SECONDS = ENTRY_SECONDS + 120
SETTINGS = TraderSettings(
    ("BTC/USD",),
    "1m",
    Decimal(5000),
    replace(WIDE_LIMITS, max_order_value=Decimal(9000), max_position_value=Decimal(9000)),
    max_cycles=60,
    stop_loss_percent=Decimal(10),
)
OPTIONS = SimulatorOptions(
    balances={"ZUSD": "10000", "XXBT": str(EXTERNAL_COINS)}, open_lag_seconds=3.0, closed_lag_seconds=3.0
)
PRICE_PATHS: dict[str, tuple[tuple[float, str], ...]] = {
    "a flat market": ((0.0, "50000"),),
    # The stop fills in the second in which the bot would cancel it, and is in neither order list by then.
    "a fall through the stop": (
        (0.0, "50000"),
        (EXIT_SECONDS + 56 - START, "50000"),
        (EXIT_SECONDS + 66 - START, "40000"),
    ),
    "a fall just after its cancel": (
        (0.0, "50000"),
        (EXIT_SECONDS + 57 - START, "50000"),
        (EXIT_SECONDS + 67 - START, "40000"),
    ),
}


class Killed(BaseException):
    """The end of a bot by a kill."""


class FrozenLiveClock(ReplayClock):
    """A market clock that stands still until a thread waits, and counts as live."""

    @property
    def is_replaying(self) -> bool:
        return False

    @property
    def is_catching_up(self) -> bool:
        return False


class CandlePath(ScriptedPrices):
    """A scripted price path with candles."""

    def candles(self, pair: PairRules, interval: int, first: int, now: float) -> list[SimCandle]:
        """Return candles whose prices are all their closing price."""
        begins = range(max(-(-first // interval), int(START) // interval) * interval, int(now) + 1, interval)
        prices = {begin: self.price(pair, min(begin + interval, now)) for begin in begins}
        return [SimCandle(begin, price, price, price, price, Decimal(1), 1) for begin, price in prices.items()]


class EntryAndExit:
    """A strategy that buys a tenth of a coin in one candle, and exits from a later one on."""

    name = "in_and_out"

    def decide(self, context: StrategyContext) -> list[OrderRequest]:
        """Return the entry or the exit."""
        now, symbol, held_quantity = context.candles[-1].time_seconds, context.pair.symbol, context.position_quantity
        if now >= EXIT_SECONDS:
            return (
                [OrderRequest(symbol, Side.SELL, held_quantity, None, "exit", now, "time is up")]
                if held_quantity
                else []
            )
        if now == ENTRY_SECONDS and not held_quantity and not context.has_open_entry:
            price = Decimal(50_000)
            return [OrderRequest(symbol, Side.BUY, Decimal("0.1"), price + 1, "entry", now, "it is time")]
        return []


def run_bot(simulator: Simulator, clock: FrozenLiveClock, killed_at: int = 0, *, is_delivered: bool = True) -> int:
    """Run a bot for sixty cycles, or up to its n-th request, which is delivered or not; return the request count."""
    request_count = 0
    broker = KrakenBroker(
        simulator.key, simulator.secret, api_url=simulator.url, tier=UNLIMITED, market_clock=clock, bot_id="bot01"
    )
    post = broker.api._private.request

    def post_and_count(*args: Any, **kwargs: Any) -> Any:
        nonlocal request_count
        request_count += 1
        if request_count == killed_at and not is_delivered:
            raise Killed
        response = post(*args, **kwargs)
        if request_count == killed_at:
            raise Killed
        return response

    broker.api._private.request = post_and_count  # type: ignore[method-assign]
    trader = Trader(
        broker,
        EntryAndExit(),
        SETTINGS,
        clock=clock,
        stop=InstantEvent(),
        controls=Controls(lambda: False, lambda: False, lambda: None),
    )
    try:
        broker.connect()
        summary = trader.run()
        assert summary.error is None
    except Killed:
        pass
    finally:
        broker.close()
    return request_count


@contextmanager
def open_market(path: str) -> Iterator[tuple[Simulator, FrozenLiveClock]]:
    """Open a Kraken with a price path, external coins in the account, and a query lag of up to 3 s."""
    clock = FrozenLiveClock(START, START + YEARS_SECONDS)
    with Simulator(OPTIONS, clock, CandlePath(*PRICE_PATHS[path])) as simulator:
        yield simulator, clock


def check_account(simulator: Simulator) -> None:
    """Fail unless the bot has sold exactly what it bought, with one order per id, and no order reserves coins."""
    account = simulator.exchange.account
    orders = list(account.orders.values())
    bought, sold = (sum(order.executed for order in orders if order.side == side) for side in ("buy", "sell"))
    assert bought == sold
    assert account.free_balance("XXBT") == EXTERNAL_COINS
    assert all(len(txids) == 1 for txids in simulator.orders_by_client_id().values())


@pytest.mark.parametrize("path", PRICE_PATHS)
def test_a_position_has_its_stop_until_its_exit(path: str) -> None:
    """The bot places an entry, its stop, and an exit unless the stop has filled; all coins are sold once."""
    with open_market(path) as (simulator, clock):
        run_bot(simulator, clock)
        check_account(simulator)
        orders = list(simulator.exchange.account.orders.values())
        assert [order.kind for order in orders[:2]] == ["limit", "stop-loss"]
        assert len(orders) == (2 if path == "a fall through the stop" else 3)


@pytest.mark.parametrize("disk", ["same disk", "empty disk"])
@pytest.mark.parametrize("path", PRICE_PATHS)
def test_a_bot_killed_at_any_request_sells_its_coins_once(
    path: str, disk: str, nonce_file: Path, full_size: bool
) -> None:
    """Killed before or after the delivery of any request, and restarted with its disk or without, the bot exits the
    position once: no coin is sold twice or left over, and no external coin is sold."""
    with open_market(path) as (simulator, clock):
        requests = run_bot(simulator, clock)
    step = 1 if full_size else 19
    for killed_at in range(1, requests + 1, step):
        for is_delivered in (True, False):
            for path_to_delete in nonce_file.parent.iterdir():
                path_to_delete.unlink()
            with open_market(path) as (simulator, clock):
                run_bot(simulator, clock, killed_at, is_delivered=is_delivered)
                if disk == "empty disk":
                    for path_to_delete in nonce_file.parent.glob("journal*"):
                        path_to_delete.unlink()
                run_bot(simulator, clock)
                try:
                    check_account(simulator)
                except AssertionError as error:
                    raise AssertionError(f"killed at request {killed_at}, delivered: {is_delivered}") from error
