"""A damaged journal is moved aside or reported; one of another version is migrated or left alone."""

from __future__ import annotations

import logging
import random
import re
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from bot.base.errors import JournalError, JournalVersionError, OrderBlockedError
from bot.orders import journal_db
from bot.orders.journal import Journal
from bot.orders.journal_schema import MIGRATIONS
from bot.orders.order_state import OrderState
from tests.child_process import Child
from tests.journal_rows import make_fill, make_intent, make_kraken_order
from tests.stores.journal_children import MODULE, send
from tests.stores.journal_tools import send_command, unreconciled_ids

SEED = 20261122


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return the path of the test's journal in a folder of its own."""
    (tmp_path / "state").mkdir()
    return tmp_path / "state" / "journal.sqlite"


# Damage


def filled_journal(path: Path) -> None:
    """Write a journal with rows in every table, and close it."""
    journal = Journal(str(path))
    for number in range(40):
        journal.record_intent(make_intent(f"mybot{number:013d}", symbol=f"{number}/USD"))
        journal.mark_sent(f"mybot{number:013d}", "1790000000000000", 103.0, 111.0)
    journal.record_orders([make_kraken_order(f"mybot{number:013d}", f"O{number}") for number in range(30)])
    journal.add_fills([make_fill(f"T{number}", f"O{number}") for number in range(30)])
    journal.close()


def damaged_files(path: Path) -> list[Path]:
    """Return the files that were moved aside."""
    return [one for one in path.parent.iterdir() if re.search(r"\.damaged\.\d+$", one.name)]


@pytest.mark.parametrize(
    "content",
    [b"no journal at all" * 1000, b"\0" * 8192, b"SQLite format 3\0" + b"\xff" * 8176],
    ids=["garbage", "zeros", "a head and garbage"],
)
def test_a_damaged_file_is_moved_aside(path: Path, caplog: pytest.LogCaptureFixture, content: bytes) -> None:
    """A file that is no journal is moved aside unchanged, with a warning, and a new journal is started."""
    path.write_bytes(content)
    journal = Journal(str(path))
    assert journal.unresolved_intents() == []
    send(journal, "new")
    journal.close()
    (damaged_file,) = damaged_files(path)
    assert damaged_file.read_bytes() == content
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert unreconciled_ids(path) == ["new"]


def test_a_truncated_file_is_moved_aside(path: Path) -> None:
    """A journal truncated at a page is moved aside and a new one is started; one truncated to nothing is a new one."""
    filled_journal(path)
    content = path.read_bytes()
    for size in (0, 50, 1000, 4096, 4097, len(content) // 2, len(content) - 4096):
        path.write_bytes(content[:size])
        journal = Journal(str(path))
        assert journal.unresolved_intents() == []
        send(journal, "new")
        journal.close()
        assert len(damaged_files(path)) == (size > 0), size
        for one in path.parent.iterdir():
            one.unlink()


def destroy(path: Path) -> None:
    """Overwrite every page of a journal but the first."""
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * (path.stat().st_size - 4096))


def test_damage_found_while_open_is_reported_once(path: Path) -> None:
    """Damage found in an open file is reported once; the next use moves the file aside and works."""
    filled_journal(path)
    journal = Journal(str(path))
    with journal._database.read() as connection:
        connection.execute("PRAGMA shrink_memory")  # reads nothing from the cache
    destroy(path)
    with pytest.raises(JournalError, match="malformed"):
        journal.unresolved_intents()
    assert damaged_files(path) == []
    send(journal, "new")
    journal.close()
    assert len(damaged_files(path)) == 1
    assert unreconciled_ids(path) == ["new"]


def test_a_journal_moved_aside_by_another_process_is_rewritten(path: Path) -> None:
    """Where another process has moved a damaged journal aside, this one copies what it can still read to the new."""
    filled_journal(path)
    journal = Journal(str(path))
    assert len(journal.unresolved_intents()) == 10
    destroy(path)
    assert unreconciled_ids(path) == []
    send(journal, "new")
    journal.close()
    assert len(damaged_files(path)) == 1
    assert "new" in unreconciled_ids(path)


@pytest.mark.parametrize(
    ("column", "value"),
    [("volume", b"0.0I"), ("state", b"sant"), ("side", b"bux"), ("price", b"\xff\xfe"), ("cl_ord_id", b"\xff")],
)
def test_a_damaged_row_is_damage(path: Path, column: str, value: bytes) -> None:
    """A row that cannot be read is reported in a sentence; the journal is moved aside, and the next use starts one."""
    journal = Journal(str(path))
    send(journal, "old")
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("DROP TRIGGER no_illegal_step")
        other.execute(f"UPDATE intents SET {column} = CAST(? AS TEXT)", (value,))  # noqa: S608
    with pytest.raises(JournalError, match="damaged row"):
        journal.intents()
    assert len(damaged_files(path)) == 1
    send(journal, "new")
    journal.close()
    assert unreconciled_ids(path) == ["new"]


def test_a_damaged_row_found_in_a_write_is_damage(path: Path) -> None:
    """A row that a write needs and cannot read is damage as well, and the next write starts a new journal."""
    filled_journal(path)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("UPDATE orders SET executed = '0.0I'")
    journal = Journal(str(path))
    with pytest.raises(JournalError, match="damaged row"):
        journal.record_orders([make_kraken_order("mybot0000000000001", "O1")])
    assert len(damaged_files(path)) == 1
    journal.record_orders([make_kraken_order("mybot0000000000001", "O1")])
    assert len(journal.orders()) == 1
    journal.close()


