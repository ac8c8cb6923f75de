"""Scripts with other clients on the running bot's key: the examples of docs/other-programs.md, run unchanged."""

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
# Enough for two consecutive requests to arrive in reverse order.
JITTER = SimulatorOptions(latency_seconds=(0.0, 0.08))


@pytest.fixture
def simulator() -> Iterator[Simulator]:
    """Open a local Kraken."""
    with Simulator() as opened:
        yield opened


@pytest.fixture
def jittery_simulator() -> Iterator[Simulator]:
    """Open a local Kraken behind a network that reorders requests."""
    with Simulator(JITTER) as opened:
        yield opened


@pytest.fixture(params=["file", "redis", pytest.param("postgres", marks=pytest.mark.soak)])
def store(request: pytest.FixtureRequest) -> str:
    """Return NONCE_STORE for each kind of store; "" for the file alone."""
    return "" if request.param == "file" else str(request.getfixturevalue(f"{request.param}_url"))


@pytest.fixture
def shared_key(nonce_file: Path, store: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Let this process use the store, with state in the returned folder."""
    monkeypatch.setattr(broker_manager, "NONCE_STORE", store)
    yield nonce_file.parent
    # The stores stay open for the lifetime of the process; open connections would warn at its end.
    for opened in shared_store._stores.values():
        opened.backend.close()


# The examples


@pytest.mark.parametrize("title", [*CLIENTS, "Orders"])
def test_the_example_runs_as_it_stands(title: str, simulator: Simulator, tmp_path: Path) -> None:
    """Each program of the page, unchanged and in its own folder, prints the balance with a nonce of the bot's file."""
    result = run_script(
        write_script(tmp_path / "mine", example_code(title)), script_environment(simulator, tmp_path / "state")
    )
    assert result.returncode == 0, result.stderr
    assert "10000.0" in result.stdout
    [request] = simulator.request_log
    assert (request.error, request.nonce) == ("", (tmp_path / "state" / "kraken_nonce.txt").read_text("ascii"))


def test_the_settings_beside_main_count_from_any_folder(simulator: Simulator, tmp_path: Path) -> None:
    """With an empty environment a script in another folder uses key, URL and nonce file of the `.env` beside main.py,
    and not the `.env` in its own folder."""
    program, mine = tmp_path / "program", tmp_path / "mine"
    shutil.copytree(ROOT / "bot", program / "bot", ignore=shutil.ignore_patterns("__pycache__", "kraken_nonce*"))
    settings = script_environment(simulator, Path("state"))
    (program / ".env").write_text("".join(f"{name}={value}\n" for name, value in settings.items() if value))
    path = write_script(mine, example_code("krakenex"))
    (mine / ".env").write_text("STATE_DIR=wrong\nKRAKEN_API_KEY=wrong\n")
    result = run_script(path, {}, program)
    assert result.returncode == 0, result.stderr
    assert [request.nonce for request in simulator.request_log] == [
        (program / "state" / "kraken_nonce.txt").read_text("ascii")
    ]
    assert sorted(file.name for file in mine.iterdir()) == [".env", "my_script.py"]


@pytest.mark.parametrize("title", CLIENTS)
def test_a_clients_own_nonces_do_not_fit(title: str, simulator: Simulator, tmp_path: Path) -> None:
    """Without its nonce line krakenex or ccxt is refused and the bot is not; one call of python-kraken-sdk is accepted,
    and every nonce of the bot is refused from then on."""
    environment = script_environment(simulator, tmp_path / "state")
    ours = write_script(tmp_path / "ours", example_code("krakenex"))
    lines = example_code(title).splitlines(keepends=True)
    lines_without_nonce = [line for line in lines if not ("nonce" in line and " = " in line)]
    assert len(lines_without_nonce) == len(lines) - 1
    theirs = write_script(tmp_path / "theirs", "".join(lines_without_nonce))
    for path in (ours, theirs, ours, ours):
        run_script(path, environment)
    raises_floor = title == "python-kraken-sdk"
    assert request_errors(simulator) == (["", "", INVALID, INVALID] if raises_floor else ["", INVALID, "", ""])


def test_the_clients_are_as_the_page_says() -> None:
    """The nonces of krakenex and ccxt have 13 digits, those of python-kraken-sdk 18, as text; ccxt repeats nothing,
    waits up to 3 s before a private call, and has timeouts of 10 s, as python-kraken-sdk has."""
    exchange = ccxt.kraken()
    assert [len(str(nonce)) for nonce in (krakenex.API()._nonce(), exchange.nonce())] == [13, 13]
    assert re.fullmatch(r"\d{18}", User().get_nonce())
    assert exchange.handle_option_and_params({}, "Balance", "maxRetriesOnFailure", 0) == [0, {}]
    method = exchange.api["private"]["post"]["Balance"]  # a number up to 4.5.64
    assert (method["cost"] if isinstance(method, dict) else method) * exchange.rateLimit == 3000
    assert (exchange.enableRateLimit, exchange.timeout, User.TIMEOUT) == (True, 10_000, 10)


def test_scripts_beside_a_running_bot(tmp_path: Path) -> None:
    """While main.py trades live, the three programs of the page run with its settings, and no call is refused."""
    with trading_kraken(tmp_path / "state") as kraken:
        with running(settings=kraken.settings(), until="filled: buy") as bot:
            for title in CLIENTS:
                result = run_script(
                    write_script(tmp_path / title, example_code(title)), isolated_settings(kraken.settings())
                )
                assert result.returncode == 0, result.stderr
            assert bot.stop() == 0
        assert kraken.request_methods.count("Balance") == 2
        assert kraken.refused_nonces == 0


# Many senders at once


def test_the_bot_and_three_clients_are_never_refused(
    store: str, jittery_simulator: Simulator, tmp_path: Path, full_size: bool
) -> None:
    """With two brokers of two threads and a script for each client at once on one key, over a network that reorders
    requests, every call is answered and none is refused; with a store each has its own state folder."""
    times, reads = (40, 80) if full_size else (3, 6)
    run_scripts_concurrently(jittery_simulator, tmp_path, store, [example_code(name) for name in CLIENTS], times, reads)
    assert request_errors(jittery_simulator) == [""] * (3 * times + 2 * 2 * reads)


def test_without_the_request_lock_some_are_refused(store: str, jittery_simulator: Simulator, tmp_path: Path) -> None:
    """Of two scripts that use the shared nonces without the request lock some calls are refused."""
    scripts = [
        example_code(name).replace("with kraken_request_lock():", "if True:")
        for name in ("krakenex", "python-kraken-sdk")
    ]
    assert all("if True:" in script for script in scripts)
    run_scripts_concurrently(jittery_simulator, tmp_path, store, scripts, times=30, reads=0)
    assert set(request_errors(jittery_simulator)) == {"", INVALID}


def request_balance(api: krakenex.API) -> None:
    """Request the balance under the request lock."""
    with kraken_request_lock(api_key=api.key):
        response = api.query_private("Balance", timeout=(3, 10))
    assert response["error"] == []


@pytest.mark.usefixtures("shared_key")
def test_threads_of_a_script_share_the_request_lock(jittery_simulator: Simulator) -> None:
    """Four threads of one process, each with its own client, are never refused."""

    def work() -> None:
        api = open_krakenex(jittery_simulator)
        for _ in range(5):
            request_balance(api)
        api.close()

    assert run_in_threads(4, work) == []
    assert request_errors(jittery_simulator) == [""] * 20


def test_children_forked_under_the_lock_acquire_their_own(
    store: str, jittery_simulator: Simulator, tmp_path: Path
) -> None:
    """Children that a script forks while it holds the lock acquire the lock themselves, and no call is refused."""
    result = run_script(
        write_script(tmp_path / "mine", FORKING_SCRIPT),
        script_environment(jittery_simulator, tmp_path / "state", store),
    )
    assert result.returncode == 0, result.stderr
    assert request_errors(jittery_simulator) == [""] * 8


# Scripts that hang or are killed


def test_a_script_that_holds_the_lock_delays_the_bot_for_a_bounded_time(
    shared_key: Path, store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a script on the machine holds the lock, the bot's reads and orders raise RequestLockTimeout and are not
    sent, and a cancel is sent without the lock; after the script has finished the bot works again."""
    with open_broker_setup() as setup:
        broker = setup.broker
        txid = broker.private_call("AddOrder", ORDER)["txid"][0]
        sent_count = len(setup.request_methods())
        with start_lock_holder(setup.simulator, shared_key, shared_key, store) as script:
            script.expect_line("held")
            monkeypatch.setattr(broker_manager, "LOCK_TIMEOUT_SECONDS", 0.2)
            with pytest.raises(RequestLockTimeout):
                broker.private_call("Balance")
            with pytest.raises(RequestLockTimeout):
                broker.private_call("AddOrder", ORDER)
            assert broker.unknown_orders() == []
            assert len(setup.request_methods()) == sent_count
            assert broker.cancel_order(txid, "BTC/USD")
            assert setup.request_methods()[sent_count:] == ["CancelOrder"]
            script.write_line("send")
            # The cancel had a higher nonce.
            assert script.read_to_end() == [f"['{INVALID}']"]
        monkeypatch.setattr(broker_manager, "LOCK_TIMEOUT_SECONDS", 20.0)
        broker.private_call("Balance")
        assert setup.refused_nonce_count() == 1


@pytest.mark.parametrize("store", ["redis", pytest.param("postgres", marks=pytest.mark.soak)], indirect=True)
def test_a_host_that_holds_the_lock_too_long_loses_it(shared_key: Path, store: str, tmp_path: Path) -> None:
    """A script that holds the lock for longer than its lifetime loses it to the bot on another host; only the script's
    own request is then refused."""
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


def test_the_lock_of_a_killed_script_is_released_or_expires(shared_key: Path, store: str, tmp_path: Path) -> None:
    """The lock of a killed script is free at once without a store; in a store it is held until its lifetime is over,
    and then the bot continues without a refusal."""
    with open_broker_setup() as setup:
        with start_lock_holder(setup.simulator, shared_key, shared_key, store) as script:
            script.expect_line("held")
            script.kill()
        if store:
            with (
                pytest.raises(RequestLockTimeout, match="another host"),
                kraken_request_lock(0.05, api_key=setup.simulator.key),
            ):
                raise AssertionError("acquired")
        else:
            setup.broker.private_call("Balance")
    with open_broker_setup() as setup:
        with start_lock_holder(setup.simulator, shared_key, shared_key, store, lock_seconds=0.5) as script:
            script.expect_line("held")
            script.kill()
        setup.broker.private_call("Balance")
        assert request_errors(setup.simulator) == [""]


def test_ctrl_c_releases_the_lock(shared_key: Path, store: str, tmp_path: Path) -> None:
    """A script that Ctrl-C ends releases the lock, in a store too; one that SIGTERM ends leaves the lock held in a
    store, and free without a store."""
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
                    raise AssertionError("acquired")
            else:
                with kraken_request_lock(api_key=key):
                    pass


# Errors


def test_the_request_lock_needs_a_key(nonce_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a key in the settings `kraken_request_lock()` raises a SettingsError that names KRAKEN_API_KEY, and
    creates no file; `get_kraken_nonce()` needs no key."""
    for name in ("KRAKEN_API_KEY", "KRAKEN_API_KEY_FILE"):
        monkeypatch.setenv(name, "")
    with pytest.raises(SettingsError, match="KRAKEN_API_KEY is not set") as caught, kraken_request_lock():
        raise AssertionError("acquired")
    assert len(caught.value.problems) == 1
    assert list(nonce_file.parent.iterdir()) == []
    assert get_kraken_nonce() == int(nonce_file.read_text("ascii"))


@pytest.mark.usefixtures("shared_key")
def test_a_nested_request_lock_is_an_error_at_once() -> None:
    """Acquiring a key's lock twice in one thread raises NonceError, and the first stays held; the lock of another key
    can be acquired, another thread waits, and after the block the lock is free."""
    timed_out: list[RequestLockTimeout] = []

    def wait_until_timeout() -> None:
        try:
            with kraken_request_lock(0.0, api_key="one"):
                raise AssertionError("acquired")
        except RequestLockTimeout as error:
            timed_out.append(error)

    with kraken_request_lock(api_key="one"):
        with (
            pytest.raises(NonceError, match="holds the key's request lock already"),
            kraken_request_lock(api_key="one"),
        ):
            raise AssertionError("acquired")
        with kraken_request_lock(0.0, api_key="two"):
            pass
        thread = threading.Thread(target=wait_until_timeout)
        thread.start()
        thread.join()
        assert len(timed_out) == 1
    with kraken_request_lock(api_key="one"):
        pass


@pytest.mark.usefixtures("shared_key")
def test_a_broker_called_under_the_lock_times_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """A KrakenBroker that is called under the key's lock raises RequestLockTimeout and sends nothing; after it, it
    works."""
    with open_broker_setup() as setup:
        with kraken_request_lock(api_key=setup.simulator.key), monkeypatch.context() as patch:
            patch.setattr(broker_manager, "LOCK_TIMEOUT_SECONDS", 0.05)
            with pytest.raises(RequestLockTimeout):
                setup.broker.private_call("Balance")
        assert setup.request_methods() == []
        setup.broker.private_call("Balance")


def test_a_key_in_nanoseconds_needs_the_unit(shared_key: Path, store: str, tmp_path: Path) -> None:
    """If the bot's nonces are nanoseconds, a script with unit="ns" shares them; one without is refused by Kraken or,
    with a store, by the store before anything is sent."""
    with open_broker_setup(nonce_unit="ns") as setup:
        environment = script_environment(setup.simulator, shared_key, store) | {"NONCE_UNIT": "ns"}
        code = example_code("krakenex")
        nanosecond_code = code.replace("= get_kraken_nonce\n", '= lambda: get_kraken_nonce(unit="ns")\n').replace(
            "kraken_request_lock():", 'kraken_request_lock(unit="ns"):'
        )
        setup.broker.private_call("Balance")
        assert run_script(write_script(tmp_path / "nanoseconds", nanosecond_code), environment).returncode == 0
        result = run_script(write_script(tmp_path / "microseconds", code), environment)
        setup.broker.private_call("Balance")
        assert request_errors(setup.simulator) == (["", "", ""] if store else ["", "", INVALID, ""])
        assert ("NonceAheadError" in result.stderr) == bool(store)


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
