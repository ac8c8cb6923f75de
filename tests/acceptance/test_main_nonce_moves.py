"""`nonce migrate` and `nonce adopt`: another place and another unit for the nonces of a key, with real stores."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from bot.base.clock import wall_us
from bot.kraken.breaker_file import SilenceFile
from bot.nonce.file_store import MICROSECONDS, NANOSECONDS, Unit
from bot.nonce.open_store import open_engine
from bot.nonce.store_protocol import Engine
from bot.simulator.options import SimulatorOptions
from tests.acceptance.local_kraken import LocalKraken, local_kraken
from tests.acceptance.nonce_tools import (
    BOTH_STORES,
    HOUR_US,
    LEASE_SECONDS,
    burn,
    closed_port,
    draw,
    held,
    own_file,
    place_of,
    sent,
    write_common,
)
from tests.acceptance.processes import only, run, running, stored_nonce
from tests.conftest import ROOT

UNITS = pytest.mark.parametrize("unit", [MICROSECONDS, NANOSECONDS], ids=lambda unit: unit.name)


# migrate


@UNITS
def test_migrate_carries_the_floor_through_every_store(
    kraken: LocalKraken, redis_url: str, postgres_url: str, unit: Unit
) -> None:
    """From file to Redis to PostgreSQL to file, each next nonce is in NONCE_UNIT and above all drawn before."""
    file = own_file(kraken) if unit is NANOSECONDS else kraken.state / "kraken_nonce.txt"
    kraken.state.mkdir()
    floor = (wall_us() + HOUR_US) * unit.ticks
    file.write_text(str(floor), "ascii")

    def settings(store: str) -> dict[str, str]:
        return kraken.settings(NONCE_STORE=store, NONCE_UNIT=unit.name)

    source = ""
    for target in (redis_url, postgres_url):
        bot = run("nonce", "migrate", "--to", target, settings=settings(source))
        old = place_of(source) if source else file
        assert bot.lines[:2] == [
            f"floor    {floor} in {old}, which is left as it is",
            f"moved    the next nonce in {place_of(target)} is above it",
        ]
        assert bot.lines[2].startswith("setting  set NONCE_STORE to the address that you have given: in .env ")
        with closing(open_engine(target, kraken.simulator.key)) as engine:
            nonce = draw(engine, unit=unit)
        assert nonce > floor
        floor, source = nonce, target
    bot = run("nonce", "migrate", "--to", "file", settings=settings(source))
    assert bot.lines[2].startswith("setting  take NONCE_STORE out: in .env ")
    assert int(file.read_text("ascii")) >= floor
    assert len(str(floor)) == unit.digits
    # By the whole program: the first nonce that leaves is above it.
    burn(kraken, floor)
    run("check", settings=settings(""))
    assert kraken.refused_nonces == 0


def test_migrate_goes_on_in_the_unit_of_the_settings(kraken: LocalKraken, redis_url: str, postgres_url: str) -> None:
    """A row in microseconds, moved with NONCE_UNIT=ns, is one in nanoseconds in the new store."""
    with closing(open_engine(redis_url, kraken.simulator.key)) as engine:
        draw(engine)
    settings = kraken.settings(NONCE_STORE=redis_url, NONCE_UNIT="ns")
    run("nonce", "migrate", "--to", postgres_url, settings=settings)
    with closing(open_engine(postgres_url, kraken.simulator.key)) as engine:
        assert len(str(held(engine).nonce)) == NANOSECONDS.digits


def test_migrate_reads_an_address_that_nobody_else_may_see(kraken: LocalKraken, url: str, engine: Engine) -> None:
    """With `--to -` the address is a line of standard input, and no word of the command."""
    ahead = wall_us() + HOUR_US
    write_common(kraken.state, ahead)
    command = [sys.executable, str(ROOT / "main.py"), "nonce", "migrate", "--to", "-"]
    environment = {**os.environ, **only(kraken.settings())}
    subprocess.run(command, input=f"{url}\n", text=True, env=environment, check=True, capture_output=True)
    assert held(engine).nonce >= ahead


def test_migrate_leaves_the_old_place_and_may_be_repeated(kraken: LocalKraken, url: str, engine: Engine) -> None:
    """A second migration ends with 0 and changes neither row nor file; the first changes the file in nothing."""
    ahead = wall_us() + HOUR_US
    write_common(kraken.state, ahead)
    rows = []
    for _ in range(2):
        run("nonce", "migrate", "--to", url, settings=kraken.settings())
        rows.append(held(engine))
        assert stored_nonce(kraken.state) == ahead
    assert rows[0] == rows[1]


def test_migrate_goes_by_the_second_copy_where_the_store_was_wiped(kraken: LocalKraken, redis_url: str) -> None:
    """From a store that lost the key's row to a file, the floor is what the second copy holds."""
    ahead = wall_us() + HOUR_US
    write_common(kraken.state, ahead)
    bot = run("nonce", "migrate", "--to", "file", settings=kraken.settings(NONCE_STORE=redis_url))
    assert bot.lines[0].startswith(f"floor    {ahead} in ")
    assert stored_nonce(kraken.state) == ahead


