"""`nonce migrate` and `nonce adopt`: another location and another unit for the nonces of a key, with real stores."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, closing
from pathlib import Path

import pytest

from bot.base.clock import boottime_seconds, wall_us
from bot.kraken.breaker_file import BreakerFile
from bot.nonce.file_store import MICROSECONDS, NANOSECONDS, NonceUnit
from bot.nonce.open_store import open_nonce_store
from bot.nonce.store_protocol import NonceStore
from bot.simulator.options import SimulatorOptions
from tests.acceptance.local_kraken import LocalKraken, local_kraken
from tests.acceptance.nonce_tools import (
    BOTH_STORES,
    HOUR_US,
    LEASE_SECONDS,
    bot_request_methods,
    closed_port,
    key_state_file,
    next_nonce,
    raise_nonce_floor,
    store_location,
    stored_record,
    write_nonce_file,
)
from tests.acceptance.processes import isolated_settings, run, running, stored_nonce
from tests.conftest import ROOT
from tests.servers import Server, open_postgres, open_redis

UNITS = pytest.mark.parametrize("unit", [MICROSECONDS, NANOSECONDS], ids=lambda unit: unit.name)


# migrate


@UNITS
def test_migrate_carries_the_floor_through_every_store(
    kraken: LocalKraken, redis_url: str, postgres_url: str, unit: NonceUnit
) -> None:
    """From file to Redis to PostgreSQL to file, each next nonce is in NONCE_UNIT and above all issued before."""
    file = key_state_file(kraken) if unit is NANOSECONDS else kraken.state / "kraken_nonce.txt"
    kraken.state.mkdir()
    floor = (wall_us() + HOUR_US) * unit.units_per_microsecond
    file.write_text(str(floor), "ascii")

    def settings(store: str) -> dict[str, str]:
        return kraken.settings(NONCE_STORE=store, NONCE_UNIT=unit.name)

    source = ""
    for target in (redis_url, postgres_url):
        bot = run("nonce", "migrate", "--to", target, settings=settings(source))
        source_location = store_location(source) if source else file
        assert bot.lines[:2] == [
            f"floor    {floor} in {source_location}, which is left as it is",
            f"moved    the next nonce in {store_location(target)} is above it",
        ]
        assert bot.lines[2].startswith("setting  set NONCE_STORE to the address that you have given: in .env ")
        with closing(open_nonce_store(target, kraken.simulator.key)) as nonce_store:
            nonce = next_nonce(nonce_store, unit=unit)
        assert nonce > floor
        floor, source = nonce, target
    bot = run("nonce", "migrate", "--to", "file", settings=settings(source))
    assert bot.lines[2].startswith("setting  take NONCE_STORE out: in .env ")
    assert int(file.read_text("ascii")) >= floor
    assert len(str(floor)) == unit.digits
    # With the whole program: the first nonce that is sent is above it.
    raise_nonce_floor(kraken, floor)
    run("check", settings=settings(""))
    assert kraken.refused_nonces == 0


def test_migrate_converts_to_the_configured_unit(kraken: LocalKraken, redis_url: str, postgres_url: str) -> None:
    """A record in microseconds, moved with NONCE_UNIT=ns, becomes one in nanoseconds in the new store."""
    with closing(open_nonce_store(redis_url, kraken.simulator.key)) as nonce_store:
        next_nonce(nonce_store)
    settings = kraken.settings(NONCE_STORE=redis_url, NONCE_UNIT="ns")
    run("nonce", "migrate", "--to", postgres_url, settings=settings)
    with closing(open_nonce_store(postgres_url, kraken.simulator.key)) as nonce_store:
        assert len(str(stored_record(nonce_store).last_nonce)) == NANOSECONDS.digits


def test_migrate_reads_the_address_from_standard_input(kraken: LocalKraken, url: str, nonce_store: NonceStore) -> None:
    """With `--to -` the address is read from standard input."""
    ahead = wall_us() + HOUR_US
    write_nonce_file(kraken.state, ahead)
    command = [sys.executable, str(ROOT / "main.py"), "nonce", "migrate", "--to", "-"]
    environment = {**os.environ, **isolated_settings(kraken.settings())}
    subprocess.run(command, input=f"{url}\n", text=True, env=environment, check=True, capture_output=True)
    assert stored_record(nonce_store).last_nonce >= ahead


def test_migrate_does_not_change_the_source_and_may_be_repeated(
    kraken: LocalKraken, url: str, nonce_store: NonceStore
) -> None:
    """A second migration ends with 0 and changes neither record nor file; the first does not change the file."""
    ahead = wall_us() + HOUR_US
    write_nonce_file(kraken.state, ahead)
    records = []
    for _ in range(2):
        run("nonce", "migrate", "--to", url, settings=kraken.settings())
        records.append(stored_record(nonce_store))
        assert stored_nonce(kraken.state) == ahead
    assert records[0] == records[1]


def test_migrate_uses_the_local_replica_of_a_wiped_store(kraken: LocalKraken, redis_url: str) -> None:
    """If the store has lost the key's record, migrate to a file takes the floor from the local replica."""
    ahead = wall_us() + HOUR_US
    write_nonce_file(kraken.state, ahead)
    bot = run("nonce", "migrate", "--to", "file", settings=kraken.settings(NONCE_STORE=redis_url))
    assert bot.lines[0].startswith(f"floor    {ahead} in ")
    assert stored_nonce(kraken.state) == ahead


