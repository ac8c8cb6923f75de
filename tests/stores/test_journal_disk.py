"""The journal on a disk: killed writers, a full or read-only disk, lost files, and several processes."""

from __future__ import annotations

import contextlib
import logging
import os
import random
import shutil
import sqlite3
import sys
from contextlib import closing
from pathlib import Path
from threading import Barrier, Thread

import pytest

from bot.base.errors import JournalError, OrderBlockedError
from bot.orders import journal_db
from bot.orders.journal import Journal
from bot.orders.order_state import OrderState
from tests.child_process import Child
from tests.journal_rows import make_fill, make_intent, make_kraken_order
from tests.stores.journal_children import MODULE, send
from tests.stores.journal_tools import is_intact, send_command, unreconciled_ids

SEED = 20261122
linux_only = pytest.mark.skipif(sys.platform != "linux", reason="the means of this test are Linux's")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return the path of the test's journal in a folder of its own."""
    (tmp_path / "state").mkdir()
    return tmp_path / "state" / "journal.sqlite"


# Kills


def test_killed_between_any_two_statements(path: Path) -> None:
    """Killed before any SQL statement of an order's life cycle, the file is intact and has every step that had
    returned."""
    steps = ["nothing", "intended", "sent", "unknown", "partly filled", "cancelled"]
    with Child(MODULE, "die_before_every_statement", path) as child:
        returned = dict(line.split(" ", 1) for line in child.read_to_end())
    for number, step in returned.items():
        journal = Journal(f"{path}{number}")
        found = next(iter(journal.intents()), None)
        state = "nothing" if found is None else str(found.state)
        # The step during which the kill came may be there or not.
        assert state in steps[steps.index(step) :][:2], f"killed before statement {number}"
        assert (found is not None and found.nonce == "1790000000000000") == (steps.index(state) >= 2)
        assert bool(journal.orders()) == (steps.index(state) >= 4)
        journal.close()
        assert is_intact(Path(f"{path}{number}"))
    assert len(returned) > 20
    assert set(returned.values()) == set(steps)


def test_killed_at_random(path: Path, full_size: bool) -> None:
    """After each SIGKILL at a random moment the file opens, and has every order whose `mark_sent` had returned."""
    kills = 200 if full_size else 12
    random_source = random.Random(SEED)
    sent: set[str] = set()
    for kill in range(kills):
        with Child(MODULE, "send_forever", path, f"k{kill:03d}-", limit_seconds=20) as child:
            for _ in range(random_source.randrange(1, 40)):
                sent.add(child.read_line())
            child.kill()
            sent |= {line for line in child.drain() if len(line) == 13}
        journal = Journal(str(path))
        for one in journal.unresolved_intents():
            journal.set_state(one.cl_ord_id, OrderState.NOT_PLACED)  # frees its pair for the next child
        known = {one.cl_ord_id: one for one in journal.intents()}
        journal.close()
        assert sent <= known.keys(), f"kill {kill}, seed {SEED}"
        assert {known[one].nonce for one in sent} == {"1790000000000000"}, f"kill {kill}, seed {SEED}"
        # At most one order per kill may have been recorded without being reported.
        assert len([one for one in known.values() if one.nonce]) - len(sent) <= kill + 1
    assert is_intact(path)


@linux_only
@pytest.mark.skipif(shutil.which("strace") is None, reason="no strace, which counts what reaches the disk")
def test_an_order_costs_one_fsync(path: Path, tmp_path: Path) -> None:
    """Sixty more orders, with intent, outcome and order record, cost sixty more fsyncs."""
    counts = []
    for orders in (1, 61):
        log = tmp_path / f"log{orders}"
        with Child(MODULE, "run_counting_fsyncs", log, "send_many", f"{path}{orders}", orders) as child:
            child.read_to_end()
        counts.append(len(log.read_text().splitlines()))
    assert counts[1] - counts[0] == 60, counts


# Full or read-only


@linux_only
@pytest.mark.parametrize("before", ["send old", "crash old"], ids=["written by this process", "left by a killed one"])
@pytest.mark.parametrize("after", ["unreconciled", "reopen"], ids=["kept open", "opened on the full disk"])
def test_a_full_disk(path: Path, before: str, after: str) -> None:
    """On a full disk no order is sent, and recorded orders can be read; with free space the journal recovers."""
    with Child(MODULE, "run_on_small_disk", path.parent, "serve", path) as child:
        if child.read_line() != "ready":
            pytest.skip("no disk can be made here")
        assert send_command(child, before) in {"sent", "crashed"}
        send_command(child, "unreconciled")
        send_command(child, "fill_disk")
        send_command(child, after)
        done = send_command(child, "send_until_refused").split()
        assert send_command(child, "send more").startswith("JournalError: the journal ")
        assert send_command(child, "unreconciled") == " ".join(sorted(["old", *done]))
        send_command(child, "free_disk")
        assert send_command(child, "send more") == "sent"
        assert send_command(child, "unreconciled") == " ".join(sorted(["old", "more", *done]))