def test_a_byte_flipped_anywhere(path: Path, full_size: bool) -> None:
    """With any one byte of the file changed the journal is read, or moved aside, or refused in one sentence."""
    filled_journal(path)
    content = path.read_bytes()
    random_source = random.Random(SEED)
    byte_offsets = (
        range(0, len(content), 13)
        if full_size
        else [*range(0, 100, 3), *random_source.sample(range(len(content)), 150)]
    )
    reported_errors = []
    for byte_offset in byte_offsets:
        changed = bytearray(content)
        changed[byte_offset] ^= 1 << random_source.randrange(8)
        path.write_bytes(changed)
        journal = Journal(str(path))
        try:
            journal.unresolved_intents(), journal.orders(), journal.fills()
            send(journal, "new")
        except (JournalError, JournalVersionError) as error:
            reported_errors.append(str(error))
        except OrderBlockedError:
            pass  # the byte changed the pair of an unknown order into that of the new one
        journal.close()
        for one in path.parent.iterdir():
            one.unlink()
    assert all(str(path) in one for one in reported_errors)
    assert len(reported_errors) < len(byte_offsets) / 2


# Versions


NEWER = "schema 99, this one knows"


def test_a_newer_journal_is_refused_and_left_alone(path: Path) -> None:
    """A journal of a newer program is refused in one sentence, neither read nor written, and left unchanged."""
    filled_journal(path)
    with closing(sqlite3.connect(path)) as other:
        other.execute("PRAGMA user_version = 99")
    before = path.read_bytes()
    journal = Journal(str(path))
    for use in (journal.unresolved_intents, lambda: journal.set_complete_until("mybot", 1.0)):
        with pytest.raises(JournalVersionError, match=NEWER):
            use()
    journal.close()
    assert path.read_bytes() == before
    assert damaged_files(path) == []


def test_a_newer_journal_on_a_read_only_disk_is_refused(path: Path) -> None:
    """A journal of a newer program is refused on a read-only disk too."""
    filled_journal(path)
    with closing(sqlite3.connect(path)) as other:
        other.execute("PRAGMA user_version = 99")
        other.execute("PRAGMA journal_mode = DELETE")
    path.chmod(0o444)
    path.parent.chmod(0o555)
    try:
        with Child(MODULE, "run_without_dac_override", "serve", path) as child:
            child.expect_line("ready")
            assert NEWER in send_command(child, "unreconciled")
    finally:
        path.parent.chmod(0o755)


VERSION_1 = (Path(__file__).parent / "journal_version_1.sql").read_text("ascii")


def test_a_journal_of_version_1_is_brought_up_to_date(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program with one more migration opens a journal of version 1 with all its rows, and writes to it."""
    with closing(sqlite3.connect(path)) as old:
        old.executescript(VERSION_1)
    newer = [*MIGRATIONS, ("ALTER TABLE equity ADD COLUMN note TEXT", "CREATE TABLE added (one INTEGER)")]
    monkeypatch.setattr(journal_db, "MIGRATIONS", newer)
    journal = Journal(str(path))
    assert [one.cl_ord_id for one in journal.unresolved_intents()] == ["mybot0000000000002"]
    assert (journal.orders(), journal.fills()) == ([make_kraken_order()], [make_fill()])
    assert journal.complete_until("mybot") == 100.5
    journal.set_state("mybot0000000000002", OrderState.NOT_PLACED)
    send(journal, "new")
    journal.close()
    with closing(sqlite3.connect(path)) as after:
        assert after.execute("PRAGMA user_version").fetchone() == (len(newer),)
        assert after.execute("SELECT count(*) FROM added").fetchone() == (0,)


def test_version_1_is_what_the_first_migration_makes(path: Path, tmp_path: Path) -> None:
    """The first migration still creates the tables of version 1: a change of the schema is a new migration."""
    with closing(sqlite3.connect(path)) as old, closing(sqlite3.connect(tmp_path / "new")) as new:
        old.executescript(VERSION_1)
        for statement in MIGRATIONS[0]:
            new.execute(statement)
        schema = "SELECT type, name, sql FROM sqlite_master ORDER BY name"
        assert old.execute(schema).fetchall() == new.execute(schema).fetchall()


def test_the_steps_are_those_of_the_program(path: Path) -> None:
    """A journal with another table of state transitions, foreign or damaged, gets this program's table when opened."""
    filled_journal(path)
    with closing(sqlite3.connect(path)) as other, other:
        other.execute("DELETE FROM steps WHERE before = 'intended'")
        other.execute("INSERT INTO steps VALUES ('filled', 'sent')")
    journal = Journal(str(path))
    send(journal, "new")
    journal.set_state("mybot0000000000001", OrderState.SENT)
    stored_intent = journal.get_intent("mybot0000000000001")
    assert stored_intent is not None
    assert stored_intent.state is OrderState.FILLED
    journal.close()


def test_a_migration_that_fails_changes_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A migration that fails leaves the journal at its version, for the older program."""
    filled_journal(path)
    monkeypatch.setattr(journal_db, "MIGRATIONS", [*MIGRATIONS, ("CREATE TABLE added (one)", "DROP TABLE nothing")])
    with pytest.raises(JournalError):
        Journal(str(path)).set_complete_until("mybot", 1.0)
    monkeypatch.undo()
    assert len(unreconciled_ids(path)) == 10
    with closing(sqlite3.connect(path)) as after:
        assert after.execute("SELECT name FROM sqlite_master WHERE name = 'added'").fetchall() == []