def test_migrate_without_a_nonce_reports_it(kraken: LocalKraken, url: str, nonce_store: NonceStore) -> None:
    """If no nonce was issued yet, migrate says so, names the setting, creates no record, and ends with 0."""
    bot = run("nonce", "migrate", "--to", url, settings=kraken.settings())
    assert bot.lines[0].startswith("floor    none: no nonce was issued yet in ")
    assert bot.lines[1].startswith("setting  set NONCE_STORE")
    assert nonce_store.read_record() is None


@pytest.mark.parametrize("arguments", [("migrate", "--to", "file"), ("adopt", "--yes")], ids=lambda args: args[0])
def test_nothing_is_changed_while_a_bot_runs(kraken: LocalKraken, redis_url: str, arguments: tuple[str, ...]) -> None:
    """While a bot runs on the state folder, migrate and adopt name its process, end with 6, and write nothing."""
    with running(settings=kraken.settings(), until="nothing to do") as bot:
        settings = kraken.settings(NONCE_STORE=redis_url)
        refused_run = run("nonce", *arguments, settings=settings, exit_code=6)
        assert f"process {bot.pid} on " in refused_run.text
        assert not key_state_file(kraken).exists()
        assert bot.stop() == 0
    assert kraken.refused_nonces == 0


def test_migrate_is_refused_while_another_instance_leads(
    kraken: LocalKraken, redis_url: str, postgres_url: str
) -> None:
    """While an instance leads in the source or in the target, migrate names it, ends with 6, and moves nothing."""
    write_nonce_file(kraken.state, wall_us())
    with (
        closing(open_nonce_store(redis_url, kraken.simulator.key)) as led_store,
        closing(open_nonce_store(postgres_url, kraken.simulator.key)) as other_store,
    ):
        led_store.acquire_lease("alpha:1:aa", LEASE_SECONDS)
        last_nonce = next_nonce(led_store)
        for source, target in ((redis_url, postgres_url), (postgres_url, redis_url)):
            settings = kraken.settings(NONCE_STORE=source)
            bot = run("nonce", "migrate", "--to", target, settings=settings, exit_code=6)
            assert bot.wait_for("^Stopped: alpha:1:aa leads with fencing token .* Stop it first")
        assert (stored_record(led_store).last_nonce, other_store.read_record()) == (last_nonce, None)


def test_a_leader_on_another_host_is_reported_and_not_disturbed(
    kraken: LocalKraken, tmp_path: Path, redis_url: str
) -> None:
    """While a leading bot runs on another state folder, show and check name its process, and migrate and adopt end with
    6; after its end show reports the released lease.
    """
    other_settings = kraken.settings(NONCE_STORE=redis_url, STATE_DIR=str(tmp_path / "here"))
    with running(settings=kraken.settings(NONCE_STORE=redis_url), until="nothing to do") as bot:
        assert run("nonce", "show", settings=other_settings).wait_for(
            rf"^leader   \S+:{bot.pid}:\w+ leads with fencing token \d+; "
        )
        assert run("check", settings=other_settings).wait_for(rf"^ok       key: not checked: \S+:{bot.pid}:\w+ leads")
        for arguments in (("migrate", "--to", "file"), ("adopt", "--yes")):
            assert f":{bot.pid}:" in run("nonce", *arguments, settings=other_settings, exit_code=6).lines[-1]
        assert bot.stop() == 0
    assert run("nonce", "show", settings=other_settings).wait_for(
        "^leader   nobody leads: the holder of fencing token .* released the lease"
    )
    assert kraken.refused_nonces == 0
    assert kraken.nonce_floor < 10**MICROSECONDS.digits


