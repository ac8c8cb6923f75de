"""The words about nonces: show, migrate and adopt, and what check and run say, with the file and with real stores."""

from __future__ import annotations

import os
import pty
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from bot.clock import DAY_US, nonce_clock, wall_us
from bot.kraken import transport
from bot.nonce.engine import Engine, Row, Wish
from bot.nonce.engines import open_engine
from bot.nonce.file import MICROSECONDS, NANOSECONDS, Unit
from bot.nonce.paths import key_file
from bot.nonce.silence import SilenceFile
from tests.acceptance.local_kraken import LocalKraken, local_kraken
from tests.acceptance.processes import only, run, running, stored_nonce
from tests.conftest import ROOT

HOUR_US = 3_600_000_000
LEASE_SECONDS = 60.0
# What the other program on a burnt key asks.
OTHERS = "TradeBalance"
UNITS = pytest.mark.parametrize("unit", [MICROSECONDS, NANOSECONDS], ids=lambda unit: unit.name)


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """Return a state folder that is not there yet."""
    return tmp_path / "state"


@pytest.fixture
def kraken(state: Path) -> Iterator[LocalKraken]:
    """Open a local Kraken, whose key no other test has."""
    with local_kraken(state) as opened:
        yield opened


@pytest.fixture
def url(request: pytest.FixtureRequest) -> str:
    """Return the address of a shared store: Redis, but for a test that asks for another."""
    return str(request.getfixturevalue(getattr(request, "param", "redis_url")))


BOTH_STORES = pytest.mark.parametrize("url", ["redis_url", "postgres_url"], indirect=True)


@pytest.fixture
def engine(url: str, kraken: LocalKraken) -> Iterator[Engine]:
    """Open the row of the key in the store."""
    with closing(open_engine(url, kraken.simulator.key)) as opened:
        yield opened


