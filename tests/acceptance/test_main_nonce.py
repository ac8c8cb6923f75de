"""`nonce show`, and the nonce lines of check and run, with the file and with real stores."""

from __future__ import annotations

from pathlib import Path

import pytest

from bot.base.clock import wall_us
from bot.nonce.file_store import NANOSECONDS
from bot.nonce.store_protocol import NonceRequest, NonceStore
from tests.acceptance.local_kraken import LocalKraken
from tests.acceptance.nonce_tools import (
    BOTH_STORES,
    HOUR_US,
    LEASE_SECONDS,
    closed_port,
    key_state_file,
    next_nonce,
    store_location,
    stored_record,
    write_nonce_file,
)
from tests.acceptance.processes import run, running

# show


def test_show_of_a_new_store_writes_nothing(kraken: LocalKraken, url: str, nonce_store: NonceStore) -> None:
    """`nonce show` reports that store and file have no nonce yet, and creates none."""
    bot = run("nonce", "show", settings=kraken.settings(NONCE_STORE=url))
    assert bot.lines == [
        f"nonce    none yet in {store_location(url)}",
        "lock     held by nobody",
        "leader   nobody has led yet",
        f"replica  none yet in {kraken.state / 'kraken_nonce.txt'}",
    ]
    assert nonce_store.read_record() is None
    assert not kraken.state.exists()


@BOTH_STORES
def test_show_prints_the_record_and_does_not_change_it(kraken: LocalKraken, url: str, nonce_store: NonceStore) -> None:
    """`nonce show` prints the last nonce, its unit, the lock owner and the leader, and changes none of them."""
    ahead = wall_us() + HOUR_US
    lease = nonce_store.acquire_lease("alpha:1:aa", LEASE_SECONDS)
    nonce_store.acquire_lock(NonceRequest(ahead, ahead + HOUR_US), "beta:2:bb", LEASE_SECONDS)
    write_nonce_file(kraken.state, ahead - 1)
    bot = run("nonce", "show", settings=kraken.settings(NONCE_STORE=url))
    (nonce,) = bot.wait_for("^nonce ")
    assert nonce.startswith(f"nonce    {ahead} (16 digits, us), 3")
    assert nonce.endswith(f" s ahead of the clock, in {store_location(url)}")
    assert bot.wait_for("^lock ") == ["lock     held by beta:2:bb"]
    assert bot.wait_for(
        rf"^leader   alpha:1:aa leads with fencing token {lease.fencing_token}; the lease ends in \d\d\.\d s$"
    )
    assert bot.wait_for(rf"^replica  {ahead - 1}, .* s ahead of the clock, in {kraken.state}/kraken_nonce\.txt$")
    record = stored_record(nonce_store)
    assert (record.last_nonce, record.lock_owner, record.lease.owner) == (ahead, "beta:2:bb", "alpha:1:aa")


def test_show_distinguishes_a_released_lease_from_an_expired_one(
    kraken: LocalKraken, url: str, nonce_store: NonceStore
) -> None:
    """`nonce show` reports whether the lease was released or has expired."""
    settings = kraken.settings(NONCE_STORE=url)
    expired_token = nonce_store.acquire_lease("alpha:1:aa", 0.0).fencing_token
    leader_lines = run("nonce", "show", settings=settings).wait_for("^leader ")
    assert leader_lines == [
        f"leader   nobody leads: the lease of alpha:1:aa with fencing token {expired_token} has expired"
    ]
    released_token = nonce_store.acquire_lease("beta:2:bb", LEASE_SECONDS).fencing_token
    nonce_store.release_lease(released_token, is_reconciled=True)
    leader_lines = run("nonce", "show", settings=settings).wait_for("^leader ")
    assert leader_lines == [f"leader   nobody leads: the holder of fencing token {released_token} released the lease"]


