"""What the child processes of the store tests do: `python -m tests.stores.children TASK ARGUMENTS`."""

from __future__ import annotations

import fcntl
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable

from bot.base import clock
from bot.base.errors import NonceStoreError, TurnTimeout
from bot.nonce.file_store import FileStore, store_at
from bot.nonce.local_lock import Turns, Urgency


def say(text: object) -> None:
    """Tell the parent a line."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def hear() -> str:
    """Wait for a line of the parent."""
    return sys.stdin.readline().rstrip("\n")


def draw(path: str, count: str) -> None:
    """Wait for the parent's word, then draw and print `count` nonces."""
    store = FileStore(path)
    say("ready")
    hear()
    say("\n".join(str(store.draw()) for _ in range(int(count))))


def draw_for_ever(path: str, at_least_ahead_us: str) -> None:
    """Draw in a tight loop; after each draw write the nonce to standard output in one write."""
    store = FileStore(path)
    ahead = int(at_least_ahead_us)
    nonce = store.draw(clock.wall_us() + ahead) if ahead else store.draw()
    while True:
        os.write(1, b"%016d\n" % nonce)
        nonce = store.draw()


def _in_fork(work: Callable[[], None]) -> int:
    pid = os.fork()
    if pid:
        return pid
    signal.alarm(60)
    code = 1
    try:
        work()
        sys.stdout.flush()
        code = 0
    finally:
        os._exit(code)


def _reap(pids: list[int]) -> None:
    for pid in pids:
        _, status = os.waitpid(pid, 0)
        if status:
            raise SystemExit(f"a forked child ended with {status}")


def draw_in_forks(path: str, forks: str, count: str, folder: str) -> None:
    """Draw once, then draw in this process, in a thread of it, and in children forked meanwhile."""
    store = store_at(path)
    store.draw()
    stop = threading.Event()
    own: list[int] = []

    def keep_drawing() -> None:
        while not stop.is_set():
            own.append(store.draw())

    def write_down(name: str, nonces: list[int]) -> None:
        with open(os.path.join(folder, name), "w", encoding="ascii") as file:
            file.writelines(f"{nonce}\n" for nonce in nonces)

    def child(number: int) -> None:
        write_down(f"fork{number}", [store.draw() for _ in range(int(count))])

    thread = threading.Thread(target=keep_drawing)
    thread.start()
    pids = [_in_fork(lambda number=number: child(number)) for number in range(int(forks))]  # type: ignore[misc]
    drawn_between = [store.draw() for _ in range(int(count))]
    _reap(pids)
    stop.set()
    thread.join()
    write_down("thread", own)
    write_down("main", drawn_between)


def leave_fork_behind(path: str) -> None:
    """Draw for ever while a forked child, which drew and then sleeps, outlives us."""
    store = store_at(path)
    store.draw()

    def child() -> None:
        store.draw()
        say(os.getpid())
        signal.pause()

    _in_fork(child)
    while True:
        store.draw()


def fork_in_a_draw(path: str) -> None:
    """Fork in the middle of a draw, wait until the child has ended, and say whether the file is still locked."""
    store = store_at(path)
    store.draw()
    pwrite = os.pwrite

    def fork_and_write(descriptor: int, data: bytes, offset: int) -> int:
        _reap([_in_fork(lambda: None)])
        with open(path, "rb") as other:
            try:
                fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
                say("unlocked")
            except BlockingIOError:
                say("still locked")
        return pwrite(descriptor, data, offset)

    os.pwrite = fork_and_write  # type: ignore[assignment]
    store.draw()


def draw_as_nobody(path: str, at_least_ahead_us: str) -> None:
    """Draw three times, the first `at_least_ahead_us` ahead of the clock, without the rights of root."""
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
    store = FileStore(path)
    for ahead in (int(at_least_ahead_us), 0, 0):
        before = clock.wall_us()
        try:
            nonce = store.draw(before + ahead if ahead else 0)
        except NonceStoreError as error:
            say(f"NonceStoreError: {error}")
        else:
            say(f"{before} {nonce} {clock.wall_us()}")
        # The clock moves on before the next one is asked for.
        while clock.wall_us() == before:
            pass
    say(store.problem is not None)


