"""Tasks that the store tests run in child processes: `python -m tests.stores.children TASK ARGUMENTS`."""

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
from bot.base.errors import NonceStoreError, RequestLockTimeout
from bot.nonce.file_store import FileStore, open_file_store
from bot.nonce.local_lock import Priority, RequestLock


def print_line(text: object) -> None:
    """Print a line for the parent and flush it."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def read_line() -> str:
    """Read a line from the parent."""
    return sys.stdin.readline().rstrip("\n")


def print_nonces(path: str, count: str) -> None:
    """Wait for the parent's line, then print the next `count` nonces."""
    store = FileStore(path)
    print_line("ready")
    read_line()
    print_line("\n".join(str(store.next_nonce()) for _ in range(int(count))))


def print_nonces_forever(path: str, at_least_ahead_us: str) -> None:
    """Request nonces in a tight loop; write each to standard output in one write before the next request."""
    store = FileStore(path)
    ahead = int(at_least_ahead_us)
    nonce = store.next_nonce(clock.wall_us() + ahead) if ahead else store.next_nonce()
    while True:
        os.write(1, b"%016d\n" % nonce)
        nonce = store.next_nonce()


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


def request_in_forked_children(path: str, forks: str, count: str, folder: str) -> None:
    """Request nonces in this process, in one of its threads, and in children that are forked meanwhile."""
    store = open_file_store(path)
    store.next_nonce()
    stop = threading.Event()
    thread_nonces: list[int] = []

    def request_until_stopped() -> None:
        while not stop.is_set():
            thread_nonces.append(store.next_nonce())

    def write_nonces(name: str, nonces: list[int]) -> None:
        with open(os.path.join(folder, name), "w", encoding="ascii") as file:
            file.writelines(f"{nonce}\n" for nonce in nonces)

    def child(number: int) -> None:
        write_nonces(f"fork{number}", [store.next_nonce() for _ in range(int(count))])

    thread = threading.Thread(target=request_until_stopped)
    thread.start()
    pids = [_in_fork(lambda number=number: child(number)) for number in range(int(forks))]  # type: ignore[misc]
    main_nonces = [store.next_nonce() for _ in range(int(count))]
    _reap(pids)
    stop.set()
    thread.join()
    write_nonces("thread", thread_nonces)
    write_nonces("main", main_nonces)


def leave_forked_child_running(path: str) -> None:
    """Request nonces until killed; a forked child, which requested one nonce and sleeps, outlives this process."""
    store = open_file_store(path)
    store.next_nonce()

    def child() -> None:
        store.next_nonce()
        print_line(os.getpid())
        signal.pause()

    _in_fork(child)
    while True:
        store.next_nonce()


def fork_during_next_nonce(path: str) -> None:
    """Fork in the middle of `next_nonce`; after the child has ended, print whether the file is still locked."""
    store = open_file_store(path)
    store.next_nonce()
    pwrite = os.pwrite

    def fork_and_write(descriptor: int, data: bytes, offset: int) -> int:
        _reap([_in_fork(lambda: None)])
        with open(path, "rb") as other:
            try:
                fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
                print_line("unlocked")
            except BlockingIOError:
                print_line("still locked")
        return pwrite(descriptor, data, offset)

    os.pwrite = fork_and_write  # type: ignore[assignment]
    store.next_nonce()


def print_nonces_as_nobody(path: str, at_least_ahead_us: str) -> None:
    """Request three nonces without root's rights, the first `at_least_ahead_us` ahead of the clock."""
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
    store = FileStore(path)
    for ahead in (int(at_least_ahead_us), 0, 0):
        before = clock.wall_us()
        try:
            nonce = store.next_nonce(before + ahead if ahead else 0)
        except NonceStoreError as error:
            print_line(f"NonceStoreError: {error}")
        else:
            print_line(f"{before} {nonce} {clock.wall_us()}")
        # Wait until the clock has moved on, so that the next request has another time.
        while clock.wall_us() == before:
            pass
    print_line(store.problem is not None)


