"""main.py passes each setting to the component that uses it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from decimal import Decimal

import pytest

from bot.app.lifecycle import Lifecycle
from bot.app.session import open_trader
from bot.app.venue import TradingVenue, open_broker, open_live_broker, overlap_seconds
from bot.base.clock import MarketClock, ReplayClock
from bot.base.errors import OrderRuleError, SettingsError
from bot.broker_manager import KrakenBroker
from bot.config import Settings, load_settings
from bot.simulator.instruments import AssetRules, Instruments, PairRules
from bot.simulator.keys import TRADING_PERMISSIONS
from bot.simulator.options import SimulatorOptions
from bot.simulator.server import Simulator
from bot.trading.risk import RiskLimits
from bot.trading.trader import TraderSettings
from tests.acceptance.broker_tools import auto_advance_clock
from tests.simulator_parts import START, ScriptedPrices

pytestmark = pytest.mark.usefixtures("nonce_file")

PROXY = "http://127.0.0.1:3128"


@pytest.fixture
def simulator() -> Iterator[Simulator]:
    """Open a local Kraken whose market stands still."""
    with Simulator(SimulatorOptions(), auto_advance_clock()) as simulator:
        yield simulator


def settings_for(simulator: Simulator, **extra_settings: str) -> Settings:
    """Return the settings of a live bot on the simulator; its key may withdraw."""
    key, secret = simulator.add_key((*TRADING_PERMISSIONS, "withdraw-funds"))
    base_settings = {
        "TRADING_MODE": "live",
        "KRAKEN_API_URL": simulator.url,
        "KRAKEN_API_KEY": key,
        "KRAKEN_API_SECRET": secret,
        "ALLOW_WITHDRAW_KEY": "1",
    }
    return load_settings(base_settings | extra_settings)


def broker_for(simulator: Simulator, **extra_settings: str) -> KrakenBroker:
    """Return the broker that py opens for the settings, connected."""
    broker = open_live_broker(settings_for(simulator, **extra_settings), simulator.clock)
    broker.connect()
    return broker


def test_a_key_that_may_withdraw_connects_when_allowed(simulator: Simulator) -> None:
    """ALLOW_WITHDRAW_KEY=1 reaches the broker."""
    broker = broker_for(simulator)
    assert broker.key_info is not None
    assert "withdraw-funds" in broker.key_info.permissions


def test_the_nonce_unit_reaches_the_broker(simulator: Simulator) -> None:
    """With NONCE_UNIT=ns all nonces that arrive have 19 digits."""
    broker_for(simulator, NONCE_UNIT="ns")
    assert {len(request.nonce) for request in simulator.request_log} == {19}


def test_the_bot_id_reaches_the_orders(simulator: Simulator) -> None:
    """With BOT_ID=abcde a client order id begins with it."""
    broker = broker_for(simulator, BOT_ID="abcde")
    assert broker.place_limit_order("BTC/USD", "buy", Decimal("0.001"), Decimal(1000)).cl_ord_id.startswith("abcde")


def test_max_order_value_reaches_the_broker(simulator: Simulator) -> None:
    """With MAX_ORDER_VALUE=120 an order of 120 is placed and one of 121 is not."""
    broker = broker_for(simulator, MAX_ORDER_VALUE="120")
    broker.place_limit_order("BTC/USD", "buy", Decimal("0.12"), Decimal(1000))
    with pytest.raises(OrderRuleError, match="MAX_ORDER_VALUE"):
        broker.place_limit_order("BTC/USD", "buy", Decimal("0.121"), Decimal(1000))


def test_max_slippage_reaches_the_orders(simulator: Simulator) -> None:
    """With MAX_SLIPPAGE_PERCENT=3 a market buy is limited to three percent above the current price."""
    broker = broker_for(simulator, MAX_SLIPPAGE_PERCENT="3")
    placed = broker.place_market_order("BTC/USD", "buy", Decimal("0.001"), "base")
    assert abs(placed.price - broker.get_current_price("BTC/USD") * Decimal("1.03")) <= Decimal("0.1")


@pytest.mark.parametrize(("tier", "waits"), [("starter", True), ("pro", False)])
def test_the_tier_reaches_the_rate_counters(simulator: Simulator, tier: str, waits: bool) -> None:
    """After connect() fourteen more reads wait on the starter tier, and do not on the pro tier."""
    broker = broker_for(simulator, KRAKEN_TIER=tier)
    before = simulator.clock.now()
    for _ in range(14):
        broker.private_call("BalanceEx")
    assert (simulator.clock.now() > before) is waits


def test_the_proxy_is_for_kraken_alone(simulator: Simulator) -> None:
    """KRAKEN_PROXY is used for KRAKEN_API_URL, and not for the local Kraken of a paper account."""
    settings = settings_for(simulator, KRAKEN_PROXY=PROXY)
    live_broker = open_live_broker(settings, MarketClock())
    assert live_broker.api._proxy == settings.proxy
    paper_broker = open_broker(settings, simulator.key, simulator.secret, "http://127.0.0.1:9", MarketClock())
    assert not paper_broker.api._proxy


def test_limits_and_sizes_reach_the_trader(simulator: Simulator) -> None:
    """Every limit and size of the settings reaches its own field of the trader's settings."""
    settings = settings_for(
        simulator,
        PAIRS="XBTUSD,ETH/USD",
        TIMEFRAME="5m",
        ORDER_VALUE="11",
        MAX_ORDER_VALUE="12",
        MAX_POSITION_VALUE="13",
        MAX_DAILY_LOSS="14",
        COOLDOWN_SECONDS="15",
        ENTRY_TTL_SECONDS="160",
        CANCEL_ENTRIES_ON_STOP="0",
        DEAD_MAN_SWITCH_SECONDS="61",
    )
    venue = TradingVenue(open_live_broker(settings, simulator.clock), simulator.clock, "")
    assert open_trader(settings, venue, Lifecycle(), 17)._settings == TraderSettings(
        symbols=("BTC/USD", "ETH/USD"),
        timeframe="5m",
        order_value=Decimal(11),
        limits=RiskLimits(
            max_order_value=Decimal(12),
            max_position_value=Decimal(13),
            max_daily_loss=Decimal(14),
            cooldown_seconds=15.0,
        ),
        entry_ttl_seconds=160,
        cancel_entries_on_stop=False,
        dead_man_switch_seconds=61,
        max_cycles=17,
    )


