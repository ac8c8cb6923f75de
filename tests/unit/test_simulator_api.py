"""Requests over real HTTP: envelopes, shapes, bodies, permissions, pages."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from bot.base.clock import MarketClock
from bot.simulator.keys import TRADING_PERMISSIONS, sign
from bot.simulator.options import SimulatorOptions
from bot.simulator.server import Simulator
from tests.simulator_parts import START, KrakenexClient, ScriptedPrices

ORDER = {"pair": "XBTUSD", "type": "buy", "ordertype": "limit", "price": "40000", "volume": "0.001"}


class ManualClock(MarketClock):
    """A market clock that a test sets."""

    def __init__(self) -> None:
        super().__init__(START)
        self.time = START

    def now(self) -> float:
        """Return the time that was set."""
        return self.time


class Market:
    """A simulator on a scripted price, its clock, and a client."""

    def __init__(self, simulator: Simulator, clock: ManualClock) -> None:
        self.simulator = simulator
        self.clock = clock
        self.client = KrakenexClient(simulator)

    def result(self, method: str, **params: object) -> Any:
        """Return the result of a private call that must succeed."""
        answer = self.client.private(method, **params)
        assert answer["error"] == []
        return answer["result"]


@pytest.fixture
def market() -> Iterator[Market]:
    """Return a market at 50000 with three pairs."""
    clock = ManualClock()
    options = SimulatorOptions(pairs=("BTC/USD", "ETH/USD", "SOL/USD"))
    with Simulator(options, clock, ScriptedPrices((0, "50000"))) as simulator:
        market = Market(simulator, clock)
        yield market
        market.client.close()


def post(market: Market, method: str, body: str, content_type: str = "application/json") -> Any:
    """Send a custom body, signed as in Kraken's guide."""
    nonce = (
        json.loads(body)["nonce"]
        if content_type == "application/json"
        else body.partition("nonce=")[2].partition("&")[0]
    )
    path = f"/0/private/{method}"
    signature = sign(market.simulator.secret, path, str(nonce), body)
    headers = {"API-Key": market.simulator.key, "API-Sign": signature, "Content-Type": content_type}
    with requests.Session() as session:
        session.trust_env = False
        return session.post(market.simulator.url + path, data=body, headers=headers, timeout=5).json()


def shape(value: Any) -> Any:
    """Return the keys and value types of a response without its values."""
    if isinstance(value, dict):
        return {key: shape(item) for key, item in value.items()}
    if isinstance(value, list):
        return [shape(item) for item in value[:1]]
    return type(value).__name__


@pytest.mark.parametrize(
    ("method", "params", "name"),
    [
        ("Time", {}, "http_server_time.json"),
        ("SystemStatus", {}, "http_system_status.json"),
        ("Ticker", {"pair": "XBTUSDT"}, "http_ticker.json"),
        ("Depth", {"pair": "XBTUSDT", "count": "5"}, "http_order_book.json"),
        ("OHLC", {"pair": "XBTUSDT"}, "http_ohlc.json"),
    ],
)
def test_public_responses_match_the_recorded_shapes(
    shared: Path, method: str, params: dict[str, str], name: str
) -> None:
    """Keys, nesting and value types equal those of Kraken's own response."""
    with Simulator(SimulatorOptions(pairs=("BTC/USDT",))) as simulator:
        client = KrakenexClient(simulator)
        answer = client.public(method, **params)
        client.close()
    assert shape(answer) == shape(json.loads((shared / "data" / name).read_text()))


def test_asset_pairs_have_the_recorded_keys_and_empty_fees(shared: Path) -> None:
    """Every recorded key except the margin limits is there with the same type; the fee arrays are empty since 2026."""
    recorded = json.loads((shared / "data" / "http_asset_pairs.json").read_text())["result"]["XBTUSDT"]
    with Simulator(SimulatorOptions(pairs=("BTC/USDT",))) as simulator:
        client = KrakenexClient(simulator)
        row = client.public("AssetPairs")["result"]["XBTUSDT"]
        client.close()
    margin = {"long_position_limit", "short_position_limit", "leverage_buy", "leverage_sell"}
    assert set(recorded) - margin <= set(row)
    for key in ("base", "quote", "pair_decimals", "lot_decimals", "cost_decimals", "ordermin", "costmin", "tick_size"):
        assert row[key] == recorded[key], key
    assert (row["fees"], row["fees_maker"]) == ([], [])


