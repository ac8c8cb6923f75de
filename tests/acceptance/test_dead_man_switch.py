"""The dead man's switch, and statuses that block trading: main.py as a process against a local Kraken."""

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

# Six seconds of the wall clock: long enough for a bot on a loaded machine.
TIMEOUT_SECONDS = 120
SWITCH_ON = {"DEAD_MAN_SWITCH_SECONDS": str(TIMEOUT_SECONDS)}


def wait_until(kraken: LocalKraken, condition: Callable[[], object]) -> None:
    """Wait until the condition holds while market time goes on; only a failure takes the whole time."""
    limit = boottime_seconds() + WAIT_TIMEOUT_SECONDS
    while not condition():
        assert boottime_seconds() < limit, f"not in time; the requests were {kraken.request_methods}"
        kraken.simulator.api.state()
        sleep(0.01)


def is_armed(kraken: LocalKraken) -> bool:
    """Whether the switch is armed at the exchange."""
    return kraken.simulator.exchange.dead_man_switch_at is not None


def kill_bot_with_resting_entry(kraken: LocalKraken, **settings: str) -> float:
    """Run a bot until its entry rests and the switch was armed after that, and kill it; return the market time."""
    with running(settings=kraken.settings(**settings), until="accepted as") as bot:
        if settings:
            armed_count = kraken.request_methods.count("CancelAllOrdersAfter")
            kraken.wait_for("CancelAllOrdersAfter", times=armed_count + 1)
        bot.kill()
    return kraken.simulator.clock.now()


def test_kraken_cancels_the_entries_of_a_killed_bot(tmp_path: Path) -> None:
    """When a bot with a resting entry and the switch at 120 s is killed, Kraken cancels the entry within 120 s."""
    with local_kraken(tmp_path, RESTING) as kraken:
        killed_seconds = kill_bot_with_resting_entry(kraken, **SWITCH_ON)
        kraken.advance_time(TIMEOUT_SECONDS)
        assert kraken.open_orders() == []
        (entry,) = kraken.orders
        assert (entry.side, entry.status, entry.reason) == ("buy", "canceled", "Cancelled by the dead man's switch")
        assert entry.closed <= killed_seconds + TIMEOUT_SECONDS
        kraken.check_account()


def test_kraken_cancels_the_entries_of_a_bot_whose_nonce_store_is_unavailable(tmp_path: Path) -> None:
    """When the shared store of a bot with a resting entry and the switch at 120 s ends, Kraken cancels the entry."""
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
    """Without the setting the switch is never armed, and the entry is still open after 120 s of market time."""
    with local_kraken(tmp_path, RESTING) as kraken:
        kill_bot_with_resting_entry(kraken)
        kraken.advance_time(TIMEOUT_SECONDS)
        assert [order.side for order in kraken.open_orders()] == ["buy"]
        assert "CancelAllOrdersAfter" not in kraken.request_methods


def test_a_running_bot_keeps_its_entry(tmp_path: Path) -> None:
    """After four more armings a running bot's entry is open; SIGTERM disarms before it cancels the entry."""
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
    """An external order disarms the switch; if the bot is killed after that, both orders stay open."""
    with local_kraken(tmp_path, RESTING) as kraken:
        with running(settings=kraken.settings(**SWITCH_ON), until="accepted as") as bot:
            external_txid = kraken.place_external_order()
            wait_until(kraken, lambda: not is_armed(kraken))
            bot.wait_for(rf"switch is off: it would cancel the order of another sender .*{external_txid}")
            bot.kill()
        kraken.advance_time(TIMEOUT_SECONDS)
        assert len(kraken.open_orders()) == 2


def test_a_start_disarms_a_switch_left_armed_by_a_killed_bot(tmp_path: Path) -> None:
    """If an external order is placed after the kill, the next start disarms in time, and both orders stay open."""
    with local_kraken(tmp_path, RESTING) as kraken:
        kill_bot_with_resting_entry(kraken, **SWITCH_ON)
        # Long enough for any start; the external order is placed while no bot runs.
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
        bot.wait_for(f"Trading is restricted: the exchange's status is {status}")
        wait_until(kraken, lambda: not is_armed(kraken))
        kraken.simulator.exchange.set_status("online")
        bot.wait_for("Trading continues: the status of the exchange is online again")
        wait_until(kraken, lambda: is_armed(kraken))
        assert bot.stop() == 0


def test_halt_mode_neither_arms_nor_disarms_it(tmp_path: Path) -> None:
    """In halt mode the bot neither arms nor disarms the switch, from start to end."""
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
    """After the status of one pair has changed, pair_status returns the new one for it and the old one for another
    pair."""
    with open_broker_setup() as setup:
        assert setup.broker.pair_status("BTC/USD") == "online"
        setup.simulator.exchange.set_pair_status("BTC/USD", "reduce_only")
        assert setup.broker.pair_status("XBTUSD") == "reduce_only"
        assert setup.broker.pair_status("ETH/USD") == "online"


@pytest.mark.usefixtures("nonce_file")
def test_the_broker_arms_and_disarms() -> None:
    """If armed for 60 s and disarmed, nothing is canceled 61 s later; if left armed, no order is open then."""
    with open_broker_setup() as setup:
        placed = setup.broker.place_limit_order("BTC/USD", "buy", Decimal("0.001"), Decimal(1000))
        setup.broker.arm_dead_man_switch(60)
        setup.broker.arm_dead_man_switch(0)
        advance_time(setup.clock, 61)
        assert [order.txid for order in setup.broker.get_open_orders()] == [placed.txid]
        setup.broker.arm_dead_man_switch(60)
        advance_time(setup.clock, 61)
        assert setup.broker.get_open_orders() == []
