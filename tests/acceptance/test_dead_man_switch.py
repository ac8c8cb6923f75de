"""The dead man's switch, and statuses that hold trading up: main.py as a process against a local Kraken."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import pytest

from bot.base.clock import boottime_seconds, sleep
from tests.acceptance.broker_tools import advance_time, open_broker_setup
from tests.acceptance.local_kraken import RESTING, WAIT_TIMEOUT_SECONDS, LocalKraken, local_kraken
from tests.acceptance.processes import BotProcess, running
from tests.servers import open_redis

# Six seconds of the wall on this market: a bot on a loaded machine is not taken for dead.
TIMEOUT_SECONDS = 120
SWITCH_ON = {"DEAD_MAN_SWITCH_SECONDS": str(TIMEOUT_SECONDS)}


def wait_until(kraken: LocalKraken, condition: Callable[[], object]) -> None:
    """Wait until something is so at the exchange, whose time goes on meanwhile; only a failure takes the whole time."""
    limit = boottime_seconds() + WAIT_TIMEOUT_SECONDS
    while not condition():
        assert boottime_seconds() < limit, f"never so; the requests were {kraken.request_methods}"
        kraken.simulator.api.state()
        sleep(0.01)


def is_armed(kraken: LocalKraken) -> bool:
    """Whether the switch is armed at the exchange."""
    return kraken.simulator.exchange.dead_man_switch_at is not None


def kill_bot_with_resting_entry(kraken: LocalKraken, **settings: str) -> float:
    """Run a bot until its entry rests and a request came after that, and kill it; return the market's time then."""
    with running(settings=kraken.settings(**settings), until="accepted as") as bot:
        if settings:
            armed = kraken.request_methods.count("CancelAllOrdersAfter")
            kraken.wait_for("CancelAllOrdersAfter", times=armed + 1)
        bot.kill()
    return kraken.simulator.clock.now()


def test_kraken_cancels_the_entries_of_a_killed_bot(tmp_path: Path) -> None:
    """A bot is killed with its entry resting and the switch at 120 s: within 120 s Kraken cancels the entry."""
    with local_kraken(tmp_path, RESTING) as kraken:
        killed_seconds = kill_bot_with_resting_entry(kraken, **SWITCH_ON)
        kraken.advance_time(TIMEOUT_SECONDS)
        assert kraken.open_orders() == []
        (entry,) = kraken.orders
        assert (entry.side, entry.status, entry.reason) == ("buy", "canceled", "Cancelled by the dead man's switch")
        assert entry.closed <= killed_seconds + TIMEOUT_SECONDS
        kraken.check_account()


def test_kraken_cancels_the_entries_of_a_bot_whose_nonce_store_is_unavailable(tmp_path: Path) -> None:
    """The shared store ends with the entry resting and the switch at 120 s: Kraken cancels the entry."""
    (tmp_path / "store").mkdir()
    with open_redis(tmp_path / "store") as store, local_kraken(tmp_path, RESTING) as kraken:
        with running(settings=kraken.settings(NONCE_STORE=store.url, **SWITCH_ON), until="accepted as") as bot:
            kraken.wait_for("CancelAllOrdersAfter", times=kraken.request_methods.count("CancelAllOrdersAfter") + 1)
            store.kill()
            wait_until(kraken, lambda: kraken.open_orders() == [])
            bot.kill()
        (entry,) = kraken.orders
        assert entry.reason == "Cancelled by the dead man's switch"


def test_without_the_switch_the_entry_of_a_killed_bot_stays_open(tmp_path: Path) -> None:
    """The same without the setting: nothing is ever armed, and the entry is still open 120 s of the market later."""
    with local_kraken(tmp_path, RESTING) as kraken:
        kill_bot_with_resting_entry(kraken)
        kraken.advance_time(TIMEOUT_SECONDS)
        assert [order.side for order in kraken.open_orders()] == ["buy"]
        assert "CancelAllOrdersAfter" not in kraken.request_methods


def test_a_running_bot_keeps_its_entry(tmp_path: Path) -> None:
    """After four more armings, a third of the time-out apart, a running bot's entry is open; SIGTERM disarms first."""
    with (
        local_kraken(tmp_path, RESTING) as kraken,
        running(settings=kraken.settings(**SWITCH_ON), until="accepted as") as bot,
    ):
        kraken.wait_for("CancelAllOrdersAfter", times=kraken.request_methods.count("CancelAllOrdersAfter") + 4)
        assert is_armed(kraken)
        assert len(kraken.open_orders()) == 1
        assert bot.stop() == 0
        assert not is_armed(kraken)
        last = [name for name in kraken.request_methods if name in ("CancelAllOrdersAfter", "CancelOrder")][-2:]
        assert last == ["CancelAllOrdersAfter", "CancelOrder"]
        assert kraken.refused_nonces == 0


