"""Third-party Kraken clients trade on the simulator, unchanged except for the URL."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import ccxt
import krakenex
import pytest

from bot.simulator.options import SimulatorOptions
from bot.simulator.server import Simulator


@pytest.fixture
def simulator() -> Iterator[Simulator]:
    """Open a simulator with synthetic prices."""
    # The nonces of both clients are milliseconds: without latency two consecutive calls may use the same nonce.
    with Simulator(SimulatorOptions(latency_seconds=(0.002, 0.002))) as opened:
        yield opened


def test_krakenex_trades(simulator: Simulator) -> None:
    """Balance, a limit order, its cancel, a market buy, the trade and the closed orders, with krakenex's own nonces."""
    api = krakenex.API(simulator.key, simulator.secret)
    api.uri = simulator.url
    api.session.trust_env = False

    def result(method: str, **params: object) -> Any:
        response = api.query_private(method, params, timeout=5)
        assert response["error"] == []
        return response["result"]

    pairs = api.query_public("AssetPairs", {"pair": "XBTUSD"})["result"]
    last = api.query_public("Ticker", {"pair": "XBTUSD"})["result"]["XXBTZUSD"]["c"][0]
    assert list(pairs) == ["XXBTZUSD"]
    assert float(last) > 0
    assert result("Balance") == {"ZUSD": "10000.0000"}
    buy = {"pair": "XBTUSD", "type": "buy", "volume": "0.001"}
    resting = result("AddOrder", ordertype="limit", price="1000", **buy)["txid"][0]
    assert list(result("OpenOrders")["open"]) == [resting]
    assert result("CancelOrder", txid=resting) == {"count": 1}
    bought = result("AddOrder", ordertype="market", **buy)["txid"][0]
    trades = result("TradesHistory")["trades"]
    assert [trade["ordertxid"] for trade in trades.values()] == [bought]
    assert list(result("ClosedOrders")["closed"]) == [bought, resting]
    assert result("Balance")["XXBT"] == "0.0010000000"
    assert simulator.exchange.account.audit() == []
    api.close()


def test_ccxt_trades(simulator: Simulator) -> None:
    """Markets, balance, a limit order, its cancel, a market buy, trades, orders, candles and fees through ccxt."""
    exchange = ccxt.kraken({"apiKey": simulator.key, "secret": simulator.secret, "enableRateLimit": False})
    exchange.urls["api"] = dict.fromkeys(exchange.urls["api"], simulator.url)
    exchange.session.trust_env = False
    assert set(exchange.load_markets()) == {"BTC/USD", "ETH/USD", "SOL/USD"}
    precision = exchange.market("BTC/USD")["precision"]
    assert (precision["amount"], precision["price"]) == (1e-08, 0.1)
    assert exchange.fetch_balance()["total"] == {"USD": 10000.0}
    resting = exchange.create_order("BTC/USD", "limit", "buy", 0.001, 1000)["id"]
    assert [order["id"] for order in exchange.fetch_open_orders("BTC/USD")] == [resting]
    exchange.cancel_order(resting, "BTC/USD")
    assert exchange.fetch_order(resting, "BTC/USD")["status"] == "canceled"
    bought = exchange.create_order("BTC/USD", "market", "buy", 0.001)["id"]
    filled = exchange.fetch_order(bought, "BTC/USD")
    assert (filled["status"], filled["filled"]) == ("closed", 0.001)
    assert [trade["order"] for trade in exchange.fetch_my_trades("BTC/USD")] == [bought]
    assert [order["id"] for order in exchange.fetch_closed_orders("BTC/USD")] == [resting, bought]
    assert exchange.fetch_balance()["total"]["BTC"] == 0.001
    assert exchange.fetch_ticker("ETH/USD")["last"] > 0
    assert len(exchange.fetch_ohlcv("SOL/USD", "1h")) == 720
    assert exchange.fetch_trading_fee("BTC/USD")["taker"] == 0.008
    with pytest.raises(ccxt.InsufficientFunds):
        exchange.create_order("BTC/USD", "limit", "buy", 100, 1000)
    with pytest.raises(ccxt.BadSymbol):
        exchange.fetch_ticker("BTC/XYZ")
    assert simulator.api.state()["refused_nonces"] == 0
    assert simulator.exchange.account.audit() == []