def test_show_prints_a_nanosecond_nonce(kraken: LocalKraken, url: str, nonce_store: NonceStore) -> None:
    """`nonce show` detects a nanosecond record by its 19 digits, and reports that NONCE_UNIT=us cannot be used."""
    nonce = next_nonce(nonce_store, unit=NANOSECONDS)
    bot = run("nonce", "show", settings=kraken.settings(NONCE_STORE=url))
    assert bot.wait_for("^nonce ") == [
        f"nonce    {nonce} (19 digits, ns), not ahead of the clock, in {store_location(url)}"
    ]
    assert bot.wait_for("With NONCE_UNIT=us no nonce above it can be issued")
    bot = run("nonce", "show", settings=kraken.settings(NONCE_STORE=url, NONCE_UNIT="ns"))
    assert "NONCE_UNIT" not in bot.text
    assert bot.wait_for("^replica ") == [f"replica  none yet in {key_state_file(kraken)}"]


@pytest.mark.parametrize("scheme", ["redis", "postgresql"])
def test_show_prints_the_file_when_the_store_is_unavailable(kraken: LocalKraken, scheme: str) -> None:
    """If the store does not answer, `nonce show` says so in one sentence, prints the file, and ends with 4."""
    write_nonce_file(kraken.state, 1_700_000_000_000_000)
    location = f"{scheme}://127.0.0.1:{closed_port()}/0"
    url = location.replace("//", "//bot:hunter2@")
    bot = run("nonce", "show", settings=kraken.settings(NONCE_STORE=url), exit_code=4)
    assert bot.wait_for("^replica  1700000000000000, not ahead of the clock")
    assert f"Stopped: the nonce store {location} " in bot.lines[-1]
    assert "hunter2" not in bot.text


def test_show_in_paper_mode_prints_no_record(state: Path, url: str) -> None:
    """In paper mode without a key `nonce show` reports that only a run knows the paper account's record, and ends with
    0."""
    bot = run("nonce", "show", settings={"STATE_DIR": str(state), "NONCE_STORE": url})
    assert bot.wait_for("^nonce    not known: .*KRAKEN_API_KEY is not set$")
    assert bot.wait_for("^paper    the paper account has a key of its own there, which only its run knows$")
    assert bot.wait_for("^replica  none yet")


def test_show_of_a_nanosecond_key_prints_its_own_file(kraken: LocalKraken) -> None:
    """Without a store and with NONCE_UNIT=ns `nonce show` prints the key's own file."""
    kraken.state.mkdir()
    key_state_file(kraken).write_text("1700000000000000000", "ascii")
    bot = run("nonce", "show", settings=kraken.settings(NONCE_UNIT="ns"))
    assert bot.lines == [f"1700000000000000000, not ahead of the clock, in {key_state_file(kraken)}"]


# check and run


@BOTH_STORES
def test_check_reports_the_store(kraken: LocalKraken, url: str, nonce_store: NonceStore) -> None:
    """check reports the store, its nonce and the local replica, and calls Kraken if no instance leads with the key."""
    last_nonce = next_nonce(nonce_store)
    bot = run("check", settings=kraken.settings(NONCE_STORE=url))
    (line,) = bot.wait_for("^ok       nonce: ")
    assert line.startswith(f"ok       nonce: {last_nonce} (16 digits, us), ")
    assert line.endswith(f"in {store_location(url)}; the local replica can be written")
    assert bot.wait_for("^ok       key: works")
    assert stored_record(nonce_store).lease.fencing_token == 0


def test_check_sends_nothing_while_another_instance_leads(
    kraken: LocalKraken, url: str, nonce_store: NonceStore
) -> None:
    """While another instance leads, check takes no nonce, sends no private request, names the leader, ends with 0."""
    nonce_store.acquire_lease("alpha:1:aa", LEASE_SECONDS)
    last_nonce = next_nonce(nonce_store)
    bot = run("check", settings=kraken.settings(NONCE_STORE=url))
    assert bot.wait_for("^ok       key: not checked: alpha:1:aa leads")
    assert kraken.request_methods == []
    assert (stored_record(nonce_store).last_nonce, stored_record(nonce_store).lease.owner) == (last_nonce, "alpha:1:aa")


def test_check_in_paper_mode_reports_whether_the_store_answers(state: Path, url: str) -> None:
    """In paper mode check reports that the store answers, and that it cannot read the paper account's record."""
    bot = run("check", settings={"STATE_DIR": str(state), "NONCE_STORE": url})
    assert bot.wait_for(f"^ok       nonce: {store_location(url)} answers; the paper account has a key of its own there")