def test_responses_are_keyed_by_pair_id_for_any_alias(market: Market) -> None:
    """A request for XBTUSD or BTC/USD returns XXBTZUSD."""
    for name in ("XBTUSD", "BTC/USD", "XBT/USD", "XXBTZUSD"):
        assert list(market.client.public("Ticker", pair=name)["result"]) == ["XXBTZUSD"]


@pytest.mark.parametrize(
    ("method", "params", "string"),
    [
        ("Ticker", {"pair": "NOPE"}, "EQuery:Unknown asset pair"),
        ("Assets", {"asset": "NOPE"}, "EQuery:Unknown asset"),
        ("OHLC", {"pair": "XBTUSD", "interval": "7"}, "EGeneral:Invalid arguments:interval"),
        ("OHLC", {}, "EGeneral:Invalid arguments:pair"),
        ("Depth", {"pair": "XBTUSD", "count": "501"}, "EGeneral:Invalid arguments:count"),
        ("time", {}, "EGeneral:Unknown method"),
    ],
)
def test_invalid_public_requests_are_refused(market: Market, method: str, params: dict[str, str], string: str) -> None:
    """The error is Kraken's string, in an envelope without a result."""
    assert market.client.public(method, **params) == {"error": [string]}


def test_ohlc_returns_720_candles_and_since_is_exclusive() -> None:
    """The last candle is the running one, `last` is the one before it, and `since` is exclusive."""
    with Simulator(SimulatorOptions(pairs=("BTC/USD",))) as simulator:
        client = KrakenexClient(simulator)
        result = client.public("OHLC", pair="XBTUSD", interval="60")["result"]
        rows, last = result["XXBTZUSD"], result["last"]
        later = client.public("OHLC", pair="XBTUSD", interval="60", since=rows[-4][0])["result"]["XXBTZUSD"]
        client.close()
    assert (len(rows), rows[-2][0]) == (720, last)
    assert [row[0] for row in later] == [row[0] for row in rows[-3:]]


def test_form_and_json_bodies_are_accepted(market: Market) -> None:
    """A nonce may be text or a number, and booleans and numbers may be JSON values or form fields."""
    form = post(market, "AddOrder", "nonce=1&ordertype=limit&type=buy&pair=XBTUSD&price=40000&volume=0.001", "form")
    text = post(market, "AddOrder", json.dumps(ORDER | {"nonce": "2", "validate": True}))
    number = post(market, "AddOrder", json.dumps(ORDER | {"nonce": 3, "userref": 5}))
    assert [answer["error"] for answer in (form, text, number)] == [[], [], []]
    assert list(text["result"]) == ["descr"]
    assert len(market.simulator.exchange.account.open_orders) == 2


@pytest.mark.parametrize("body", [b"{", b'{"nonce": }', b"\xff\xfe"])
def test_an_unparsable_body_is_a_bad_request(market: Market, body: bytes) -> None:
    """An unparsable body is refused first, and the nonce floor stays."""
    path = "/0/private/Balance"
    headers = {"API-Key": market.simulator.key, "API-Sign": "x"}
    with requests.Session() as session:
        session.trust_env = False
        answer = session.post(market.simulator.url + path, data=body, headers=headers, timeout=5).json()
    assert answer == {"error": ["EAPI:Bad request"]}
    assert market.simulator.api.state()["floors"] == {market.simulator.key: "0"}


def test_the_wrong_http_method_or_path_is_an_unknown_method(market: Market) -> None:
    """Public methods are GET only and private ones POST only, since 2024."""
    with requests.Session() as session:
        session.trust_env = False
        answers = [
            session.post(f"{market.simulator.url}/0/public/Time", timeout=5).json(),
            session.get(f"{market.simulator.url}/0/private/Balance", timeout=5).json(),
            session.get(f"{market.simulator.url}/1/public/Time", timeout=5).json(),
        ]
    assert answers == [{"error": ["EGeneral:Unknown method"]}] * 3


