"""A TCP proxy before a real server: partitions, lost requests and answers, slow networks, TLS, counted round trips.

It runs on loopback in the test's own process. A request is what a connection's client sends until the server answers;
an answer is what the server sends until the client does: a round trip has one of each.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import ssl
import struct
import threading
from collections.abc import Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

import trustme

from tests.server_processes import LIMIT_SECONDS, free_port
from tests.servers import PostgresServer, Server

Direction = Literal["request", "answer"]

# PostgreSQL's clients ask in plain text for TLS or, before that, for another encryption.
_SSL_REQUEST, _GSSENC_REQUEST = struct.pack(">ii", 8, 80877103), struct.pack(">ii", 8, 80877104)


class _ConnectionCutError(OSError):
    """Raised to cut a connection."""


@dataclass
class _PendingCut:
    """The request or answer that is lost next."""

    direction: Direction
    skip_count: int
    forwarded_bytes: int


class FaultProxy:
    """A proxy before `server`, as a context manager; its `url` is the server's with another port.

    `requests` and `responses` count messages, `cuts` the connections that `cut` has ended. With a `tls_folder` the
    proxy accepts TLS only; the trusted certificate is in that folder, and the URL names it.
    """

    def __init__(
        self,
        server: Server,
        *,
        delay_seconds: tuple[float, float] = (0.0, 0.0),
        seed: int = 0,
        tls_folder: Path | None = None,
    ) -> None:
        self.port = free_port()
        self.requests = self.responses = self.cuts = 0
        self._server = server
        self._delay_seconds = delay_seconds
        self._random = random.Random(seed)
        self._ca_file: Path | None = None
        self._tls: ssl.SSLContext | None = None
        if tls_folder is not None:
            self._ca_file, self._tls = _make_certificate(tls_folder)
        self._pending_cut: _PendingCut | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._listener: socket.socket | None = None
        self._is_refusing = False
        self._accept_tasks: set[asyncio.Task[None]] = set()
        self._clients: set[asyncio.StreamWriter] = set()
        self._blocking_sockets: list[socket.socket] = []
        self._is_forwarding = asyncio.Event()
        self._is_forwarding.set()

    @property
    def url(self) -> str:
        """Return the server's URL through this proxy."""
        return self._server.url_at(self.port, self._ca_file)

    def __enter__(self) -> Self:
        self._thread.start()
        self._run(self._open())
        return self

    def __exit__(self, *_error: object) -> None:
        self._run(self._shut_down())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def start_partition(self, *, blackhole: bool = False) -> None:
        """Separate the clients from the server: connections are reset and refused; with `blackhole` nothing is
        forwarded.

        With `blackhole` no side is notified: data and new connections wait until `end_partition`.
        """
        self._run(self._close(blackhole))

    def end_partition(self) -> None:
        """End the partition."""
        self._run(self._open())

    def cut(self, direction: Direction, *, skip_count: int = 0, forwarded_bytes: int = 0) -> None:
        """Forward `skip_count` requests (or answers), then cut the connection at the next, after `forwarded_bytes` of
        it.

        Where an answer is cut, the server has done what it was asked.
        """
        self._pending_cut = _PendingCut(direction, skip_count, forwarded_bytes)

    def _run(self, coroutine: Coroutine[object, object, None]) -> None:
        asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(LIMIT_SECONDS)

    async def _open(self) -> None:
        while self._blocking_sockets:
            self._blocking_sockets.pop().close()
        self._listener = socket.create_server(("127.0.0.1", self.port))
        self._listener.setblocking(False)
        self._loop.add_reader(self._listener, self._accept_pending)
        self._is_refusing = False
        self._is_forwarding.set()

    async def _close(self, blackhole: bool) -> None:
        if self._listener is None:
            return
        self._loop.remove_reader(self._listener)
        # The kernel may have accepted connections that this loop has not seen yet.
        self._accept_pending()
        self._listener.close()
        self._listener = None
        if blackhole:
            self._is_forwarding.clear()
            self._blocking_sockets = _unreachable_listener(self.port)
            return
        self._is_refusing = True
        for client in self._clients:
            _reset(client)

    def _accept_pending(self) -> None:
        assert self._listener is not None
        with contextlib.suppress(BlockingIOError):
            while True:
                task = self._loop.create_task(self._accept_client(self._listener.accept()[0]))
                self._accept_tasks.add(task)
                task.add_done_callback(self._accept_tasks.discard)

    async def _accept_client(self, client: socket.socket) -> None:
        client.setblocking(False)
        protocol = asyncio.StreamReaderProtocol(asyncio.StreamReader(), self._serve)
        await self._loop.connect_accepted_socket(lambda: protocol, client)

    async def _shut_down(self) -> None:
        await self._close(blackhole=False)
        await asyncio.gather(*self._accept_tasks)
        while self._blocking_sockets:
            self._blocking_sockets.pop().close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._clients.add(writer)
        if self._is_refusing:
            _reset(writer)
        # Either end may close at any time; only the other end has to see it.
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            if self._tls is not None:
                if isinstance(self._server, PostgresServer):
                    await _accept_ssl_request(reader, writer)
                await writer.start_tls(self._tls)
            upstream_reader, upstream_writer = await asyncio.open_connection("127.0.0.1", self._server.port)
            try:
                await self._relay(reader, writer, upstream_reader, upstream_writer)
            finally:
                upstream_writer.close()
        self._clients.discard(writer)
        writer.close()

    async def _relay(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        upstream_reader: asyncio.StreamReader,
        upstream_writer: asyncio.StreamWriter,
    ) -> None:
        last_direction: list[Direction] = []
        pumps = (
            asyncio.create_task(self._pump("request", last_direction, reader, upstream_writer)),
            asyncio.create_task(self._pump("answer", last_direction, upstream_reader, writer)),
        )
        try:
            done, _ = await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            for pump in done:
                pump.result()
        except _ConnectionCutError:
            _reset(writer)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)

    async def _pump(
        self,
        direction: Direction,
        last_direction: list[Direction],
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        while data := await reader.read(65536):
            await asyncio.sleep(self._random.uniform(*self._delay_seconds))
            await self._is_forwarding.wait()
            if last_direction[-1:] != [direction]:
                last_direction[:] = [direction]
                cut = self._count_message(direction)
                if cut is not None:
                    await self._drop(data[: cut.forwarded_bytes], writer)
            writer.write(data)
            await writer.drain()
        # A partition holds back the end of a connection too.
        await self._is_forwarding.wait()

    def _count_message(self, direction: Direction) -> _PendingCut | None:
        if direction == "request":
            self.requests += 1
        else:
            self.responses += 1
        if self._pending_cut is None or self._pending_cut.direction != direction:
            return None
        if self._pending_cut.skip_count:
            self._pending_cut.skip_count -= 1
            return None
        cut, self._pending_cut = self._pending_cut, None
        self.cuts += 1
        return cut

    @staticmethod
    async def _drop(data: bytes, writer: asyncio.StreamWriter) -> None:
        if not data:
            raise _ConnectionCutError
        writer.write(data)
        await writer.drain()
        raise ConnectionAbortedError


def _reset(writer: asyncio.StreamWriter) -> None:
    # A linger time of zero turns the close into a reset.
    connection = writer.get_extra_info("socket")
    # A TLS connection that has just ended has no socket.
    with contextlib.suppress(OSError, AttributeError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


def _unreachable_listener(port: int) -> list[socket.socket]:
    """Return a listener that nobody can reach, because its queue is full, and the sockets that fill it."""
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    listener.listen(0)
    fillers = [socket.socket() for _ in range(2)]
    for filler in fillers:
        filler.setblocking(False)
        filler.connect_ex(("127.0.0.1", port))
    return [listener, *fillers]


async def _accept_ssl_request(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while (request := await reader.readexactly(8)) == _GSSENC_REQUEST:
        writer.write(b"N")
    if request != _SSL_REQUEST:
        raise ConnectionAbortedError
    writer.write(b"S")


def _make_certificate(folder: Path) -> tuple[Path, ssl.SSLContext]:
    ca = trustme.CA()
    ca_file = folder / "authority.pem"
    ca.cert_pem.write_to_path(ca_file)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("127.0.0.1").configure_cert(tls)
    return ca_file, tls