def test_check_reports_the_store_while_the_clock_is_unknown(
    kraken: LocalKraken, url: str, nonce_store: NonceStore
) -> None:
    """If Kraken does not answer, check still prints the store's nonce, and takes none."""
    last_nonce = next_nonce(nonce_store)
    settings = kraken.settings(NONCE_STORE=url, KRAKEN_API_URL=f"http://127.0.0.1:{closed_port()}")
    bot = run("check", settings=settings, exit_code=5)
    (line,) = bot.wait_for("^ok       nonce: ")
    assert line.startswith(f"ok       nonce: {last_nonce} (16 digits, us), ")
    assert line.endswith(f"in {store_location(url)}")
    assert stored_record(nonce_store).last_nonce == last_nonce


@pytest.mark.parametrize("mode", ["paper", "live"])
def test_check_names_an_unavailable_store(kraken: LocalKraken, mode: str) -> None:
    """If the store does not answer, check names it and ends with 4."""
    location = f"127.0.0.1:{closed_port()}/0"
    settings = kraken.settings(NONCE_STORE=f"redis://:hunter2@{location}", TRADING_MODE=mode)
    bot = run("check", settings=settings, exit_code=4)
    assert f"redis://{location}" in bot.wait_for("^PROBLEM  nonce")[0]
    assert "hunter2" not in bot.text
    assert kraken.request_methods == []


def test_a_start_ends_when_its_store_is_unavailable(kraken: LocalKraken) -> None:
    """If the store does not answer at the start, the bot names it, sends no private request, and ends with 4."""
    location = f"127.0.0.1:{closed_port()}/0"
    bot = run(settings=kraken.settings(NONCE_STORE=f"redis://:hunter2@{location}"), exit_code=4)
    assert bot.wait_for(f"^Stopped: the nonce store redis://{location} is unreachable")
    assert "hunter2" not in bot.text
    assert kraken.request_methods == []


def test_check_names_a_nanosecond_record(kraken: LocalKraken, url: str, nonce_store: NonceStore) -> None:
    """For a record far ahead of the clock check says so, ends with 4, and changes neither record nor file."""
    nonce = next_nonce(nonce_store, unit=NANOSECONDS)
    bot = run("check", settings=kraken.settings(NONCE_STORE=url), exit_code=4)
    assert f"holds {nonce}, and the next nonce would be more than a day ahead" in bot.wait_for("^PROBLEM  nonce")[0]
    assert stored_record(nonce_store).last_nonce == nonce
    assert not (kraken.state / "kraken_nonce.txt").exists()


def test_check_names_a_local_replica_that_cannot_be_written(kraken: LocalKraken, redis_url: str) -> None:
    """If a folder is in place of the nonce file, check names it as the local replica and ends with 4."""
    (kraken.state / "kraken_nonce.txt").mkdir(parents=True)
    bot = run("check", settings=kraken.settings(NONCE_STORE=redis_url), exit_code=4)
    (line,) = bot.wait_for("^PROBLEM  nonce")
    assert f"{kraken.state}/kraken_nonce.txt cannot be written" in line
    assert "local replica" in line


@BOTH_STORES
def test_a_run_prints_the_store(kraken: LocalKraken, url: str, nonce_store: NonceStore) -> None:
    """The nonce line of a leading run has the store's nonce and location."""
    bot = run("--cycles", "1", settings=kraken.settings(NONCE_STORE=url))
    (line,) = bot.wait_for("^Nonce: ")
    assert line.endswith(f" (16 digits, us), not ahead of the clock, in {store_location(url)}")
    assert int(line.split()[1]) < stored_record(nonce_store).last_nonce


def test_a_run_that_lost_leadership_ends_on_standby(kraken: LocalKraken, url: str, nonce_store: NonceStore) -> None:
    """A bot that has led and is stopped on standby reports that it was stopped while not trading."""
    with running(settings=kraken.settings(NONCE_STORE=url), until="nothing to do") as bot:
        nonce_store.release_lease(stored_record(nonce_store).lease.fencing_token, is_reconciled=True)
        nonce_store.acquire_lease("alpha:1:aa", LEASE_SECONDS)
        bot.wait_for("^Standby: alpha:1:aa leads")
        assert bot.stop() == 0
    assert bot.lines[-1] == "Ended: stopped while not trading."
