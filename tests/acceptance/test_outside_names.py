"""The whole program gives orders and files the names that they had, which other versions and people know them by."""

from __future__ import annotations

from pathlib import Path

from bot.kraken.new_order import client_order_id
from tests.acceptance.local_kraken import CROSSING, FILLING, HOUR, START, local_kraken
from tests.acceptance.processes import run, running

# After the candles in which the entry fills, one that is far below, and yet above the stop at the exchange.
CLOSES = (*FILLING, 1000, 999, 998)
ENTERED, LEFT = START + (len(CROSSING) - 2) * HOUR, START + (len(FILLING) - 1) * HOUR


def test_entry_stop_and_exit_have_their_names(state: Path) -> None:
    """The entry, the stop and the exit of the usual strategy have the client order ids of their pair, that strategy,
    the candle (for the stop, when the entry was opened) and the words entry, stop and exit.
    """
    with local_kraken(state, CLOSES) as kraken:
        settings = kraken.settings(BOT_ID="fleet", STOP_LOSS_PERCENT="20", PAIRS="BTC/USD")
        with running(settings=settings, until="stop: sell .* accepted") as bot:
            assert bot.stop() == 0
        kraken.advance_time((len(CLOSES) - len(CROSSING) - 2) * HOUR)
        with running(settings=settings, until="exit: sell .* accepted") as bot:
            assert bot.stop() == 0
        orders = sorted(kraken.orders, key=lambda order: order.opened)
    signals = (("entry", ENTERED), ("stop", int(orders[0].opened)), ("exit", LEFT))
    wanted = [
        client_order_id("fleet", "BTC/USD", "moving_average", moment, kind=kind, attempt=0) for kind, moment in signals
    ]
    assert [order.cl_ord_id for order in orders] == wanted


def test_the_file_that_stops_entries_has_its_name(state: Path) -> None:
    """With a file named entries_stopped in the state folder nothing is opened; `resume` removes it, and they go on."""
    with local_kraken(state, FILLING) as kraken:
        state.mkdir()
        (state / "entries_stopped").touch()
        run("--cycles", "1", settings=kraken.settings())
        assert "AddOrder" not in kraken.request_methods
        run("resume", settings=kraken.settings())
        assert not (state / "entries_stopped").exists()
        run("--cycles", "1", settings=kraken.settings())
        assert kraken.request_methods.count("AddOrder") == 1