def test_migrate_of_nothing_says_so(kraken: LocalKraken, url: str, engine: Engine) -> None:
    """Where no nonce was drawn yet, migrate says so, names the setting, makes no row, and ends with 0."""
    bot = run("nonce", "migrate", "--to", url, settings=kraken.settings())
    assert bot.lines[0].startswith("floor    none: no nonce was drawn yet in ")
    assert bot.lines[1].startswith("setting  set NONCE_STORE")
    assert engine.look() is None


@pytest.mark.parametrize("words", [("migrate", "--to", "file"), ("adopt", "--yes")], ids=lambda words: words[0])
def test_nothing_is_changed_while_a_bot_runs(kraken: LocalKraken, redis_url: str, words: tuple[str, ...]) -> None:
    """While a bot runs on the state folder migrate and adopt name its process, end with 6, and send nothing."""
    with running(settings=kraken.settings(), until="nothing to do") as bot:
        settings = kraken.settings(NONCE_STORE=redis_url)
        refused = run("nonce", *words, settings=settings, code=6)
        assert f"process {bot.pid} on " in refused.text
        assert not own_file(kraken).exists()
        assert bot.stop() == 0
    assert kraken.refused_nonces == 0


def test_nothing_is_moved_while_another_leads(kraken: LocalKraken, redis_url: str, postgres_url: str) -> None:
    """While an instance leads in the source or in the target migrate names it, ends with 6, and moves nothing."""
    write_common(kraken.state, wall_us())
    with (
        closing(open_engine(redis_url, kraken.simulator.key)) as led,
        closing(open_engine(postgres_url, kraken.simulator.key)) as other,
    ):
        led.acquire("alpha:1:aa", LEASE_SECONDS)
        before = draw(led)
        for source, target in ((redis_url, postgres_url), (postgres_url, redis_url)):
            settings = kraken.settings(NONCE_STORE=source)
            bot = run("nonce", "migrate", "--to", target, settings=settings, code=6)
            assert bot.wait_for("^Stopped: alpha:1:aa leads, .* Stop it first")
        assert (held(led).nonce, other.look()) == (before, None)


def test_a_bot_on_another_host_is_seen_and_left_alone(kraken: LocalKraken, tmp_path: Path, redis_url: str) -> None:
    """While a bot that leads runs on a folder of its own, show and check name its process, migrate and adopt end with
    6; after its end show says that it has signed off.
    """
    here = kraken.settings(NONCE_STORE=redis_url, STATE_DIR=str(tmp_path / "here"))
    with running(settings=kraken.settings(NONCE_STORE=redis_url), until="nothing to do") as bot:
        assert run("nonce", "show", settings=here).wait_for(
            rf"^lead     \S+:{bot.pid}:\w+ leads, generation \d+, with "
        )
        assert run("check", settings=here).wait_for(rf"^ok       key: not asked: \S+:{bot.pid}:\w+ leads")
        for words in (("migrate", "--to", "file"), ("adopt", "--yes")):
            assert f":{bot.pid}:" in run("nonce", *words, settings=here, code=6).lines[-1]
        assert bot.stop() == 0
    assert run("nonce", "show", settings=here).wait_for("^lead     nobody leads: generation .* has signed off")
    assert kraken.refused_nonces == 0
    assert kraken.floor < 10**MICROSECONDS.digits


def test_migrate_to_where_the_nonces_are_is_refused(kraken: LocalKraken, url: str) -> None:
    """Where source and target are the same place migrate says so and ends with 2."""
    bot = run("nonce", "migrate", "--to", "file", settings=kraken.settings(), code=2)
    assert "where the nonces of this key are already" in bot.lines[-1]
    bot = run("nonce", "migrate", "--to", url, settings=kraken.settings(NONCE_STORE=url), code=2)
    assert f"{place_of(url)}, where the nonces of this key are already" in bot.lines[-1]


@pytest.mark.parametrize(
    "target",
    ["", "redis://:hunter2@h:port", "redis://h:6379/hunter2"],
)
def test_migrate_to_no_address_is_a_wrong_setting(kraken: LocalKraken, target: str) -> None:
    """A target that is neither the word file nor a store's address ends with 2, and is not repeated."""
    bot = run("nonce", "migrate", "--to", target, settings=kraken.settings(), code=2)
    assert "hunter2" not in bot.text
    assert bot.wait_for("^Stopped: .*(must look like redis://|cannot be used)")