def test_migrate_to_the_source_is_refused(kraken: LocalKraken, url: str) -> None:
    """If source and target are the same location, migrate says so and ends with 2."""
    bot = run("nonce", "migrate", "--to", "file", settings=kraken.settings(), exit_code=2)
    assert "where the nonces of this key are already" in bot.lines[-1]
    bot = run("nonce", "migrate", "--to", url, settings=kraken.settings(NONCE_STORE=url), exit_code=2)
    assert f"{store_location(url)}, where the nonces of this key are already" in bot.lines[-1]


@pytest.mark.parametrize(
    "target",
    ["", "redis://:hunter2@h:port", "redis://h:6379/hunter2"],
)
def test_migrate_to_an_invalid_address_is_a_wrong_setting(kraken: LocalKraken, target: str) -> None:
    """A target that is neither `file` nor a store's address ends with 2, and is not printed."""
    bot = run("nonce", "migrate", "--to", target, settings=kraken.settings(), exit_code=2)
    assert "hunter2" not in bot.text
    assert bot.wait_for("^Stopped: .*(must look like redis://|cannot be used)")


def test_migrate_needs_a_key(state: Path, redis_url: str) -> None:
    """Without KRAKEN_API_KEY migrate names it and ends with 2."""
    bot = run("nonce", "migrate", "--to", redis_url, settings={"STATE_DIR": str(state)}, exit_code=2)
    assert "KRAKEN_API_KEY is not set" in bot.lines[-1]


def test_migrate_from_or_to_an_unavailable_store_fails(kraken: LocalKraken, redis_url: str) -> None:
    """If the source or the target does not answer, migrate names it without the password and ends with 4."""
    unreachable_url = f"redis://:hunter2@127.0.0.1:{closed_port()}/0"
    write_nonce_file(kraken.state, wall_us())
    for source, target in ((unreachable_url, redis_url), ("", unreachable_url)):
        bot = run("nonce", "migrate", "--to", target, settings=kraken.settings(NONCE_STORE=source), exit_code=4)
        assert f"the nonce store {store_location(unreachable_url)} is unreachable" in bot.lines[-1]
        assert "hunter2" not in bot.text


def test_migrate_does_not_mix_units(kraken: LocalKraken, redis_url: str, postgres_url: str) -> None:
    """With NONCE_UNIT=us a record in nanoseconds, as source or as target, ends migrate with 4, and nothing is moved."""
    with closing(open_nonce_store(redis_url, kraken.simulator.key)) as nonce_store:
        nonce = next_nonce(nonce_store, unit=NANOSECONDS)
        write_nonce_file(kraken.state, wall_us())
        for source, target in ((redis_url, postgres_url), ("", redis_url)):
            bot = run("nonce", "migrate", "--to", target, settings=kraken.settings(NONCE_STORE=source), exit_code=4)
            assert f"holds {nonce}, more than a day ahead of the clock for NONCE_UNIT=us" in bot.lines[-1]
        assert stored_record(nonce_store).last_nonce == nonce
    with closing(open_nonce_store(postgres_url, kraken.simulator.key)) as nonce_store:
        assert nonce_store.read_record() is None


def test_migrate_to_a_file_that_cannot_be_written(kraken: LocalKraken, redis_url: str) -> None:
    """If the file cannot be written, migrate says so and ends with 4."""
    (kraken.state / "kraken_nonce.txt").mkdir(parents=True)
    with closing(open_nonce_store(redis_url, kraken.simulator.key)) as nonce_store:
        next_nonce(nonce_store)
    bot = run("nonce", "migrate", "--to", "file", settings=kraken.settings(NONCE_STORE=redis_url), exit_code=4)
    assert "cannot be written" in bot.lines[-1]


# The way back from a store that is gone

SHORT_LEASE_SECONDS = 3.0
LOCK_SECONDS = 16.0
OPEN_SERVERS = pytest.mark.parametrize("open_server", [open_redis, open_postgres], ids=["redis", "postgres"])
OpenServer = Callable[[Path], AbstractContextManager[Server]]


@pytest.fixture
def server_folder(tmp_path: Path) -> Path:
    """Return a folder for a server of the test's own."""
    folder = tmp_path / "server"
    folder.mkdir()
    return folder


