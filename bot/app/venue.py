"""The venue of a run: Kraken, or the local Kraken of a paper account. The code that trades cannot tell which."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bot.base.clock import MarketClock
from bot.base.timeframes import parse_timeframe
from bot.broker_manager import KrakenBroker
from bot.config import Settings
from bot.kraken import responses
from bot.kraken.transport import KrakenAPI

if TYPE_CHECKING:
    from bot.simulator.paper import PaperPreview

# Render keeps the old instance running beside the new one for 60 s, then for up to 30 s more (zero-downtime deploys).
OVERLAP_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class TradingVenue:
    """Where the bot trades: the broker, the market's clock, and what to say of the prices."""

    broker: KrakenBroker
    clock: MarketClock
    price_source: str


@contextlib.contextmanager
def open_venue(settings: Settings) -> Iterator[TradingVenue]:
    """Open the local Kraken or the real one: the code above it cannot tell which."""
    if settings.trading_mode != "paper":
        clock = live_clock(settings)
        yield TradingVenue(open_live_broker(settings, clock), clock, f"live, from {settings.api_url}")
        return
    # Only a paper account needs the simulator, which takes a sixth of a start.
    from bot.simulator.paper import open_paper_account

    timeframe_seconds = parse_timeframe(settings.timeframe)
    with open_paper_account(
        settings.pairs,
        settings.price_source,
        timeframe_seconds,
        settings.state_dir,
        speed=settings.market_speed,
        live_url=settings.api_url,
    ) as paper:
        broker = open_broker(settings, paper.key, paper.secret, paper.url, paper.clock)
        yield TradingVenue(broker, paper.clock, paper.price_source_label)


def preview_paper(settings: Settings) -> PaperPreview:
    """Return what a run on paper would open. Raises the SimulatorError that it would raise."""
    from bot.simulator.paper import preview_paper_account

    return preview_paper_account(
        settings.pairs,
        settings.price_source,
        parse_timeframe(settings.timeframe),
        settings.state_dir,
        settings.market_speed,
        settings.api_url,
    )


def live_clock(settings: Settings) -> MarketClock:
    """Return the wall clock; for a simulator whose market runs faster, a clock as fast, set by its Time."""
    if settings.market_speed == 1:
        return MarketClock()
    return MarketClock(fetch_kraken_time(settings), settings.market_speed)


def fetch_kraken_time(settings: Settings) -> float:
    """Return Kraken's Time in Unix seconds. Raises a TransportError or KrakenError."""
    return fetch_kraken_clocks(settings)[0]


def fetch_kraken_clocks(settings: Settings) -> tuple[float, float | None]:
    """Return Kraken's Time and the HTTP Date of its answer, if it has one, in Unix seconds. Raises a TransportError or
    KrakenError."""
    with contextlib.closing(KrakenAPI("", "", settings.api_url, settings.proxy)) as api:
        return responses.read_time(api.query_public("Time").get("result")), api.response_date()


def open_live_broker(settings: Settings, clock: MarketClock) -> KrakenBroker:
    """Return the broker of the user's own account."""
    return open_broker(settings, settings.api_key, settings.api_secret, settings.api_url, clock)


def open_broker(settings: Settings, key: str, secret: str, url: str, clock: MarketClock) -> KrakenBroker:
    """Return a broker for a key."""
    return KrakenBroker(
        key,
        secret,
        api_url=url,
        proxy=settings.proxy if url == settings.api_url else "",
        bot_id=settings.bot_id,
        nonce_unit=settings.nonce_unit,
        tier=settings.tier,
        max_order_value=settings.max_order_value,
        max_slippage_percent=settings.max_slippage_percent,
        allow_withdraw_key=settings.allow_withdraw_key,
        overlap_seconds=overlap_seconds(settings),
        market_clock=clock,
    )


def overlap_seconds(settings: Settings) -> float:
    """Return for how long another instance, on a disk of its own, may still trade: a platform may start the new one
    before it stops the old one."""
    return 0.0 if settings.skip_overlap_wait or settings.trading_mode != "live" else OVERLAP_SECONDS