def test_migrate_needs_a_key(state: Path, redis_url: str) -> None:
    """Without KRAKEN_API_KEY migrate says that it is needed and ends with 2."""
    bot = run("nonce", "migrate", "--to", redis_url, settings={"STATE_DIR": str(state)}, code=2)
    assert "KRAKEN_API_KEY is not set" in bot.lines[-1]


def test_migrate_from_and_to_a_store_that_is_away(kraken: LocalKraken, redis_url: str) -> None:
    """Where the source or the target does not answer migrate names it and ends with 4, without the password."""
    away = f"redis://:hunter2@127.0.0.1:{closed_port()}/0"
    write_common(kraken.state, wall_us())
    for source, target in ((away, redis_url), ("", away)):
        bot = run("nonce", "migrate", "--to", target, settings=kraken.settings(NONCE_STORE=source), code=4)
        assert f"the nonce store {place_of(away)} is unreachable" in bot.lines[-1]
        assert "hunter2" not in bot.text


def test_migrate_does_not_mix_units(kraken: LocalKraken, redis_url: str, postgres_url: str) -> None:
    """With NONCE_UNIT=us a row in nanoseconds, as source or as target, ends migrate with 4, and nothing is moved."""
    with closing(open_engine(redis_url, kraken.simulator.key)) as engine:
        nonce = draw(engine, unit=NANOSECONDS)
        write_common(kraken.state, wall_us())
        for source, target in ((redis_url, postgres_url), ("", redis_url)):
            bot = run("nonce", "migrate", "--to", target, settings=kraken.settings(NONCE_STORE=source), code=4)
            assert f"holds {nonce}, more than a day ahead of the clock for NONCE_UNIT=us" in bot.lines[-1]
        assert held(engine).nonce == nonce
    with closing(open_engine(postgres_url, kraken.simulator.key)) as engine:
        assert engine.look() is None


def test_migrate_to_a_file_that_cannot_be_written(kraken: LocalKraken, redis_url: str) -> None:
    """Where the file cannot be written migrate says so and ends with 4."""
    (kraken.state / "kraken_nonce.txt").mkdir(parents=True)
    with closing(open_engine(redis_url, kraken.simulator.key)) as engine:
        draw(engine)
    bot = run("nonce", "migrate", "--to", "file", settings=kraken.settings(NONCE_STORE=redis_url), code=4)
    assert "cannot be written" in bot.lines[-1]


# adopt


@pytest.fixture
def burnt(kraken: LocalKraken) -> LocalKraken:
    """Let another program use the key with nanoseconds, and the common file hold a nonce."""
    burn(kraken, wall_us() * NANOSECONDS.ticks)
    write_common(kraken.state, wall_us())
    return kraken


def test_adopt_finds_that_nanoseconds_work(burnt: LocalKraken) -> None:
    """adopt sends one GetApiKeyInfo, keeps its nonce in the key's own file, prints the setting, and leaves the common
    file byte for byte; with the setting the key works.
    """
    before = (burnt.state / "kraken_nonce.txt").read_bytes()
    bot = run("nonce", "adopt", "--yes", settings=burnt.settings())
    assert bot.lines[-1] == "NONCE_UNIT=ns"
    assert sent(burnt) == ["GetApiKeyInfo"]
    assert int(own_file(burnt).read_text("ascii")) == burnt.floor
    assert (burnt.state / "kraken_nonce.txt").read_bytes() == before
    run("check", settings=burnt.settings(NONCE_UNIT="ns"))
    assert burnt.refused_nonces == 0


@BOTH_STORES
def test_adopt_in_a_store_keeps_the_nonce_in_its_row(burnt: LocalKraken, url: str, engine: Engine) -> None:
    """With a store the nonce is drawn from the row, the common file stays, and adopt tells what becomes of others."""
    draw(engine)
    before = (burnt.state / "kraken_nonce.txt").read_bytes()
    bot = run("nonce", "adopt", "--yes", settings=burnt.settings(NONCE_STORE=url))
    assert f"The row of this key in {place_of(url)} holds one nonce." in bot.text
    assert "fails with NonceAheadError" in bot.text
    assert bot.lines[-1] == "NONCE_UNIT=ns"
    assert sent(burnt) == ["GetApiKeyInfo"]
    assert (held(engine).nonce, held(engine).turn_owner) == (burnt.floor, "")
    assert (burnt.state / "kraken_nonce.txt").read_bytes() == before
    run("check", settings=burnt.settings(NONCE_STORE=url, NONCE_UNIT="ns"))
    assert burnt.refused_nonces == 0