def test_a_file_that_may_not_grow(path: Path) -> None:
    """Where the file cannot grow no order is sent, recorded orders can be read, and the journal recovers by itself."""
    with Child(MODULE, "serve", path) as child:
        child.expect_line("ready")
        send_command(child, "send old")
        send_command(child, "limit_file_size 40000")
        done = send_command(child, "send_until_refused").split()
        assert send_command(child, "unreconciled") == " ".join(sorted(["old", *done]))
        send_command(child, "limit_file_size all")
        assert send_command(child, "send more") == "sent"
        assert send_command(child, "unreconciled") == " ".join(sorted(["old", "more", *done]))


@linux_only
@pytest.mark.parametrize(
    ("before", "folder", "file"),
    [
        ("send old", 0o755, 0o444),
        ("send old", 0o555, 0o444),
        ("send old", 0o555, 0o644),
        ("crash old", 0o755, 0o444),
        ("crash old", 0o555, 0o444),
    ],
    ids=["file", "both", "folder", "file, after a kill", "both, after a kill"],
)
def test_read_only(path: Path, before: str, folder: int, file: int) -> None:
    """With a read-only file or folder no order is sent, recorded orders can be read, and the journal recovers by
    itself."""
    with Child(MODULE, "serve", path) as child:
        child.expect_line("ready")
        assert send_command(child, before) in {"sent", "crashed"}
        if before == "send old":
            send_command(child, "reopen")  # closes it, so that only a kill leaves a write-ahead log
    for one in path.parent.iterdir():
        one.chmod(file)
    path.parent.chmod(folder)
    try:
        with Child(MODULE, "run_without_dac_override", "serve", path) as child:
            child.expect_line("ready")
            assert send_command(child, "unreconciled") == "old"
            assert send_command(child, "send more").startswith(f"JournalError: the journal {path} could not be written")
            assert send_command(child, "unreconciled") == "old"
            path.parent.chmod(0o755)
            for one in path.parent.iterdir():
                one.chmod(0o644)
            assert send_command(child, "send late") == "sent"
            assert send_command(child, "unreconciled") == "late old"
    finally:
        path.parent.chmod(0o755)


def test_a_folder_that_is_not_there(path: Path) -> None:
    """Without its folder the journal can be neither read nor written, each in one sentence; with it, it is created."""
    path.parent.rmdir()
    journal = Journal(str(path))
    with pytest.raises(JournalError, match=f"the journal {path} could not be read"):
        journal.unresolved_intents()
    with pytest.raises(JournalError, match=f"the journal {path} could not be written"):
        journal.record_intent(make_intent())
    path.parent.mkdir()
    send(journal, "later")
    journal.close()
    assert unreconciled_ids(path) == ["later"]


def test_only_the_owner_may_read_it(path: Path) -> None:
    """The journal and the files beside it are created with mode 0600."""
    journal = Journal(str(path))
    send(journal, "one")
    assert {one.name: one.stat().st_mode & 0o777 for one in path.parent.iterdir()} == {
        path.name + ending: 0o600 for ending in ("", "-wal", "-shm")
    }
    journal.close()


# Lost files


@pytest.mark.parametrize("endings", [("",), ("", "-wal", "-shm")], ids=["the file", "with its log"])
def test_deleted_while_open(path: Path, caplog: pytest.LogCaptureFixture, endings: tuple[str, ...]) -> None:
    """A journal that is deleted while open is written again with everything that it had, and a warning is logged."""
    journal = Journal(str(path))
    send(journal, "old")
    journal.record_orders([make_kraken_order("filled")])
    journal.add_fills([make_fill()])
    journal.set_complete_until("mybot", 100.0)
    for ending in endings:
        Path(f"{path}{ending}").unlink()
    with pytest.raises(OrderBlockedError):
        send(journal, "more")
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    again = Journal(str(path))
    assert [one.cl_ord_id for one in again.unresolved_intents()] == ["old"]
    assert (again.orders(), again.fills(), again.complete_until("mybot")) == (
        [make_kraken_order("filled")],
        [make_fill()],
        100.0,
    )
    again.close()
    journal.close()
    assert is_intact(path)


