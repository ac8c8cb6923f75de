"""Scripts on other clients share the running bot's key: the examples of docs/other-programs.md, run as they stand."""

from __future__ import annotations

import re
import shutil
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import ccxt
import krakenex
import pytest
from kraken.spot import User

from bot import broker_manager
from bot.base.errors import NonceError, RequestLockTimeout, SettingsError
from bot.broker_manager import get_kraken_nonce, kraken_request_lock
from bot.nonce import shared_store
from bot.simulator.options import SimulatorOptions
from bot.simulator.server import Simulator
from tests.acceptance.broker_tools import ORDER, open_broker_setup, run_in_threads
from tests.acceptance.local_kraken import trading_kraken
from tests.acceptance.processes import isolated_settings, running
from tests.acceptance.script_tools import (
    FORKING_SCRIPT,
    example_code,
    open_krakenex,
    request_errors,
    run_script,
    run_scripts_concurrently,
    script_environment,
    start_lock_holder,
    write_script,
)
from tests.conftest import ROOT

CLIENTS = ("krakenex", "ccxt", "python-kraken-sdk")
INVALID = "EAPI:Invalid nonce"
# Enough for two requests that leave one after the other to arrive the other way round.
JITTER = SimulatorOptions(latency_seconds=(0.0, 0.08))


@pytest.fixture
def simulator() -> Iterator[Simulator]:
    """Return a local Kraken."""
    with Simulator() as running:
        yield running


@pytest.fixture
def jittery() -> Iterator[Simulator]:
    """Return a local Kraken that requests reach in another order than they leave in."""
    with Simulator(JITTER) as running:
        yield running


@pytest.fixture(params=["file", "redis", pytest.param("postgres", marks=pytest.mark.soak)])
def store(request: pytest.FixtureRequest) -> str:
    """Return NONCE_STORE for each kind of store; "" for the file alone."""
    return "" if request.param == "file" else str(request.getfixturevalue(f"{request.param}_url"))