@OPEN_SERVERS
@UNITS
def test_a_host_goes_on_after_its_store_was_killed(
    kraken: LocalKraken, server_folder: Path, open_server: OpenServer, unit: NonceUnit
) -> None:
    """After the store was killed, `migrate --to file --store-is-gone` says that it is for one host alone and waits for
    the lifetimes of a lease and a request lock; then the bot runs on the file, with nonces an hour above all known."""
    with open_server(server_folder) as server:
        settings = kraken.settings(
            NONCE_STORE=server.url, NONCE_UNIT=unit.name, LEASE_SECONDS=str(int(SHORT_LEASE_SECONDS))
        )
        run("--cycles", "1", settings=settings)
        server.kill()
        last_nonce = kraken.nonce_floor
        started_seconds = boottime_seconds()
        bot = run("nonce", "migrate", "--to", "file", "--store-is-gone", "--yes", settings=settings)
        assert boottime_seconds() - started_seconds >= SHORT_LEASE_SECONDS + LOCK_SECONDS
    assert "this host alone" in bot.text
    assert bot.lines[-1].startswith("setting  take NONCE_STORE out")
    run("--cycles", "1", settings=settings | {"NONCE_STORE": ""})
    later = [int(request.nonce) for request in kraken.simulator.request_log if int(request.nonce) > last_nonce]
    assert min(later) >= last_nonce + HOUR_US * unit.units_per_microsecond
    assert kraken.refused_nonces == 0


@OPEN_SERVERS
def test_without_the_option_a_killed_store_changes_nothing(
    kraken: LocalKraken, server_folder: Path, open_server: OpenServer
) -> None:
    """While the store does not answer, `migrate --to file` names the option, ends with 4 and changes nothing."""
    write_nonce_file(kraken.state, nonce := wall_us())
    with open_server(server_folder) as server:
        server.kill()
        settings = kraken.settings(NONCE_STORE=server.url)
        bot = run("nonce", "migrate", "--to", "file", settings=settings, exit_code=4)
    assert "--store-is-gone" in bot.lines[-1]
    assert stored_nonce(kraken.state) == nonce


def test_a_store_that_answers_is_not_gone(kraken: LocalKraken, url: str) -> None:
    """With a store that answers, --store-is-gone ends with 2 and changes nothing."""
    write_nonce_file(kraken.state, nonce := wall_us())
    bot = run(
        *("nonce", "migrate", "--to", "file", "--store-is-gone", "--yes"),
        settings=kraken.settings(NONCE_STORE=url),
        exit_code=2,
    )
    assert "answers: leave --store-is-gone out" in bot.lines[-1]
    assert stored_nonce(kraken.state) == nonce


def test_a_store_that_comes_back_meanwhile_is_not_gone(kraken: LocalKraken, server_folder: Path) -> None:
    """Where the store answers again during the wait, the command ends with 2 and changes nothing."""
    write_nonce_file(kraken.state, nonce := wall_us())
    with open_redis(server_folder) as server:
        server.kill()
        settings = kraken.settings(NONCE_STORE=server.url, LEASE_SECONDS="3")
        with running(
            *("nonce", "migrate", "--to", "file", "--store-is-gone", "--yes"),
            settings=settings,
            until="this host alone",
        ) as bot:
            server.start()
            assert bot.wait_and_check() == 2
        assert "answers: leave --store-is-gone out" in bot.lines[-1]
    assert stored_nonce(kraken.state) == nonce


def test_a_host_without_a_replica_has_no_way_back(kraken: LocalKraken) -> None:
    """On a host without a local replica --store-is-gone says so, ends with 4 and creates no file."""
    settings = kraken.settings(NONCE_STORE=f"redis://127.0.0.1:{closed_port()}/0")
    arguments = ("nonce", "migrate", "--to", "file", "--store-is-gone", "--yes")
    assert "no local replica" in run(*arguments, settings=settings, exit_code=4).lines[-1]
    assert not (kraken.state / "kraken_nonce.txt").exists()


def test_the_way_back_asks_first(kraken: LocalKraken) -> None:
    """Without a terminal and --yes the command ends with 2 and changes nothing."""
    write_nonce_file(kraken.state, nonce := wall_us())
    settings = kraken.settings(NONCE_STORE=f"redis://127.0.0.1:{closed_port()}/0")
    bot = run("nonce", "migrate", "--to", "file", "--store-is-gone", settings=settings, exit_code=2)
    assert "give --yes" in bot.lines[-1]
    assert stored_nonce(kraken.state) == nonce