def print_nonces_on_full_disk(path: str, max_bytes: str) -> None:
    """Request three nonces on a disk that takes `max_bytes` bytes per file at most, then one more with free space."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    store = FileStore(path)
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(max_bytes), before[1]))
    for _ in range(3):
        print_line(store.next_nonce())
    print_line(store.problem is not None)
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    print_line(store.next_nonce())
    print_line(store.problem is None)


def hold_lock(path: str) -> None:
    """Hold the request lock until the parent writes a line; print a line after the release."""
    lock = RequestLock(path)
    with lock.hold(Priority.READ):
        print_line("held")
        read_line()
    print_line("released")
    read_line()


def acquire_repeatedly(path: str, count: str, log_path: str) -> None:
    """Acquire the lock `count` times in a row; log this process's pid at the start and at the end of each hold."""
    lock = RequestLock(path)
    descriptor = os.open(log_path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    print_line("ready")
    read_line()
    for _ in range(int(count)):
        with lock.hold(Priority.READ):
            os.write(descriptor, b"+%d\n" % os.getpid())
            time.sleep(0)
            os.write(descriptor, b"-%d\n" % os.getpid())
    print_line("done")


def acquire_forever(path: str, threads: str) -> None:
    """Acquire the lock in tight loops in several threads until killed."""
    lock = RequestLock(path)

    def loop() -> None:
        while True:
            with lock.hold(Priority.READ):
                clock.boottime_seconds()

    for _ in range(int(threads)):
        threading.Thread(target=loop, daemon=True).start()
    print_line("busy")
    read_line()


def wait_for_lock(path: str, timeout_seconds: str) -> None:
    """Wait for the lock in the main thread and print the result; print each SIGTERM that arrives while waiting."""
    lock = RequestLock(path)
    signal.signal(signal.SIGTERM, lambda _number, _frame: print_line("SIGTERM"))
    print_line("waiting")
    try:
        with lock.hold(Priority.READ, float(timeout_seconds)):
            print_line("held")
    except RequestLockTimeout:
        print_line("RequestLockTimeout")
    read_line()


def fork_while_holding_lock(path: str, how_parent_ends: str) -> None:
    """Fork while holding the lock; the child leaves the block, prints a line, and then acquires the lock itself."""
    lock = RequestLock(path)
    pid = 0
    with lock.hold(Priority.READ):
        pid = os.fork()
        if pid:
            read_line()
            if how_parent_ends == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            print_line("parent releases")
    if pid:
        _reap([pid])
        return
    signal.alarm(60)
    print_line("child left the block")
    with lock.hold(Priority.READ):
        print_line("child holds the lock")
    os._exit(0)


def acquire_own_lock_in_fork(path: str) -> None:
    """Fork while holding the lock; the child enters a hold of its own, leaves the block, and probes the lock file."""
    lock = RequestLock(path)
    pid = 0
    own_lock = lock.hold(Priority.READ)
    with lock.hold(Priority.READ):
        pid = os.fork()
        if not pid:
            signal.alarm(60)
            own_lock.__enter__()
    if pid:
        _reap([pid])
        return
    with open(path, "rb") as other:
        try:
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
            print_line("released")
        except BlockingIOError:
            print_line("still held")
    os._exit(0)


def print_default_nonce_file() -> None:
    """Print the default path of the nonce file, before any nonce is requested."""
    import bot.broker_manager

    print_line(bot.broker_manager.NONCE_FILE)


def print_next_nonce(path: str) -> None:
    """Print one nonce from `get_kraken_nonce`, as a restarted program does."""
    import bot.broker_manager

    bot.broker_manager.NONCE_FILE = path
    print_line(bot.broker_manager.get_kraken_nonce())


TASKS: dict[str, Callable[..., None]] = {
    task.__name__: task
    for task in (
        print_nonces,
        print_nonces_forever,
        request_in_forked_children,
        leave_forked_child_running,
        fork_during_next_nonce,
        print_nonces_as_nobody,
        print_nonces_on_full_disk,
        hold_lock,
        acquire_repeatedly,
        acquire_forever,
        wait_for_lock,
        fork_while_holding_lock,
        acquire_own_lock_in_fork,
        print_default_nonce_file,
        print_next_nonce,
    )
}

if __name__ == "__main__":
    TASKS[sys.argv[1]](*sys.argv[2:])