def test_replaced_while_open(path: Path) -> None:
    """A journal that is replaced by an older copy gets what this process knows and the copy does not."""
    journal = Journal(str(path))
    send(journal, "one")
    journal.close()
    copy = path.with_name("copy")
    shutil.copy(path, copy)
    journal.set_state("one", OrderState.UNKNOWN)
    send(journal, "two", "ETH/USD")
    os.replace(copy, path)
    assert len(journal.unresolved_intents()) == 2
    journal.close()
    assert unreconciled_ids(path) == ["one", "two"]
    assert is_intact(path)


def test_the_folder_removed_while_open(path: Path) -> None:
    """While the folder is missing no order is sent and recorded orders can be read; afterwards nothing is lost."""
    journal = Journal(str(path))
    send(journal, "old")
    elsewhere = path.parent.with_name("elsewhere")
    path.parent.rename(elsewhere)
    with pytest.raises(JournalError):
        journal.record_intent(make_intent("more"))
    assert [one.cl_ord_id for one in journal.unresolved_intents()] == ["old"]
    path.parent.mkdir()
    journal.record_intent(make_intent("more"))
    journal.close()
    assert unreconciled_ids(path) == ["old"]


# Several processes


def test_an_unreconciled_order_of_another_process_blocks_the_pair(path: Path) -> None:
    """An unknown order of another process blocks this process's order in the pair until it is resolved."""
    with Child(MODULE, "serve", path) as first, Child(MODULE, "serve", path) as second:
        first.expect_line("ready")
        second.expect_line("ready")
        assert send_command(first, "send_btc first") == "sent"
        assert "OrderBlockedError" in send_command(second, "send_btc second")
        assert send_command(second, "unreconciled") == "first"
        assert send_command(first, "reconcile first") == "reconciled"
        assert send_command(second, "send_btc second") == "sent"
        assert "OrderBlockedError" in send_command(first, "send_btc third")


def test_several_processes_begin_and_write_at_once(path: Path) -> None:
    """Processes that create the same journal and write to it at once lose nothing, and none is refused."""
    rounds = 3
    with contextlib.ExitStack() as stack:
        children = [
            stack.enter_context(Child(MODULE, "open_concurrently", path, f"p{number}-", rounds)) for number in range(4)
        ]
        for child in children:
            child.expect_line("ready")
        for number in range(rounds):
            for child in children:
                child.write_line("go")
            for child in children:
                child.expect_line(f"sent {number}")
            assert len(unreconciled_ids(Path(f"{path}{number}"))) == 40
            assert is_intact(Path(f"{path}{number}"))


def test_a_journal_that_another_process_is_beginning_is_waited_for(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where another process holds SQLite's lock at creation, for which SQLite does not wait, the journal waits."""
    journal = Journal(str(path))
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        monkeypatch.setattr(journal_db, "sleep", lambda _seconds: other.execute("COMMIT"))
        assert journal.unresolved_intents() == []
        assert not other.in_transaction
    journal.close()


def test_a_fork_in_a_write(path: Path) -> None:
    """A child forked in the middle of a write reads nothing of it, and does not disturb it."""
    with Child(MODULE, "fork_during_write", path) as child:
        assert child.read_to_end() == ["child BTC/USD", "parent ETH/USD"]


def test_threads_share_a_journal(path: Path) -> None:
    """Of threads that send orders of one pair at once exactly one succeeds, and the others raise OrderBlockedError."""
    journal = Journal(str(path))
    outcomes: list[str] = []
    barrier = Barrier(8)

    def work(number: int) -> None:
        barrier.wait()
        try:
            send(journal, f"n{number}")
            outcomes.append("sent")
        except OrderBlockedError:
            outcomes.append("blocked")

    threads = [Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["blocked"] * 7 + ["sent"]
    assert len(journal.unresolved_intents()) == 1
    journal.close()


@linux_only
def test_forks_while_threads_write(path: Path, full_size: bool) -> None:
    """A child forked while threads write opens the file for itself, waits for no lock of theirs, and loses no order."""
    with Child(MODULE, "fork_while_threads_write", path, 200 if full_size else 30, limit_seconds=90) as child:
        threads, forks = map(int, child.read_to_end()[-1].split())
    assert len(unreconciled_ids(path)) == threads + forks
    assert is_intact(path)