def test_adopt_finds_that_nothing_works(burnt: LocalKraken) -> None:
    """Where nanoseconds are refused too, adopt sends no second request, says to make a new key, and ends with 4."""
    burn(burnt, wall_us() * NANOSECONDS.ticks * 10)
    before = (burnt.state / "kraken_nonce.txt").read_bytes()
    bot = run("nonce", "adopt", "--yes", settings=burnt.settings(), code=4)
    assert "make a new API key" in bot.lines[-1]
    assert "NONCE_UNIT=ns" not in bot.lines[-1]
    assert sent(burnt) == ["GetApiKeyInfo"]
    assert (burnt.state / "kraken_nonce.txt").read_bytes() == before


def test_adopt_asks_nobody_where_nobody_is(burnt: LocalKraken, redis_url: str) -> None:
    """Without a terminal and without --yes adopt ends with 2, having drawn and sent nothing."""
    bot = run("nonce", "adopt", settings=burnt.settings(NONCE_STORE=redis_url), code=2)
    assert "give --yes" in bot.lines[-1]
    assert sent(burnt) == []
    with closing(open_engine(redis_url, burnt.simulator.key)) as engine:
        assert engine.look() is None
    assert not own_file(burnt).exists()


@pytest.mark.parametrize(("answer", "requests"), [("y", 1), ("", 0), ("\x04", 0)], ids=["y", "line", "end"])
def test_adopt_asks_at_a_terminal(burnt: LocalKraken, answer: str, requests: int) -> None:
    """At a terminal adopt sends after y alone; an empty line and the end of input send nothing, and end with 0."""
    terminal, side = pty.openpty()
    try:
        os.write(terminal, f"{answer}\n".encode() if answer != "\x04" else b"\x04")
        command = [sys.executable, str(ROOT / "main.py"), "nonce", "adopt"]
        environment = {**os.environ, **only(burnt.settings())}
        bot = subprocess.run(
            command, env=environment, stdin=side, capture_output=True, text=True, timeout=45, check=False
        )
    finally:
        os.close(terminal)
        os.close(side)
    assert bot.returncode == 0, bot.stdout + bot.stderr
    assert ("Go on? [y/N]" in bot.stdout, "Nothing was sent." in bot.stdout) == (True, not requests)
    assert len(sent(burnt)) == requests


def test_adopt_is_refused_while_another_leads(burnt: LocalKraken, url: str, engine: Engine) -> None:
    """While an instance leads in the store adopt names it, ends with 6, and draws and sends nothing."""
    engine.acquire("alpha:1:aa", LEASE_SECONDS)
    before = draw(engine)
    bot = run("nonce", "adopt", "--yes", settings=burnt.settings(NONCE_STORE=url), code=6)
    assert bot.wait_for("^Stopped: alpha:1:aa leads")
    assert (held(engine).nonce, sent(burnt)) == (before, [])


def test_adopt_keeps_a_silence(burnt: LocalKraken) -> None:
    """While the key stands by adopt sends nothing, says for how long, and ends with 4."""
    SilenceFile(str(own_file(burnt, "silence"))).begin(100.0, "refused")
    bot = run("nonce", "adopt", "--yes", settings=burnt.settings(), code=4)
    assert "nothing is sent on this key for another" in bot.lines[-1]
    assert sent(burnt) == []


def test_a_lockout_makes_adopt_and_all_others_silent(state: Path) -> None:
    """Where Kraken answers with a lockout adopt ends with 4, and the next one sends nothing."""
    with local_kraken(state, options=SimulatorOptions(tier="pro", lockout_after=1)) as kraken:
        burn(kraken, wall_us() * NANOSECONDS.ticks * 10)
        run("nonce", "adopt", "--yes", settings=kraken.settings(), code=4)
        locked = run("nonce", "adopt", "--yes", settings=kraken.settings(), code=4)
        assert "EGeneral:Temporary lockout" in locked.lines[-1]
        silent = run("nonce", "adopt", "--yes", settings=kraken.settings(), code=4)
        assert "nothing is sent on this key for another" in silent.lines[-1]
        assert sent(kraken) == ["GetApiKeyInfo"] * 2


def test_adopt_ends_a_silence_whose_time_is_over(burnt: LocalKraken) -> None:
    """After the silence the accepted request is its probe, and the bot that starts next sends none of its own."""
    SilenceFile(str(own_file(burnt, "silence"))).begin(0.0, "refused")
    run("nonce", "adopt", "--yes", settings=burnt.settings())
    assert not own_file(burnt, "silence").exists()


def test_adopt_needs_key_and_secret(state: Path) -> None:
    """Without a key adopt names what is missing and ends with 2, in paper mode too."""
    bot = run("nonce", "adopt", "--yes", settings={"STATE_DIR": str(state)}, code=2)
    assert "KRAKEN_API_KEY is empty" in bot.text
    assert "KRAKEN_API_SECRET is empty" in bot.text