# adopt


@pytest.fixture
def kraken_with_higher_floor(kraken: LocalKraken) -> LocalKraken:
    """Return a Kraken whose key has a nanosecond floor, beside a common file with a nonce."""
    raise_nonce_floor(kraken, wall_us() * NANOSECONDS.units_per_microsecond)
    write_nonce_file(kraken.state, wall_us())
    return kraken


def test_adopt_detects_that_nanoseconds_work(kraken_with_higher_floor: LocalKraken) -> None:
    """adopt sends one GetApiKeyInfo, stores its nonce in the key's own file, prints the setting, and does not change
    the common file; with the setting the key works.
    """
    common_file_bytes = (kraken_with_higher_floor.state / "kraken_nonce.txt").read_bytes()
    bot = run("nonce", "adopt", "--yes", settings=kraken_with_higher_floor.settings())
    assert bot.lines[-1] == "NONCE_UNIT=ns"
    assert bot_request_methods(kraken_with_higher_floor) == ["GetApiKeyInfo"]
    assert int(key_state_file(kraken_with_higher_floor).read_text("ascii")) == kraken_with_higher_floor.nonce_floor
    assert (kraken_with_higher_floor.state / "kraken_nonce.txt").read_bytes() == common_file_bytes
    run("check", settings=kraken_with_higher_floor.settings(NONCE_UNIT="ns"))
    assert kraken_with_higher_floor.refused_nonces == 0


@BOTH_STORES
def test_adopt_in_a_store_keeps_the_nonce_in_its_record(
    kraken_with_higher_floor: LocalKraken, url: str, nonce_store: NonceStore
) -> None:
    """With a store the nonce is kept in the record, the common file does not change, and adopt warns about other
    programs."""
    next_nonce(nonce_store)
    common_file_bytes = (kraken_with_higher_floor.state / "kraken_nonce.txt").read_bytes()
    bot = run("nonce", "adopt", "--yes", settings=kraken_with_higher_floor.settings(NONCE_STORE=url))
    assert f"The row of this key in {store_location(url)} holds one nonce." in bot.text
    assert "fails with NonceAheadError" in bot.text
    assert bot.lines[-1] == "NONCE_UNIT=ns"
    assert bot_request_methods(kraken_with_higher_floor) == ["GetApiKeyInfo"]
    assert (stored_record(nonce_store).last_nonce, stored_record(nonce_store).lock_owner) == (
        kraken_with_higher_floor.nonce_floor,
        "",
    )
    assert (kraken_with_higher_floor.state / "kraken_nonce.txt").read_bytes() == common_file_bytes
    run("check", settings=kraken_with_higher_floor.settings(NONCE_STORE=url, NONCE_UNIT="ns"))
    assert kraken_with_higher_floor.refused_nonces == 0


def test_adopt_detects_that_no_unit_works(kraken_with_higher_floor: LocalKraken) -> None:
    """If nanoseconds are refused too, adopt sends no second request, recommends a new key, and ends with 4."""
    raise_nonce_floor(kraken_with_higher_floor, wall_us() * NANOSECONDS.units_per_microsecond * 10)
    common_file_bytes = (kraken_with_higher_floor.state / "kraken_nonce.txt").read_bytes()
    bot = run("nonce", "adopt", "--yes", settings=kraken_with_higher_floor.settings(), exit_code=4)
    assert "make a new API key" in bot.lines[-1]
    assert "NONCE_UNIT=ns" not in bot.lines[-1]
    assert bot_request_methods(kraken_with_higher_floor) == ["GetApiKeyInfo"]
    assert (kraken_with_higher_floor.state / "kraken_nonce.txt").read_bytes() == common_file_bytes


def test_adopt_without_a_terminal_needs_yes(kraken_with_higher_floor: LocalKraken, redis_url: str) -> None:
    """Without a terminal and without --yes adopt ends with 2, takes no nonce and sends nothing."""
    bot = run("nonce", "adopt", settings=kraken_with_higher_floor.settings(NONCE_STORE=redis_url), exit_code=2)
    assert "give --yes" in bot.lines[-1]
    assert bot_request_methods(kraken_with_higher_floor) == []
    with closing(open_nonce_store(redis_url, kraken_with_higher_floor.simulator.key)) as nonce_store:
        assert nonce_store.read_record() is None
    assert not key_state_file(kraken_with_higher_floor).exists()


