"""A whole life of a position over real HTTP, entry, stop and exit, with the bot killed at each of its requests."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from bot.base.clock import ReplayClock
from bot.base.models import Side, WantedOrder
from bot.broker_manager import KrakenBroker
from bot.kraken.rate_counters import UNLIMITED
from bot.simulator.instruments import PairRules
from bot.simulator.options import SimulatorOptions
from bot.simulator.prices import Candle
from bot.simulator.server import Simulator
from bot.trading.controls import Switches
from bot.trading.strategies.base import MarketView
from bot.trading.trader import Trader, TraderSettings
from tests.acceptance.broker_tools import YEARS_SECONDS
from tests.simulator_parts import START, DrawnPrices
from tests.trading_fakes import WIDE, PatientEvent

pytestmark = pytest.mark.usefixtures("nonce_file")

SOMEBODY_ELSES = Decimal(5)
ENTER = int(START) // 60 * 60 + 60
LEAVE = ENTER + 120
SETTINGS = TraderSettings(
    ("BTC/USD",),
    "1m",
    Decimal(5000),
    replace(WIDE, largest_order_value=Decimal(9000), largest_position_value=Decimal(9000)),
    max_ticks=60,
    stop_percent=Decimal(10),
)
OPTIONS = SimulatorOptions(
    balances={"ZUSD": "10000", "XXBT": str(SOMEBODY_ELSES)}, open_lag_seconds=3.0, closed_lag_seconds=3.0
)
PATHS: dict[str, tuple[tuple[float, str], ...]] = {
    "a flat market": ((0.0, "50000"),),
    # It fills in the second in which the bot would cancel it, and is in neither list by then.
    "a fall through the stop": ((0.0, "50000"), (LEAVE + 56 - START, "50000"), (LEAVE + 66 - START, "40000")),
    "a fall just after its cancel": ((0.0, "50000"), (LEAVE + 57 - START, "50000"), (LEAVE + 67 - START, "40000")),
}


class Killed(BaseException):
    """The end of a bot that had no time to say so."""


class Present(ReplayClock):
    """Market time that stands still until somebody waits, and is told as the present."""

    @property
    def replaying(self) -> bool:
        return False

    @property
    def catching_up(self) -> bool:
        return False


class Path60(DrawnPrices):
    """A drawn path with candles."""

    def candles(self, pair: PairRules, interval: int, first: int, now: float) -> list[Candle]:
        """Return candles at the price of their end."""
        begins = range(max(-(-first // interval), int(START) // interval) * interval, int(now) + 1, interval)
        prices = {begin: self.price(pair, min(begin + interval, now)) for begin in begins}
        return [Candle(begin, price, price, price, price, Decimal(1), 1) for begin, price in prices.items()]


class InAndOut:
    """Buys a tenth of a coin in one candle, and wants out from another one on."""

    name = "in_and_out"

    def decide(self, market: MarketView) -> list[WantedOrder]:
        """Return the entry or the exit."""
        now, symbol, held = market.candles[-1].time_seconds, market.pair.symbol, market.position_quantity
        if now >= LEAVE:
            return [WantedOrder(symbol, Side.SELL, held, None, "exit", now, "time is up")] if held else []
        if now == ENTER and not held and not market.has_open_entry:
            price = Decimal(50_000)
            return [WantedOrder(symbol, Side.BUY, Decimal("0.1"), price + 1, "entry", now, "it is time")]
        return []


def one_life(simulator: Simulator, clock: Present, killed_at: int = 0, *, arrives: bool = True) -> int:
    """Run a bot for sixty passes, or until its n-th private request, which arrives or not; return how many it made."""
    made = 0
    broker = KrakenBroker(
        simulator.key, simulator.secret, api_url=simulator.url, tier=UNLIMITED, market=clock, bot_id="bot01"
    )
    post = broker.api.session.post

    def counted(*args: Any, **kwargs: Any) -> Any:
        nonlocal made
        made += 1
        if made == killed_at and not arrives:
            raise Killed
        answer = post(*args, **kwargs)
        if made == killed_at:
            raise Killed
        return answer

    broker.api.session.post = counted
    trader = Trader(
        broker, InAndOut(), SETTINGS, clock=clock, stop=PatientEvent(), report=lambda _line: None, switches=Switches()
    )
    try:
        broker.connect()
        summary = trader.run()
        assert summary.error is None
    except Killed:
        pass
    finally:
        broker.close()
    return made


@contextmanager
def market(path: str) -> Iterator[tuple[Simulator, Present]]:
    """Open a Kraken with a price path, coins of somebody else's in the account, and lists that lag by up to 3 s."""
    clock = Present(START, START + YEARS_SECONDS)
    with Simulator(OPTIONS, clock, Path60(*PATHS[path])) as simulator:
        yield simulator, clock


def check(simulator: Simulator) -> None:
    """What the bot bought it has sold, once, and nothing else; nothing is open."""
    account = simulator.exchange.account
    orders = list(account.orders.values())
    bought, sold = (sum(one.executed for one in orders if one.side == side) for side in ("buy", "sell"))
    assert bought == sold
    assert account.free("XXBT") == SOMEBODY_ELSES
    assert all(len(txids) == 1 for txids in simulator.orders_by_client_id().values())


@pytest.mark.parametrize("path", PATHS)
def test_a_position_has_its_stop_until_it_is_left(path: str) -> None:
    """An entry, the stop ten percent under it, and an exit unless the stop has sold before: all coins are sold once."""
    with market(path) as (simulator, clock):
        one_life(simulator, clock)
        check(simulator)
        orders = list(simulator.exchange.account.orders.values())
        assert [order.kind for order in orders[:2]] == ["limit", "stop-loss"]
        assert len(orders) == (2 if path == "a fall through the stop" else 3)


@pytest.mark.parametrize("disk", ["same disk", "empty disk"])
@pytest.mark.parametrize("path", PATHS)
def test_a_bot_killed_at_any_request_sells_its_coins_once(
    path: str, disk: str, nonce_file: Path, full_size: bool
) -> None:
    """Killed before or after any of its requests arrives, and started again, with its disk or without, the bot leaves
    the same position once: no coin is sold twice, none is left over, none of somebody else's is touched."""
    with market(path) as (simulator, clock):
        requests = one_life(simulator, clock)
    step = 1 if full_size else 19
    for killed_at in range(1, requests + 1, step):
        for arrives in (True, False):
            for old in nonce_file.parent.iterdir():
                old.unlink()
            with market(path) as (simulator, clock):
                one_life(simulator, clock, killed_at, arrives=arrives)
                if disk == "empty disk":
                    for old in nonce_file.parent.glob("journal*"):
                        old.unlink()
                one_life(simulator, clock)
                try:
                    check(simulator)
                except AssertionError as error:
                    raise AssertionError(f"killed at request {killed_at}, arrives {arrives}") from error