def place_of(url: str) -> str:
    """Return where a store is, without credentials."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.hostname}:{parts.port}{parts.path}"


def draw(engine: Engine, floor: int = 0, unit: Unit = MICROSECONDS) -> int:
    """Draw a nonce from a row."""
    return engine.draw(Wish(floor, (nonce_clock.now_us() + DAY_US) * unit.ticks, unit.ticks)).nonce


def held(engine: Engine) -> Row:
    """Return what the store has of the key, which must be something."""
    row = engine.look()
    assert row is not None
    return row


def own_file(kraken: LocalKraken, kind: str = "txt") -> Path:
    """Return a file that belongs to the key alone."""
    return Path(key_file(kraken.state / "kraken_nonce.txt", kraken.simulator.key, kind))


def write_common(state: Path, nonce: int) -> None:
    """Let the common nonce file hold a nonce."""
    state.mkdir(exist_ok=True)
    (state / "kraken_nonce.txt").write_text(str(nonce), "ascii")


def burn(kraken: LocalKraken, nonce: int) -> None:
    """Do what another program does: have a nonce of its own accepted on the key."""
    with closing(transport.open_api(kraken.simulator.key, kraken.simulator.secret, kraken.simulator.url)) as api:
        api._nonce = lambda: str(nonce)
        assert api.query_private(OTHERS)["error"] == []


def sent(kraken: LocalKraken) -> list[str]:
    """Return the private requests that were not those of the other program."""
    return [method for method in kraken.methods if method != OTHERS]


def closed_port() -> int:
    """Return a port where nothing listens."""
    with socket.socket() as once:
        once.bind(("127.0.0.1", 0))
        return int(once.getsockname()[1])


# show


def test_show_of_a_new_store_writes_nothing(kraken: LocalKraken, url: str, engine: Engine) -> None:
    """`nonce show` tells that store and file have nothing yet, and leaves both so."""
    bot = run("nonce", "show", settings=kraken.settings(NONCE_STORE=url))
    assert bot.lines == [
        f"nonce    none yet in {place_of(url)}",
        "turn     nobody has it",
        "lead     nobody has led yet",
        f"copy     none yet in {kraken.state / 'kraken_nonce.txt'}",
    ]
    assert engine.look() is None
    assert not kraken.state.exists()


@BOTH_STORES
def test_show_tells_the_row_and_leaves_it(kraken: LocalKraken, url: str, engine: Engine) -> None:
    """`nonce show` tells the last nonce, its unit, who has the turn and who leads, and leaves all of it as it is."""
    ahead = wall_us() + HOUR_US
    lease = engine.acquire("alpha:1:aa", LEASE_SECONDS)
    engine.take(Wish(ahead, ahead + HOUR_US), "beta:2:bb", LEASE_SECONDS)
    write_common(kraken.state, ahead - 1)
    bot = run("nonce", "show", settings=kraken.settings(NONCE_STORE=url))
    (nonce,) = bot.wait_for("^nonce ")
    assert nonce.startswith(f"nonce    {ahead} (16 digits, us), 3")
    assert nonce.endswith(f" s ahead of the clock, in {place_of(url)}")
    assert bot.wait_for("^turn ") == ["turn     beta:2:bb has it"]
    assert bot.wait_for(rf"^lead     alpha:1:aa leads, generation {lease.generation}, with \d\d\.\d s to renew it$")
    assert bot.wait_for(rf"^copy     {ahead - 1}, .* s ahead of the clock, in {kraken.state}/kraken_nonce\.txt$")
    row = held(engine)
    assert (row.nonce, row.turn_owner, row.lease.owner) == (ahead, "beta:2:bb", "alpha:1:aa")


def test_show_tells_a_sign_off_from_a_lease_that_ran_out(kraken: LocalKraken, url: str, engine: Engine) -> None:
    """`nonce show` says of a leader that it has signed off, or that its lease has run out."""
    settings = kraken.settings(NONCE_STORE=url)
    lost = engine.acquire("alpha:1:aa", 0.0).generation
    said = run("nonce", "show", settings=settings).wait_for("^lead ")
    assert said == [f"lead     nobody leads: the lease of alpha:1:aa, generation {lost}, has run out"]
    signed = engine.acquire("beta:2:bb", LEASE_SECONDS).generation
    engine.sign_off(signed, settled=True)
    said = run("nonce", "show", settings=settings).wait_for("^lead ")
    assert said == [f"lead     nobody leads: generation {signed} has signed off"]


def test_show_tells_nanoseconds(kraken: LocalKraken, url: str, engine: Engine) -> None:
    """`nonce show` tells a row in nanoseconds by its 19 digits, and that NONCE_UNIT=us cannot go on above it."""
    nonce = draw(engine, unit=NANOSECONDS)
    bot = run("nonce", "show", settings=kraken.settings(NONCE_STORE=url))
    assert bot.wait_for("^nonce ") == [f"nonce    {nonce} (19 digits, ns), not ahead of the clock, in {place_of(url)}"]
    assert bot.wait_for("With NONCE_UNIT=us nothing can be drawn")
    bot = run("nonce", "show", settings=kraken.settings(NONCE_STORE=url, NONCE_UNIT="ns"))
    assert "NONCE_UNIT" not in bot.text
    assert bot.wait_for("^copy ") == [f"copy     none yet in {own_file(kraken)}"]


@pytest.mark.parametrize("scheme", ["redis", "postgresql"])
def test_show_with_the_store_away_tells_the_file(kraken: LocalKraken, scheme: str) -> None:
    """Where the store does not answer `nonce show` says so in a sentence, tells the file, and ends with 4."""
    write_common(kraken.state, 1_700_000_000_000_000)
    place = f"{scheme}://127.0.0.1:{closed_port()}/0"
    url = place.replace("//", "//bot:hunter2@")
    bot = run("nonce", "show", settings=kraken.settings(NONCE_STORE=url), code=4)
    assert bot.wait_for("^copy     1700000000000000, not ahead of the clock")
    assert f"Stopped: The nonce store {place} " in bot.lines[-1]
    assert "hunter2" not in bot.text


def test_show_in_paper_mode_does_not_make_up_a_row(state: Path, url: str) -> None:
    """In paper mode without a key `nonce show` says that only a run knows the paper account's row, and ends with 0."""
    bot = run("nonce", "show", settings={"STATE_DIR": str(state), "NONCE_STORE": url})
    assert bot.wait_for("^nonce    not known: .*KRAKEN_API_KEY is not set$")
    assert bot.wait_for("^paper    the paper account has a key of its own there, which only its run knows$")
    assert bot.wait_for("^copy     none yet")


def test_show_of_a_key_in_nanoseconds_tells_its_own_file(kraken: LocalKraken) -> None:
    """Without a store and with NONCE_UNIT=ns `nonce show` tells the key's own file."""
    kraken.state.mkdir()
    own_file(kraken).write_text("1700000000000000000", "ascii")
    bot = run("nonce", "show", settings=kraken.settings(NONCE_UNIT="ns"))
    assert bot.lines == [f"1700000000000000000, not ahead of the clock, in {own_file(kraken)}"]


# check and run


@BOTH_STORES
def test_check_looks_at_the_store(kraken: LocalKraken, url: str, engine: Engine) -> None:
    """check names the store, its nonce and the second copy, and asks Kraken with a key with which nobody leads."""
    before = draw(engine)
    bot = run("check", settings=kraken.settings(NONCE_STORE=url))
    (line,) = bot.wait_for("^ok       nonce: ")
    assert line.startswith(f"ok       nonce: {before} (16 digits, us), ")
    assert line.endswith(f"in {place_of(url)}; its second copy can be written")
    assert bot.wait_for("^ok       key: works")
    assert held(engine).lease.generation == 0


