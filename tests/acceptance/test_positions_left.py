"""A position that the bot does not look after: in a pair that is not in PAIRS, or at the end of a run."""

from __future__ import annotations

from pathlib import Path

from tests.acceptance.local_kraken import FILLING, local_kraken
from tests.acceptance.processes import run, running
from tests.webhook import Webhook


def test_a_pair_that_is_taken_out_with_a_position_is_reported(state: Path) -> None:
    """Where PAIRS no longer names the pair of a position and its stop, start and `check` name what is held, the stop,
    and the pair to put back; the start alerts, and neither sends an order or a cancel."""
    with Webhook() as hook, local_kraken(state, FILLING) as kraken:
        bought = kraken.settings(PAIRS="BTC/USD", STOP_LOSS_PERCENT="20")
        with running(settings=bought, until="stop: sell .* accepted") as bot:
            assert bot.stop() == 0
        (stop,) = kraken.open_orders()
        moved = kraken.settings(PAIRS="ETH/USD", ALERT_WEBHOOK_URL=hook.url, MAX_POSITION_VALUE="0.01")
        checked = run("check", settings=moved)
        with running(settings=moved, until="nothing to do|refused") as bot:
            started = bot.wait_for("not in PAIRS")
            assert hook.next_request().body["event"] == "position"
            assert bot.stop() == 0
        for (line,) in (started, checked.wait_for("not in PAIRS")):
            assert "BTC/USD" in line
            assert f"{stop.volume:f}" in line
            assert stop.txid in line
        assert checked.wait_for("^WARNING  positions")
        assert kraken.open_orders() == [stop]
        assert "not in PAIRS" not in run("check", settings=bought).text


def test_coins_that_were_sold_by_hand_are_not_reported(state: Path) -> None:
    """Where the account no longer has the coins of a pair that is taken out, neither start nor `check` reports it."""
    with local_kraken(state, FILLING) as kraken:
        with running(settings=kraken.settings(PAIRS="BTC/USD"), until="filled: buy") as bot:
            assert bot.stop() == 0
        (entry,) = kraken.orders
        params = {"pair": "XBTUSD", "type": "sell", "ordertype": "market", "volume": f"{entry.executed:f}"}
        with kraken.simulator.api.lock:
            kraken.simulator.exchange.add_order(params)
        moved = kraken.settings(PAIRS="ETH/USD")
        assert "not in PAIRS" not in run("check", settings=moved).text
        assert "not in PAIRS" not in run("--cycles", "1", settings=moved).text


def test_a_paper_account_without_the_quote_currency_is_reported(state: Path) -> None:
    """On a paper account in USD with PAIRS=BTC/EUR, start and `check` name the missing EUR and `paper reset`; before
    the change and after the reset they do not."""
    settings = {"STATE_DIR": str(state), "PRICE_SOURCE": "synthetic", "PAIRS": "BTC/USD", "MARKET_SPEED": "20"}
    moved = settings | {"PAIRS": "BTC/EUR"}
    assert "paper reset" not in run("--cycles", "1", settings=settings).text + run("check", settings=settings).text
    for command in (["--cycles", "1"], ["check"]):
        assert run(*command, settings=moved).wait_for("has no EUR.*python main.py paper reset")
    run("paper", "reset", settings=moved)
    for command in (["--cycles", "1"], ["check"]):
        assert "has no" not in run(*command, settings=moved).text


def test_a_key_that_dies_leaves_its_position_named(state: Path) -> None:
    """Where Kraken no longer takes the key, the bot ends with code 3, names the position that it leaves and its stop,
    and alerts."""
    with Webhook() as hook, local_kraken(state, FILLING) as kraken:
        settings = kraken.settings(PAIRS="BTC/USD", STOP_LOSS_PERCENT="20", ALERT_WEBHOOK_URL=hook.url)
        with running(settings=settings, until="stop: sell .* accepted") as bot:
            (stop,) = kraken.open_orders()
            for method in ("OpenOrders", "ClosedOrders", "BalanceEx", "CancelOrder", "TradesHistory"):
                kraken.simulator.faults.raise_next(method, "EAPI:Invalid key", times=99)
            assert bot.wait_and_check() == 3
            (line,) = bot.wait_for("left at Kraken")
            assert hook.next_request().body["event"] == "position"
        assert f"{stop.volume:f} held" in line
        assert stop.txid in line


def test_a_paper_account_with_a_stop_in_a_pair_that_is_taken_out_goes_on(state: Path) -> None:
    """A paper bot that starts without the pair of its open stop names the stop, and ends its cycles in order; with the
    pair again it adopts the stop."""
    settings = {"STATE_DIR": str(state), "PRICE_SOURCE": "synthetic", "STOP_LOSS_PERCENT": "50"}
    # The warm-up ends at the first position.
    with running(settings=settings | {"PAIRS": "BTC/USD"}, until="stop: sell .* accepted") as bot:
        bot.kill()
    moved = run("--cycles", "1", settings=settings | {"PAIRS": "ETH/USD", "MARKET_SPEED": "20"})
    assert moved.wait_for(r"BTC/USD  not in PAIRS.*stop sell")
    back = run("--cycles", "1", settings=settings | {"PAIRS": "BTC/USD", "MARKET_SPEED": "20"})
    assert back.wait_for("own order adopted: sell")