def test_a_missing_permission_is_refused_and_consumes_the_nonce(market: Market) -> None:
    """A key that may only read funds gets its balance and nothing else, and every call raises its nonce floor."""
    key, secret = market.simulator.add_key(permissions=("query-funds",))
    client = KrakenexClient(market.simulator, key, secret)
    assert client.private("Balance")["error"] == []
    for method in "OpenOrders ClosedOrders QueryOrders TradesHistory AddOrder CancelOrder CancelAll".split():
        assert client.private(method) == {"error": ["EGeneral:Permission denied"]}
    assert client.private("GetApiKeyInfo")["result"]["nonce"] == "9"
    client.close()


def test_get_api_key_info_describes_the_key(market: Market) -> None:
    """GetApiKeyInfo returns the nonce of the call itself, the window and the permissions."""
    key, secret = market.simulator.add_key(nonce_window=50, floor=1000)
    client = KrakenexClient(market.simulator, key, secret, nonce=2000)
    info = client.private("GetApiKeyInfo")["result"]
    client.close()
    assert (info["apiKey"], info["nonce"], info["nonceWindow"]) == (key, "2001", 50)
    assert info["permissions"] == list(TRADING_PERMISSIONS)


def test_closed_orders_come_in_pages_of_fifty_newest_first(market: Market) -> None:
    """120 canceled orders come in pages of 50, 50 and 20, and the count is always 120."""
    names = []
    for _ in range(120):
        market.clock.time += 1
        names += market.result("AddOrder", **ORDER, timeinforce="IOC")["txid"]
    pages = [market.result("ClosedOrders", ofs=offset) for offset in (0, 50, 100)]
    assert [page["count"] for page in pages] == [120] * 3
    assert [name for page in pages for name in page["closed"]] == names[::-1]


def test_closed_orders_filter_by_time_and_reference(market: Market) -> None:
    """`start` is exclusive and `end` inclusive; closetime selects the time; ids and references filter."""
    first, second, third = (
        market.result("AddOrder", **ORDER, **more)["txid"][0] for more in ({"cl_ord_id": "a"}, {"userref": 5}, {})
    )
    for txid in (first, second, third):
        market.clock.time += 10
        market.result("CancelOrder", txid=txid)

    def found(**params: object) -> list[str]:
        return list(market.result("ClosedOrders", **params)["closed"])

    assert found(cl_ord_id="a") == [first]
    assert found(userref=5) == [second]
    assert found(start=START + 10, closetime="close") == [third, second]
    assert found(end=START + 10, closetime="close") == [first]
    assert found(end=START, closetime="open") == [third, second, first]
    assert found(start=START, closetime="open") == []
    assert "count" not in market.result("ClosedOrders", without_count="true")


def test_open_orders_and_query_orders_return_the_same_entry(market: Market) -> None:
    """An entry has Kraken's keys; an unknown txid is refused."""
    txid = market.result("AddOrder", **ORDER, cl_ord_id="mine")["txid"][0]
    rows = market.result("OpenOrders")["open"]
    assert rows == market.result("QueryOrders", txid=txid)
    assert rows == market.result("OpenOrders", cl_ord_id="mine")["open"]
    assert market.result("OpenOrders", cl_ord_id="other") == {"open": {}}
    assert set(rows[txid]) == {
        "refid", "userref", "cl_ord_id", "status", "opentm", "starttm", "expiretm", "descr", "vol", "vol_exec", "cost",
        "fee", "price", "stopprice", "limitprice", "misc", "oflags", "time_in_force", "margin",
    }  # fmt: skip
    assert rows[txid]["descr"]["order"] == "buy 0.00100000 XBTUSD @ limit 40000.0"
    assert market.client.private("QueryOrders", txid="OAAAAA-BBBBB-CCCCCC") == {"error": ["EOrder:Invalid order"]}