def test_check_is_silent_while_another_leads(kraken: LocalKraken, url: str, engine: Engine) -> None:
    """While another instance leads check draws nothing, sends nothing private, says who leads, and ends with 0."""
    engine.acquire("alpha:1:aa", LEASE_SECONDS)
    before = draw(engine)
    bot = run("check", settings=kraken.settings(NONCE_STORE=url))
    assert bot.wait_for("^ok       key: not asked: alpha:1:aa leads")
    assert kraken.methods == []
    assert (held(engine).nonce, held(engine).lease.owner) == (before, "alpha:1:aa")


def test_check_in_paper_mode_looks_whether_the_store_answers(state: Path, url: str) -> None:
    """In paper mode check says that the store answers, and whose row it cannot see."""
    bot = run("check", settings={"STATE_DIR": str(state), "NONCE_STORE": url})
    assert bot.wait_for(f"^ok       nonce: {place_of(url)} answers; the paper account has a key of its own there")


@pytest.mark.parametrize("mode", ["paper", "live"])
def test_check_names_a_store_that_is_away(kraken: LocalKraken, mode: str) -> None:
    """Where the store does not answer check names it and ends with 4."""
    place = f"127.0.0.1:{closed_port()}/0"
    settings = kraken.settings(NONCE_STORE=f"redis://:hunter2@{place}", TRADING_MODE=mode)
    bot = run("check", settings=settings, code=4)
    assert f"redis://{place}" in bot.wait_for("^PROBLEM  nonce")[0]
    assert "hunter2" not in bot.text
    assert kraken.methods == []


def test_check_names_a_row_in_nanoseconds(kraken: LocalKraken, url: str, engine: Engine) -> None:
    """For a row that is far ahead of the clock check says so, ends with 4, and leaves row and file as they are."""
    nonce = draw(engine, unit=NANOSECONDS)
    bot = run("check", settings=kraken.settings(NONCE_STORE=url), code=4)
    assert f"holds {nonce}, and the next nonce would be more than a day ahead" in bot.wait_for("^PROBLEM  nonce")[0]
    assert held(engine).nonce == nonce
    assert not (kraken.state / "kraken_nonce.txt").exists()


def test_check_names_a_second_copy_that_cannot_be_written(kraken: LocalKraken, redis_url: str) -> None:
    """Where a folder stands in the place of the nonce file check names it as the second copy and ends with 4."""
    (kraken.state / "kraken_nonce.txt").mkdir(parents=True)
    bot = run("check", settings=kraken.settings(NONCE_STORE=redis_url), code=4)
    (line,) = bot.wait_for("^PROBLEM  nonce")
    assert f"{kraken.state}/kraken_nonce.txt cannot be written" in line
    assert "second copy" in line


@BOTH_STORES
def test_a_run_tells_the_store(kraken: LocalKraken, url: str, engine: Engine) -> None:
    """The line on the nonce of a run that leads has the store's nonce and place."""
    bot = run("--ticks", "1", settings=kraken.settings(NONCE_STORE=url))
    (line,) = bot.wait_for("^nonce ")
    assert line.endswith(f" (16 digits, us), not ahead of the clock, in {place_of(url)}")
    assert int(line.split()[1]) < held(engine).nonce


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


def test_migrate_to_where_the_nonces_are_is_refused(kraken: LocalKraken, url: str) -> None:
    """Where source and target are the same place migrate says so and ends with 2."""
    bot = run("nonce", "migrate", "--to", "file", settings=kraken.settings(), code=2)
    assert "where the nonces of this key are already" in bot.lines[-1]
    bot = run("nonce", "migrate", "--to", url, settings=kraken.settings(NONCE_STORE=url), code=2)
    assert f"{place_of(url)}, where the nonces of this key are already" in bot.lines[-1]


@pytest.mark.parametrize(
    "target",
    ["", "sqlite:///x", "redis://", "redis://:hunter2@h:port", "redis://h:6379/hunter2", "postgresql://u:hunter2%@h/d"],
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
        assert f"The nonce store {place_of(away)} is unreachable" in bot.lines[-1]
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


@pytest.mark.parametrize(
    ("answer", "requests"), [("y", 1), ("n", 0), ("", 0), ("\x04", 0)], ids=["y", "n", "line", "end"]
)
def test_adopt_asks_at_a_terminal(burnt: LocalKraken, answer: str, requests: int) -> None:
    """At a terminal adopt sends after y alone; no, an empty line and the end of input send nothing, and end with 0."""
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