def test_an_external_order_disarms_it_and_outlives_the_bot(tmp_path: Path) -> None:
    """An order of somebody else disarms the switch; killed after that, the bot leaves both orders open."""
    with local_kraken(tmp_path, RESTING) as kraken:
        with running(settings=kraken.settings(**SWITCH_ON), until="accepted as") as bot:
            external_txid = kraken.place_external_order()
            wait_until(kraken, lambda: not is_armed(kraken))
            bot.wait_for(rf"switch is off: it would cancel the order of another sender .*{external_txid}")
            bot.kill()
        kraken.advance_time(TIMEOUT_SECONDS)
        assert len(kraken.open_orders()) == 2


def test_a_start_disarms_a_switch_left_armed_by_a_killed_bot(tmp_path: Path) -> None:
    """With a foreign order placed after the kill, the next start disarms in time: both orders are still open."""
    with local_kraken(tmp_path, RESTING) as kraken:
        kill_bot_with_resting_entry(kraken, **SWITCH_ON)
        # Long enough for any start; the order of a person comes while nobody looks.
        kraken.simulator.exchange.arm_dead_man_switch(3000)
        kraken.place_external_order()
        with running(settings=kraken.settings(**SWITCH_ON), until="switch is off: it would cancel"):
            assert not is_armed(kraken)
        assert len(kraken.open_orders()) == 2


@pytest.mark.parametrize("status", ["cancel_only", "post_only"])
def test_it_is_disarmed_while_the_exchange_restricts_trading(tmp_path: Path, status: str) -> None:
    """While the exchange restricts trading the switch is disarmed; online again, it is armed again."""
    with local_kraken(tmp_path) as kraken, BotProcess(settings=kraken.settings(**SWITCH_ON)) as bot:
        wait_until(kraken, lambda: is_armed(kraken))
        kraken.simulator.exchange.set_status(status)
        bot.wait_for(f"trading is held up: the exchange's status is {status}")
        wait_until(kraken, lambda: not is_armed(kraken))
        kraken.simulator.exchange.set_status("online")
        bot.wait_for("trading goes on: the exchange's status is online again")
        wait_until(kraken, lambda: is_armed(kraken))
        assert bot.stop() == 0


def test_halt_mode_neither_arms_nor_disarms_it(tmp_path: Path) -> None:
    """In the mode halt, whoever armed it, the bot neither arms nor disarms it, from start to end."""
    with local_kraken(tmp_path) as kraken:
        halted = kraken.settings(TRADING_MODE="halt", **SWITCH_ON)
        with running(settings=halted, until="nothing to do") as bot:
            assert bot.stop() == 0
        assert "CancelAllOrdersAfter" not in kraken.request_methods


def test_a_restricted_pair_blocks_its_entry(tmp_path: Path) -> None:
    """While a pair is post_only its entry is refused with that reason, and no order is sent."""
    with local_kraken(tmp_path, RESTING) as kraken:
        kraken.simulator.exchange.set_pair_status("BTC/USD", "post_only")
        with running(settings=kraken.settings(), until=r"refused \(trading status\): the pair's status is post_only"):
            pass
        assert "AddOrder" not in kraken.request_methods


@pytest.mark.usefixtures("nonce_file")
def test_the_broker_reads_the_current_pair_status() -> None:
    """Once the status of one pair has changed, asking gives the new word for it and the old one for another pair."""
    with open_broker_setup() as setup:
        assert setup.broker.pair_status("BTC/USD") == "online"
        setup.simulator.exchange.set_pair_status("BTC/USD", "reduce_only")
        assert setup.broker.pair_status("XBTUSD") == "reduce_only"
        assert setup.broker.pair_status("ETH/USD") == "online"


@pytest.mark.usefixtures("nonce_file")
def test_the_broker_arms_and_disarms() -> None:
    """Armed for 60 s and disarmed, nothing happens 61 s later; armed and left, no order is open then."""
    with open_broker_setup() as setup:
        placed = setup.broker.place_limit_order("BTC/USD", "buy", Decimal("0.001"), Decimal(1000))
        setup.broker.arm_dead_man_switch(60)
        setup.broker.arm_dead_man_switch(0)
        advance_time(setup.clock, 61)
        assert [order.txid for order in setup.broker.get_open_orders()] == [placed.txid]
        setup.broker.arm_dead_man_switch(60)
        advance_time(setup.clock, 61)
        assert setup.broker.get_open_orders() == []
