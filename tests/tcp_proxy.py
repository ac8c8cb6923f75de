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

Way = Literal["request", "answer"]

# PostgreSQL's clients ask in plain text whether they may go on by TLS, or first by another way.
_MAY_I_USE_TLS, _MAY_I_USE_GSS = struct.pack(">ii", 8, 80877103), struct.pack(">ii", 8, 80877104)


class _CutError(OSError):
    """A connection is to be cut here."""


@dataclass
class _Cut:
    """Which request or answer is the next to be lost."""

    way: Way
    skip: int
    keep_bytes: int


class Gateway:
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
        self.requests = self.answers = self.cuts = 0
        self._server = server
        self._delay_seconds = delay_seconds
        self._random = random.Random(seed)
        self._authority: Path | None = None
        self._tls: ssl.SSLContext | None = None
        if tls_folder is not None:
            self._authority, self._tls = _certificate(tls_folder)
        self._cut: _Cut | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._listener: socket.socket | None = None
        self._refuses = False
        self._meetings: set[asyncio.Task[None]] = set()
        self._clients: set[asyncio.StreamWriter] = set()
        self._plugs: list[socket.socket] = []
        self._flow = asyncio.Event()
        self._flow.set()

    @property
    def url(self) -> str:
        """The server's URL by way of this gateway."""
        return self._server.url_at(self.port, self._authority)

    def __enter__(self) -> Self:
        self._thread.start()
        self._do(self._open())
        return self

    def __exit__(self, *_error: object) -> None:
        self._do(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def close_port(self, *, silent: bool = False) -> None:
        """Part the clients from the server: connections are reset and refused; `silent`: nothing comes through at all.

        In silence nobody is told anything: what is sent and who wants to connect waits until `open_port`.
        """
        self._do(self._close(silent))

    def open_port(self) -> None:
        """End the partition."""
        self._do(self._open())

    def cut(self, way: Way, *, skip: int = 0, keep_bytes: int = 0) -> None:
        """Let `skip` more requests (or answers) through, then lose the next but for `keep_bytes`, and its connection.

        Where it is an answer, the server has done what it was asked.
        """
        self._cut = _Cut(way, skip, keep_bytes)

    def _do(self, step: Coroutine[object, object, None]) -> None:
        asyncio.run_coroutine_threadsafe(step, self._loop).result(LIMIT_SECONDS)

    async def _open(self) -> None:
        while self._plugs:
            self._plugs.pop().close()
        self._listener = socket.create_server(("127.0.0.1", self.port))
        self._listener.setblocking(False)
        self._loop.add_reader(self._listener, self._admit)
        self._refuses = False
        self._flow.set()

    async def _close(self, silent: bool) -> None:
        if self._listener is None:
            return
        self._loop.remove_reader(self._listener)
        # Who has a connection already has it, though we have not looked yet.
        self._admit()
        self._listener.close()
        self._listener = None
        if silent:
            self._flow.clear()
            self._plugs = _plugged(self.port)
            return
        self._refuses = True
        for client in self._clients:
            _reset(client)

    def _admit(self) -> None:
        assert self._listener is not None
        with contextlib.suppress(BlockingIOError):
            while True:
                meeting = self._loop.create_task(self._meet(self._listener.accept()[0]))
                self._meetings.add(meeting)
                meeting.add_done_callback(self._meetings.discard)

    async def _meet(self, client: socket.socket) -> None:
        client.setblocking(False)
        protocol = asyncio.StreamReaderProtocol(asyncio.StreamReader(), self._serve)
        await self._loop.connect_accepted_socket(lambda: protocol, client)

    async def _end(self) -> None:
        await self._close(silent=False)
        await asyncio.gather(*self._meetings)
        while self._plugs:
            self._plugs.pop().close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._clients.add(writer)
        if self._refuses:
            _reset(writer)
        # Both ends may break off at any time, and nobody is to be told but the other end.
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            if self._tls is not None:
                if isinstance(self._server, PostgresServer):
                    await _agree_on_tls(reader, writer)
                await writer.start_tls(self._tls)
            above_reader, above_writer = await asyncio.open_connection("127.0.0.1", self._server.port)
            try:
                await self._link(reader, writer, above_reader, above_writer)
            finally:
                above_writer.close()
        self._clients.discard(writer)
        writer.close()

    async def _link(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        above_reader: asyncio.StreamReader,
        above_writer: asyncio.StreamWriter,
    ) -> None:
        spoken: list[Way] = []
        pumps = (
            asyncio.create_task(self._pump("request", spoken, reader, above_writer)),
            asyncio.create_task(self._pump("answer", spoken, above_reader, writer)),
        )
        try:
            done, _ = await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            for pump in done:
                pump.result()
        except _CutError:
            _reset(writer)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)

    async def _pump(
        self, way: Way, spoken: list[Way], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        while data := await reader.read(65536):
            await asyncio.sleep(self._random.uniform(*self._delay_seconds))
            await self._flow.wait()
            if spoken[-1:] != [way]:
                spoken[:] = [way]
                cut = self._count(way)
                if cut is not None:
                    await self._lose(data[: cut.keep_bytes], writer)
            writer.write(data)
            await writer.drain()
        # The end of a connection does not come through a partition either.
        await self._flow.wait()

    def _count(self, way: Way) -> _Cut | None:
        if way == "request":
            self.requests += 1
        else:
            self.answers += 1
        if self._cut is None or self._cut.way != way:
            return None
        if self._cut.skip:
            self._cut.skip -= 1
            return None
        cut, self._cut = self._cut, None
        self.cuts += 1
        return cut

    @staticmethod
    async def _lose(kept: bytes, writer: asyncio.StreamWriter) -> None:
        if not kept:
            raise _CutError
        writer.write(kept)
        await writer.drain()
        raise ConnectionAbortedError


def _reset(writer: asyncio.StreamWriter) -> None:
    # Lingering for no time is what makes the end a reset.
    connection = writer.get_extra_info("socket")
    # By TLS, one that has just ended has none.
    with contextlib.suppress(OSError, AttributeError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


def _plugged(port: int) -> list[socket.socket]:
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


async def _agree_on_tls(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while (asked := await reader.readexactly(8)) == _MAY_I_USE_GSS:
        writer.write(b"N")
    if asked != _MAY_I_USE_TLS:
        raise ConnectionAbortedError
    writer.write(b"S")


def _certificate(folder: Path) -> tuple[Path, ssl.SSLContext]:
    authority = trustme.CA()
    trusted = folder / "authority.pem"
    authority.cert_pem.write_to_path(trusted)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(tls)
    return trusted, tls