def draw_on_a_full_disk(path: str, bytes_max: str) -> None:
    """Draw three times on a disk that takes no more than `bytes_max` bytes of a file, then with room again."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    store = FileStore(path)
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(bytes_max), before[1]))
    for _ in range(3):
        say(store.draw())
    say(store.problem is not None)
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    say(store.draw())
    say(store.problem is None)


def hold_turn(path: str) -> None:
    """Take the turn, hold it until the parent says something, and say when it is given back."""
    turns = Turns(path)
    with turns.turn(Urgency.READ):
        say("held")
        hear()
    say("given back")
    hear()


def take_turns(path: str, count: str, log_path: str) -> None:
    """Take `count` turns in a row; in each, note our pid at the beginning and the end."""
    turns = Turns(path)
    descriptor = os.open(log_path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    say("ready")
    hear()
    for _ in range(int(count)):
        with turns.turn(Urgency.READ):
            os.write(descriptor, b"+%d\n" % os.getpid())
            time.sleep(0)
            os.write(descriptor, b"-%d\n" % os.getpid())
    say("done")


def take_turns_for_ever(path: str, threads: str) -> None:
    """Take turns in tight loops, in several threads, until killed."""
    turns = Turns(path)

    def loop() -> None:
        while True:
            with turns.turn(Urgency.READ):
                clock.boottime_seconds()

    for _ in range(int(threads)):
        threading.Thread(target=loop, daemon=True).start()
    say("busy")
    hear()


def wait_for_turn(path: str, timeout_seconds: str) -> None:
    """Wait for the turn in the main thread, and say how that ended; a SIGTERM is noted while waiting."""
    turns = Turns(path)
    signal.signal(signal.SIGTERM, lambda _number, _frame: say("SIGTERM"))
    say("waiting")
    try:
        with turns.turn(Urgency.READ, float(timeout_seconds)):
            say("held")
    except TurnTimeout:
        say("TurnTimeout")
    hear()


def fork_in_turn(path: str, parents_end: str) -> None:
    """Fork while holding the turn; the child leaves the block, says so, and then asks for a turn of its own."""
    turns = Turns(path)
    pid = 0
    with turns.turn(Urgency.READ):
        pid = os.fork()
        if pid:
            hear()
            if parents_end == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            say("parent gives back")
    if pid:
        _reap([pid])
        return
    signal.alarm(60)
    say("child left the block")
    with turns.turn(Urgency.READ):
        say("child has the turn")
    os._exit(0)


def take_own_turn_in_fork(path: str) -> None:
    """Fork in a turn; the child takes a turn of its own in the block, leaves the block, and looks at the lock."""
    turns = Turns(path)
    pid = 0
    own_turn = turns.turn(Urgency.READ)
    with turns.turn(Urgency.READ):
        pid = os.fork()
        if not pid:
            signal.alarm(60)
            own_turn.__enter__()
    if pid:
        _reap([pid])
        return
    with open(path, "rb") as other:
        try:
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
            say("let go")
        except BlockingIOError:
            say("still held")
    os._exit(0)


def draw_default() -> None:
    """Say where the nonce file is by default, before anything is drawn."""
    import bot.broker_manager

    say(bot.broker_manager.NONCE_FILE)


def draw_from(path: str) -> None:
    """Draw one nonce with `get_kraken_nonce`, as a restarted program does."""
    import bot.broker_manager

    bot.broker_manager.NONCE_FILE = path
    say(bot.broker_manager.get_kraken_nonce())


TASKS: dict[str, Callable[..., None]] = {
    task.__name__: task
    for task in (
        draw,
        draw_for_ever,
        draw_in_forks,
        leave_fork_behind,
        fork_in_a_draw,
        draw_as_nobody,
        draw_on_a_full_disk,
        hold_turn,
        take_turns,
        take_turns_for_ever,
        wait_for_turn,
        fork_in_turn,
        take_own_turn_in_fork,
        draw_default,
        draw_from,
    )
}

if __name__ == "__main__":
    TASKS[sys.argv[1]](*sys.argv[2:])
