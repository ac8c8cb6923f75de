"""A gateway in front of a real server: partitions, lost requests and answers, slow networks, TLS, counted round trips.

It is a TCP proxy on loopback in the test's own process. A request is what a connection's client sends until the server
says something; an answer is what the server says until the client does: a round trip has one of each.
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

# PostgreSQL's clients ask in plain text whether they may go on by TLS, or first by another way.
_SSL_REQUEST, _GSSENC_REQUEST = struct.pack(">ii", 8, 80877103), struct.pack(">ii", 8, 80877104)


class _ConnectionCutError(OSError):
    """A connection is to be cut here."""


@dataclass
class _PendingCut:
    """Which request or answer is the next to be lost."""

    direction: Direction
    skip_count: int
    forwarded_bytes: int


class FaultProxy:
    """A door to `server`, in a `with` block; its `url` is the server's but for the port.

    `requests` and `answers` count what came, `cuts` the connections that `cut` has ended. With a `tls_folder` it serves
    by TLS alone; the certificate to trust lies there, and its URL says so.
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
        """The server's URL by way of this gateway."""
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
        """Part the clients from the server: connections are reset and refused; `silent`: nothing comes through at all.

        In silence nobody is told anything: what is sent and who wants to connect waits until `open_port`.
        """
        self._run(self._close(blackhole))

    def end_partition(self) -> None:
        """End the partition."""
        self._run(self._open())

    def cut(self, direction: Direction, *, skip_count: int = 0, forwarded_bytes: int = 0) -> None:
        """Let `skip` more requests (or answers) through, then lose the next but for `keep_bytes`, and its connection.

        Where it is an answer, the server has done what it was asked.
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
        # Who has a connection already has it, though we have not looked yet.
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
        # Both ends may break off at any time, and nobody is to be told but the other end.
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
        # The end of a connection does not come through a partition either.
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
    # Lingering for no time is what makes the end a reset.
    connection = writer.get_extra_info("socket")
    # By TLS, one that has just ended has none.
    with contextlib.suppress(OSError, AttributeError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


def _unreachable_listener(port: int) -> list[socket.socket]:
    """Return a listener that the kernel lets nobody reach, as its queue is full, and what fills it."""
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