def test_a_filled_order_shows_its_trade(market: Market) -> None:
    """ClosedOrders with `trades` names the trade of TradesHistory; price is the average of the fills."""
    txid = market.result("AddOrder", **ORDER | {"price": "60000"})["txid"][0]
    row = market.result("ClosedOrders", trades=True)["closed"][txid]
    history = market.result("TradesHistory")
    assert (row["status"], row["price"]) == ("closed", "50000.10000")
    assert (row["vol_exec"], row["fee"]) == ("0.00100000", "0.40000")
    assert row["trades"] == list(history["trades"])
    trade = history["trades"][row["trades"][0]]
    assert (trade["ordertxid"], trade["pair"], trade["cost"], trade["maker"]) == (txid, "XXBTZUSD", "50.00010", False)
    assert history["count"] == 1


def test_balances_show_totals_and_holds(market: Market) -> None:
    """Balance includes the held amount; BalanceEx returns it separately; TradeBalance values coins."""
    market.result("AddOrder", **ORDER | {"price": "60000"})
    market.result("AddOrder", **ORDER)
    assert market.result("Balance") == {"ZUSD": "9949.5999", "XXBT": "0.0010000000"}
    assert market.result("BalanceEx")["ZUSD"] == {"balance": "9949.5999", "hold_trade": "40.3200"}
    assert market.result("TradeBalance")["eb"] == "9999.5999"


def test_trade_volume_returns_the_fees(market: Market) -> None:
    """Without volume the taker pays 0.80 and the maker 0.40 percent, and less from 2500 dollars on."""
    result = market.result("TradeVolume", pair="XBTUSD")
    assert result["fees"]["XXBTZUSD"] == {
        "fee": "0.8000", "minfee": "0.1000", "maxfee": "0.8000", "nextfee": "0.6000", "tiervolume": "0.0000",
        "nextvolume": "2500.0000",
    }  # fmt: skip
    assert result["fees_maker"]["XXBTZUSD"]["fee"] == "0.4000"
    assert "fees" not in market.result("TradeVolume")


def test_the_dead_man_switch_returns_its_trigger_time(market: Market) -> None:
    """Armed, it returns its trigger time; disarmed, "0"."""
    armed = market.result("CancelAllOrdersAfter", timeout=60)
    assert armed == {"currentTime": "2026-09-21T14:13:20Z", "triggerTime": "2026-09-21T14:14:20Z"}
    assert market.result("CancelAllOrdersAfter", timeout=0)["triggerTime"] == "0"


def test_the_request_log_and_the_state_record_requests(market: Market) -> None:
    """Every private request is logged with its nonce and outcome, and counted for other processes."""
    market.result("Balance")
    market.client.nonce = 0
    market.client.private("Balance")
    market.client.private("Nothing")
    log = [(row.method, row.nonce, row.is_nonce_accepted, row.error) for row in market.simulator.request_log]
    assert log == [
        ("Balance", "1", True, ""),
        ("Balance", "1", False, "EAPI:Invalid nonce"),
        ("Nothing", "2", True, "EGeneral:Unknown method"),
    ]
    with requests.Session() as session:
        session.trust_env = False
        state = session.get(f"{market.simulator.url}/simulator/state", timeout=5).json()
    assert (state["accepted"], state["refused_nonces"], state["audit"]) == (2, 1, True)
    assert state["floors"] == {market.simulator.key: "2"}
    assert market.simulator.secret not in json.dumps(state)


def test_a_full_rest_counter_refuses_before_execution() -> None:
    """A pro key makes 20 calls at one moment; the 21st is refused, and AddOrder is still accepted."""
    with Simulator(SimulatorOptions(tier="pro"), ManualClock(), ScriptedPrices((0, "50000"))) as one:
        client = KrakenexClient(one)
        answers = [client.private("Balance")["error"] for _ in range(21)]
        assert answers == [[]] * 20 + [["EAPI:Rate limit exceeded"]]
        assert client.private("AddOrder", **ORDER)["error"] == []
        client.close()


def test_asset_pairs_show_the_status_of_each_pair(market: Market) -> None:
    """A status that was set is in the entry of its pair and in no other."""
    market.simulator.exchange.set_pair_status("ETH/USD", "cancel_only")
    rows = market.client.public("AssetPairs")["result"]
    assert {name: row["status"] for name, row in rows.items()} == {
        "XXBTZUSD": "online",
        "XETHZUSD": "cancel_only",
        "SOLUSD": "online",
    }