@pytest.mark.parametrize(
    ("extra_settings", "seconds"),
    [
        ({}, 120.0),
        ({"SKIP_OVERLAP_WAIT": "1"}, 0.0),
        ({"TRADING_MODE": "halt"}, 0.0),
        ({"TRADING_MODE": "paper"}, 0.0),
    ],
)
def test_only_a_live_bot_waits_for_an_overlapping_instance(extra_settings: dict[str, str], seconds: float) -> None:
    """Only a live bot waits for an instance elsewhere, unless the settings say that there is none."""
    live_settings = {"TRADING_MODE": "live", "KRAKEN_API_KEY": "key", "KRAKEN_API_SECRET": "c2VjcmV0"}
    assert overlap_seconds(load_settings(live_settings | extra_settings)) == seconds


def test_a_quote_currency_that_is_not_money_needs_its_own_sizes() -> None:
    """With PAIRS=ETH/BTC and the default sizes no trader is opened; with sizes of its own it is."""
    ether, bitcoin = AssetRules("XETH", "ETH", 10, 5), AssetRules("XXBT", "XBT", 10, 5)
    minima = Decimal("0.00001"), Decimal("0.001"), Decimal("0.00002")
    pair = PairRules("ETH/BTC", "XETHXXBT", "ETHXBT", "ETH/XBT", ether, bitcoin, 5, *minima)
    sizes = {"ORDER_VALUE": "0.001", "MAX_ORDER_VALUE": "0.002", "MAX_POSITION_VALUE": "0.01", "MAX_DAILY_LOSS": "0.01"}
    prices, clock = ScriptedPrices((0, "0.05")), ReplayClock(START, START + 1000)
    options = SimulatorOptions(balances={"XXBT": "0.5"})
    with Simulator(options, clock, prices, Instruments([pair])) as simulator:
        for extra_settings in (sizes, {}):
            settings = settings_for(simulator, PAIRS="ETH/BTC", **extra_settings)
            with closing(open_live_broker(settings, clock)) as broker:
                venue = TradingVenue(broker, clock, "")
                if extra_settings:
                    open_trader(settings, venue, Lifecycle(), 1)
                else:
                    with pytest.raises(SettingsError, match="priced in BTC"):
                        open_trader(settings, venue, Lifecycle(), 1)