@pytest.mark.parametrize(("answer", "requests"), [("y", 1), ("", 0), ("\x04", 0)], ids=["y", "line", "end"])
def test_adopt_prompts_at_a_terminal(kraken_with_higher_floor: LocalKraken, answer: str, requests: int) -> None:
    """At a terminal adopt sends only after y; after an empty line or the end of input it sends nothing and ends with
    0."""
    terminal, child_side = pty.openpty()
    try:
        os.write(terminal, f"{answer}\n".encode() if answer != "\x04" else b"\x04")
        command = [sys.executable, str(ROOT / "main.py"), "nonce", "adopt"]
        environment = {**os.environ, **isolated_settings(kraken_with_higher_floor.settings())}
        bot = subprocess.run(
            command, env=environment, stdin=child_side, capture_output=True, text=True, timeout=45, check=False
        )
    finally:
        os.close(terminal)
        os.close(child_side)
    assert bot.returncode == 0, bot.stdout + bot.stderr
    assert ("Go on? [y/N]" in bot.stdout, "Nothing was sent." in bot.stdout) == (True, not requests)
    assert len(bot_request_methods(kraken_with_higher_floor)) == requests


def test_adopt_is_refused_while_another_instance_leads(
    kraken_with_higher_floor: LocalKraken, url: str, nonce_store: NonceStore
) -> None:
    """While an instance leads in the store, adopt names it, ends with 6, takes no nonce and sends nothing."""
    nonce_store.acquire_lease("alpha:1:aa", LEASE_SECONDS)
    last_nonce = next_nonce(nonce_store)
    bot = run("nonce", "adopt", "--yes", settings=kraken_with_higher_floor.settings(NONCE_STORE=url), exit_code=6)
    assert bot.wait_for("^Stopped: alpha:1:aa leads")
    assert (stored_record(nonce_store).last_nonce, bot_request_methods(kraken_with_higher_floor)) == (last_nonce, [])


def test_adopt_respects_an_open_circuit_breaker(kraken_with_higher_floor: LocalKraken) -> None:
    """While the circuit breaker is open, adopt sends nothing, prints for how long, and ends with 4."""
    BreakerFile(str(key_state_file(kraken_with_higher_floor, "silence"))).trip(100.0, "refused")
    bot = run("nonce", "adopt", "--yes", settings=kraken_with_higher_floor.settings(), exit_code=4)
    assert "nothing is sent on this key for another" in bot.lines[-1]
    assert bot_request_methods(kraken_with_higher_floor) == []


def test_a_lockout_of_adopt_opens_the_circuit_breaker(state: Path) -> None:
    """If Kraken answers with a lockout, adopt ends with 4, and the next one sends nothing."""
    with local_kraken(state, options=SimulatorOptions(tier="pro", lockout_after=1)) as kraken:
        raise_nonce_floor(kraken, wall_us() * NANOSECONDS.units_per_microsecond * 10)
        run("nonce", "adopt", "--yes", settings=kraken.settings(), exit_code=4)
        locked_out_run = run("nonce", "adopt", "--yes", settings=kraken.settings(), exit_code=4)
        assert "EGeneral:Temporary lockout" in locked_out_run.lines[-1]
        blocked_run = run("nonce", "adopt", "--yes", settings=kraken.settings(), exit_code=4)
        assert "nothing is sent on this key for another" in blocked_run.lines[-1]
        assert bot_request_methods(kraken) == ["GetApiKeyInfo"] * 2


def test_adopt_closes_a_circuit_breaker_whose_time_is_over(kraken_with_higher_floor: LocalKraken) -> None:
    """When the breaker's time is over, the accepted request of adopt is the probe and closes the breaker."""
    BreakerFile(str(key_state_file(kraken_with_higher_floor, "silence"))).trip(0.0, "refused")
    run("nonce", "adopt", "--yes", settings=kraken_with_higher_floor.settings())
    assert not key_state_file(kraken_with_higher_floor, "silence").exists()


def test_adopt_needs_key_and_secret(state: Path) -> None:
    """Without a key adopt names what is missing and ends with 2, in paper mode too."""
    bot = run("nonce", "adopt", "--yes", settings={"STATE_DIR": str(state)}, exit_code=2)
    assert "KRAKEN_API_KEY is empty" in bot.text
    assert "KRAKEN_API_SECRET is empty" in bot.text