@pytest.fixture
def shared_key(nonce_file: Path, store: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Let this process draw from the store, by the folder that is returned."""
    monkeypatch.setattr(broker_manager, "NONCE_STORE", store)
    yield nonce_file.parent
    # They are kept for the life of the process, whose end would complain of what is open.
    for opened in shared_store._stores.values():
        opened.backend.close()


# The examples


@pytest.mark.parametrize("title", [*CLIENTS, "Orders"])
def test_the_example_runs_as_it_stands(title: str, simulator: Simulator, tmp_path: Path) -> None:
    """Each program on the page, word for word, in a folder of its own, prints the balance by a nonce of the bot's."""
    done = run_script(
        write_script(tmp_path / "mine", example_code(title)), script_environment(simulator, tmp_path / "state")
    )
    assert done.returncode == 0, done.stderr
    assert "10000.0" in done.stdout
    [row] = simulator.request_log
    assert (row.error, row.nonce) == ("", (tmp_path / "state" / "kraken_nonce.txt").read_text("ascii"))


def test_the_settings_beside_main_count_from_any_folder(simulator: Simulator, tmp_path: Path) -> None:
    """Without a word in the environment a script elsewhere has the key, the address and the nonce file of the `.env`
    beside main.py, and nothing of the one in its own folder."""
    program, mine = tmp_path / "program", tmp_path / "mine"
    shutil.copytree(ROOT / "bot", program / "bot", ignore=shutil.ignore_patterns("__pycache__", "kraken_nonce*"))
    given = script_environment(simulator, Path("state"))
    (program / ".env").write_text("".join(f"{name}={value}\n" for name, value in given.items() if value))
    path = write_script(mine, example_code("krakenex"))
    (mine / ".env").write_text("STATE_DIR=wrong\nKRAKEN_API_KEY=wrong\n")
    done = run_script(path, {}, program)
    assert done.returncode == 0, done.stderr
    assert [row.nonce for row in simulator.request_log] == [(program / "state" / "kraken_nonce.txt").read_text("ascii")]
    assert sorted(one.name for one in mine.iterdir()) == [".env", "my_script.py"]


@pytest.mark.parametrize("title", CLIENTS)
def test_a_clients_own_nonces_do_not_fit(title: str, simulator: Simulator, tmp_path: Path) -> None:
    """Without its line for the nonce, krakenex or ccxt is refused and the bot is not; one call of python-kraken-sdk is
    accepted, and every nonce of the bot's is refused from then on."""
    environment = script_environment(simulator, tmp_path / "state")
    ours = write_script(tmp_path / "ours", example_code("krakenex"))
    lines = example_code(title).splitlines(keepends=True)
    without = [line for line in lines if not ("nonce" in line and " = " in line)]
    assert len(without) == len(lines) - 1
    theirs = write_script(tmp_path / "theirs", "".join(without))
    for path in (ours, theirs, ours, ours):
        run_script(path, environment)
    burnt = title == "python-kraken-sdk"
    assert request_errors(simulator) == (["", "", INVALID, INVALID] if burnt else ["", INVALID, "", ""])


def test_the_clients_are_as_the_page_says() -> None:
    """By themselves krakenex and ccxt draw 13 digits, python-kraken-sdk 18 as text; ccxt repeats nothing, waits up to
    3 s before a private call, and gives connection and answer 10 s each, as python-kraken-sdk does."""
    exchange = ccxt.kraken()
    assert [len(str(nonce)) for nonce in (krakenex.API()._nonce(), exchange.nonce())] == [13, 13]
    assert re.fullmatch(r"\d{18}", User().get_nonce())
    assert exchange.handle_option_and_params({}, "Balance", "maxRetriesOnFailure", 0) == [0, {}]
    row = exchange.api["private"]["post"]["Balance"]  # a number up to 4.5.64
    assert (row["cost"] if isinstance(row, dict) else row) * exchange.rateLimit == 3000
    assert (exchange.enableRateLimit, exchange.timeout, User.TIMEOUT) == (True, 10_000, 10)


def test_scripts_beside_a_running_bot(tmp_path: Path) -> None:
    """While main.py trades live, the three programs of the page run with its settings: none of all calls is refused."""
    with trading_kraken(tmp_path / "state") as kraken:
        with running(settings=kraken.settings(), until="filled: buy") as bot:
            for title in CLIENTS:
                done = run_script(
                    write_script(tmp_path / title, example_code(title)), isolated_settings(kraken.settings())
                )
                assert done.returncode == 0, done.stderr
            assert bot.stop() == 0
        assert kraken.request_methods.count("Balance") == 2
        assert kraken.refused_nonces == 0


# Many senders at once


def test_the_bot_and_three_clients_are_never_refused(
    store: str, jittery: Simulator, tmp_path: Path, full_size: bool
) -> None:
    """Two brokers of two threads and a script for each client, all at once on one key, over a line that shuffles what
    is sent: every call is answered and none is refused; with a store, no two of them share a folder."""
    times, reads = (40, 80) if full_size else (3, 6)
    run_scripts_concurrently(jittery, tmp_path, store, [example_code(name) for name in CLIENTS], times, reads)
    assert request_errors(jittery) == [""] * (3 * times + 2 * 2 * reads)


def test_without_the_turn_some_are_refused(store: str, jittery: Simulator, tmp_path: Path) -> None:
    """Two of these scripts, which draw from the shared sequence but take no turn, meet refusals."""
    codes = [
        example_code(name).replace("with kraken_turn():", "if True:") for name in ("krakenex", "python-kraken-sdk")
    ]
    assert all("if True:" in code for code in codes)
    run_scripts_concurrently(jittery, tmp_path, store, codes, times=30, reads=0)
    assert set(request_errors(jittery)) == {"", INVALID}


def balance(api: krakenex.API) -> None:
    """Ask for the balance, in a turn."""
    with kraken_request_lock(api_key=api.key):
        answer = api.query_private("Balance", timeout=(3, 10))
    assert answer["error"] == []


@pytest.mark.usefixtures("shared_key")
def test_threads_of_a_script_take_turns(jittery: Simulator) -> None:
    """Four threads of one process, each with a client of its own, are never refused."""

    def work() -> None:
        api = open_krakenex(jittery)
        for _ in range(5):
            balance(api)
        api.close()

    assert run_in_threads(4, work) == []
    assert request_errors(jittery) == [""] * 20


def test_children_forked_in_a_turn_wait_for_their_own(store: str, jittery: Simulator, tmp_path: Path) -> None:
    """Processes that a script forks in its turns take turns of their own: none is refused, neither theirs nor its."""
    done = run_script(
        write_script(tmp_path / "mine", FORKING_SCRIPT), script_environment(jittery, tmp_path / "state", store)
    )
    assert done.returncode == 0, done.stderr
    assert request_errors(jittery) == [""] * 8


# A script that goes wrong


def test_a_script_that_holds_its_turn_bounds_what_the_bot_waits(
    shared_key: Path, store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a script on the machine holds the turn, the bot's reads and orders end with TurnTimeout and were not sent,
    and a cancel goes without the turn; when the script is done all goes on."""
    with open_broker_setup() as setup:
        broker = setup.broker
        txid = broker.private_call("AddOrder", ORDER)["txid"][0]
        sent = len(setup.request_methods())
        with start_lock_holder(setup.simulator, shared_key, shared_key, store) as script:
            script.expect_line("held")
            monkeypatch.setattr(broker_manager, "WAIT_SECONDS_MAX", 0.2)
            with pytest.raises(RequestLockTimeout):
                broker.private_call("Balance")
            with pytest.raises(RequestLockTimeout):
                broker.private_call("AddOrder", ORDER)
            assert broker.unknown_orders() == []
            assert len(setup.request_methods()) == sent
            assert broker.cancel_order(txid, "BTC/USD")
            assert setup.request_methods()[sent:] == ["CancelOrder"]
            script.write_line("send")
            # The cancel went with a higher nonce.
            assert script.read_to_end() == [f"['{INVALID}']"]
        monkeypatch.setattr(broker_manager, "WAIT_SECONDS_MAX", 20.0)
        broker.private_call("Balance")
        assert setup.refused_nonce_count() == 1


@pytest.mark.parametrize("store", ["redis", pytest.param("postgres", marks=pytest.mark.soak)], indirect=True)
def test_a_host_that_holds_its_turn_loses_it(shared_key: Path, store: str, tmp_path: Path) -> None:
    """A script that holds its turn for longer than it lives loses it to the bot on another host; what it sends then is
    refused, and nobody else's."""
    with (
        open_broker_setup() as setup,
        start_lock_holder(setup.simulator, shared_key, tmp_path / "host", store, lock_seconds=0.3) as script,
    ):
        script.expect_line("held")
        setup.broker.private_call("Balance")
        script.write_line("send")
        assert script.read_to_end() == [f"['{INVALID}']"]
        setup.broker.private_call("Balance")
        assert request_errors(setup.simulator) == ["", INVALID, ""]


def test_a_script_killed_in_its_turn_leaves_it_behind(shared_key: Path, store: str, tmp_path: Path) -> None:
    """A turn whose script was killed is free at once with the file alone; in a store it is taken until its lifetime is
    over, and then the bot goes on without a refusal."""
    with open_broker_setup() as setup:
        with start_lock_holder(setup.simulator, shared_key, shared_key, store) as script:
            script.expect_line("held")
            script.kill()
        if store:
            with (
                pytest.raises(RequestLockTimeout, match="another host"),
                kraken_request_lock(0.05, api_key=setup.simulator.key),
            ):
                raise AssertionError("served")
        else:
            setup.broker.private_call("Balance")
    with open_broker_setup() as setup:
        with start_lock_holder(setup.simulator, shared_key, shared_key, store, lock_seconds=0.5) as script:
            script.expect_line("held")
            script.kill()
        setup.broker.private_call("Balance")
        assert request_errors(setup.simulator) == [""]


def test_ctrl_c_gives_the_turn_back(shared_key: Path, store: str, tmp_path: Path) -> None:
    """A script that is ended by Ctrl-C in its turn gives it back, in a store too; one ended by SIGTERM leaves it taken
    there, and free where the file alone is."""
    with open_broker_setup() as setup:
        state, key = tmp_path / "host" if store else shared_key, setup.simulator.key
        with start_lock_holder(setup.simulator, shared_key, state, store) as script:
            script.expect_line("held")
            script.signal(signal.SIGINT)
            assert script.read_line() == ""
            with kraken_request_lock(api_key=key):
                pass
        with start_lock_holder(setup.simulator, shared_key, state, store) as script:
            script.expect_line("held")
            script.signal(signal.SIGTERM)
            assert script.read_line() == ""
            if store:
                with pytest.raises(RequestLockTimeout, match="another host"), kraken_request_lock(0.05, api_key=key):
                    raise AssertionError("served")
            else:
                with kraken_request_lock(api_key=key):
                    pass


# What is told


def test_without_a_key_there_is_no_turn(nonce_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a key in the settings `kraken_request_lock()` raises one SettingsError that names KRAKEN_API_KEY, and makes no
    file; a nonce alone needs no key."""
    for name in ("KRAKEN_API_KEY", "KRAKEN_API_KEY_FILE"):
        monkeypatch.setenv(name, "")
    with pytest.raises(SettingsError, match="KRAKEN_API_KEY is not set") as caught, kraken_request_lock():
        raise AssertionError("served")
    assert len(caught.value.problems) == 1
    assert list(nonce_file.parent.iterdir()) == []
    assert get_kraken_nonce() == int(nonce_file.read_text("ascii"))


@pytest.mark.usefixtures("shared_key")
def test_a_turn_within_a_turn_is_told_at_once() -> None:
    """A second turn of a thread on the same key raises NonceError, and the first one stays; another key's turn may lie
    within, another thread waits, and after the block the turn can be had again."""
    timed_out: list[RequestLockTimeout] = []

    def wait_in_vain() -> None:
        try:
            with kraken_request_lock(0.0, api_key="one"):
                raise AssertionError("served")
        except RequestLockTimeout as error:
            timed_out.append(error)

    with kraken_request_lock(api_key="one"):
        with pytest.raises(NonceError, match="has the key's turn already"), kraken_request_lock(api_key="one"):
            raise AssertionError("served")
        with kraken_request_lock(0.0, api_key="two"):
            pass
        thread = threading.Thread(target=wait_in_vain)
        thread.start()
        thread.join()
        assert len(timed_out) == 1
    with kraken_request_lock(api_key="one"):
        pass


@pytest.mark.usefixtures("shared_key")
def test_a_broker_within_a_turn_waits_in_vain(monkeypatch: pytest.MonkeyPatch) -> None:
    """A KrakenBroker that is called inside of the key's turn gets TurnTimeout and sends nothing; after it, it works."""
    with open_broker_setup() as setup:
        with kraken_request_lock(api_key=setup.simulator.key), monkeypatch.context() as patch:
            patch.setattr(broker_manager, "WAIT_SECONDS_MAX", 0.05)
            with pytest.raises(RequestLockTimeout):
                setup.broker.private_call("Balance")
        assert setup.request_methods() == []
        setup.broker.private_call("Balance")


def test_a_key_in_nanoseconds_needs_the_unit(shared_key: Path, store: str, tmp_path: Path) -> None:
    """Where the bot's nonces are nanoseconds a script with unit="ns" shares them; one without is refused by Kraken or,
    with a store, by the store before anything is sent."""
    with open_broker_setup(nonce_unit="ns") as setup:
        environment = script_environment(setup.simulator, shared_key, store) | {"NONCE_UNIT": "ns"}
        code = example_code("krakenex")
        fine = code.replace("= get_kraken_nonce\n", '= lambda: get_kraken_nonce(unit="ns")\n').replace(
            "kraken_turn():", 'kraken_turn(unit="ns"):'
        )
        setup.broker.private_call("Balance")
        assert run_script(write_script(tmp_path / "fine", fine), environment).returncode == 0
        done = run_script(write_script(tmp_path / "coarse", code), environment)
        setup.broker.private_call("Balance")
        assert request_errors(setup.simulator) == (["", "", ""] if store else ["", "", INVALID, ""])
        assert ("NonceAheadError" in done.stderr) == bool(store)


@pytest.mark.parametrize("code", ["from bot.broker_manager import kraken_turn", "broker_manager.kraken_turn"])
def test_the_former_name_of_the_request_lock_names_the_new_one(tmp_path: Path, code: str) -> None:
    """A script that imports kraken_turn, or takes it from the module, ends with an ImportError that names
    kraken_request_lock; any other unknown name is missing as in every module."""
    environment = isolated_settings({"STATE_DIR": str(tmp_path / "state")})
    ended = run_script(write_script(tmp_path, f"from bot import broker_manager\n{code}\n"), environment)
    assert ended.returncode == 1
    assert ended.stderr.splitlines()[-1] == (
        "ImportError: kraken_turn was renamed: import kraken_request_lock from bot.broker_manager"
    )
    assert not hasattr(broker_manager, "kraken_turns")
