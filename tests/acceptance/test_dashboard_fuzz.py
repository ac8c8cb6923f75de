"""The status server of a running bot under hostile clients: malformed, slow, and many."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.acceptance.malformed_requests import MalformedRequests
from tests.acceptance.processes import BotProcess
from tests.dashboard_tools import TOKEN, Client
from tests.server_processes import free_port

SEED = 20_261_123
# Longer than the 10 s for a request head, for a loaded machine.
TIMEOUT_LIMIT_SECONDS = 40.0
MEMORY_MB = 8
HEALTH = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
KEEP_ALIVE_REQUEST = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
FORM = (
    b"POST /login HTTP/1.1\r\nHost: localhost\r\nSec-Fetch-Site: same-origin\r\nContent-Length: 3000\r\n"
    b"Content-Type: application/x-www-form-urlencoded\r\n\r\n"
)


class ProcessUsage:
    """Memory, threads and open files of a process, from /proc."""

    def __init__(self, pid: int) -> None:
        text = Path(f"/proc/{pid}/status").read_text("ascii")
        self.memory_mb, self.threads = (int(re.findall(rf"{name}:\s+(\d+)", text)[0]) for name in ("VmRSS", "Threads"))
        self.memory_mb //= 1024
        self.files = len(os.listdir(f"/proc/{pid}/fd"))


async def connect(port: int, number: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connect from one of several loopback addresses."""
    address = f"127.0.0.{2 + number % 20}"
    return await asyncio.open_connection("127.0.0.1", port, local_addr=(address, 0))


@asynccontextmanager
async def connected(port: int, number: int) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Open a connection; abort it at the end of the block."""
    reader, writer = await connect(port, number)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def check_health(port: int) -> None:
    """Fail unless the bot answers /healthz in time."""
    async with asyncio.timeout(10), connected(port, 0) as (reader, writer):
        writer.write(HEALTH)
        assert (await reader.read()).startswith(b"HTTP/1.1 200 ")


async def poll_health(port: int) -> None:
    """Request /healthz again and again, as a platform does."""
    while True:
        await check_health(port)
        await asyncio.sleep(0.1)


async def send_malformed(port: int, generator: MalformedRequests, number: int) -> int:
    """Send one malformed request; return the status of the response, or 0 for none."""
    head = b""
    try:
        async with asyncio.timeout(0.3), connected(port, number) as (reader, writer):
            writer.write(generator.request(number))
            head = await reader.readline()
    except (TimeoutError, ConnectionError):
        pass
    return int(head.split(b" ")[1]) if head else 0


async def send_all_malformed(port: int, generator: MalformedRequests, count: int) -> None:
    """Send malformed requests, 20 at a time; fail with the number of the request that causes a server error."""
    numbers = iter(range(count))

    async def worker() -> None:
        for number in numbers:
            status = await send_malformed(port, generator, number)
            # 503: not ready, and too many streams.
            assert status < 500 or status == 503, (generator.seed, number, generator.request(number))

    async with asyncio.TaskGroup() as group:
        for _ in range(20):
            group.create_task(worker())


async def send_slowly(port: int, number: int, first: bytes, piece: bytes) -> None:
    """Send `first`, and then `piece` again and again, until the server closes the connection."""
    async with asyncio.timeout(TIMEOUT_LIMIT_SECONDS), connected(port, number) as (reader, writer):
        writer.write(first)
        while not reader.at_eof():
            try:
                async with asyncio.timeout(0.5):
                    await reader.read(100)
            except TimeoutError:
                writer.write(piece)
            except ConnectionError:
                return


async def run_slow_clients(port: int) -> None:
    """Run slow clients of every kind at once; return when each of them was disconnected."""
    client_kinds = [
        (b"", b""),
        (b"", b"G"),
        (b"GET / HTTP/1.1\r\nHost: loc", b""),
        (b"GET / HTTP/1.1\r\nX: ", b"x"),
        (KEEP_ALIVE_REQUEST + b"GET /", b"x"),
        (FORM, b""),
        (FORM, b"x"),
        (HEALTH.replace(b"Connection: close", b"Content-Length: 99999"), b"x"),
    ]
    async with asyncio.TaskGroup() as group:
        for number in range(5 * len(client_kinds)):
            group.create_task(send_slowly(port, number, *client_kinds[number % len(client_kinds)]))


@asynccontextmanager
async def open_unread_clients(port: int, cookie: str) -> AsyncIterator[None]:
    """Open clients that request the page and the event stream again and again, and never read."""
    writers = []
    for number in range(20):
        _, writer = await connect(port, number)
        writer.transport.pause_reading()  # type: ignore[attr-defined]  # every reading transport has it
        path = "/events" if number % 2 else "/"
        writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nCookie: {cookie}\r\n\r\n".encode() * 20)
        writers.append(writer)
    yield
    for writer in writers:
        writer.transport.abort()


async def open_many_connections(port: int, pid: int) -> None:
    """Open more connections than the limit; the bot stays healthy and keeps at most 200."""
    connections = [await connect(port, 1) for _ in range(400)]
    await check_health(port)
    assert ProcessUsage(pid).files < 250
    for _, writer in connections:
        writer.transport.abort()


async def run_attack(port: int, pid: int, generator: MalformedRequests, cookie: str, count: int) -> None:
    """Run all attacks at once, while the bot's health is polled."""
    async with open_unread_clients(port, cookie), asyncio.TaskGroup() as group:
        health_task = group.create_task(poll_health(port))
        slow_task = group.create_task(run_slow_clients(port))
        await send_all_malformed(port, generator, count)
        await open_many_connections(port, pid)
        await slow_task
        health_task.cancel()


async def wait_until_idle(port: int, pid: int, files: int) -> ProcessUsage:
    """Wait until the bot has at most `files` open files; return its usage then."""
    async with asyncio.timeout(TIMEOUT_LIMIT_SECONDS):
        while (usage := ProcessUsage(pid)).files > files:
            await check_health(port)
    return usage


async def attack_twice(bot: BotProcess, port: int, cookie: str, count: int) -> None:
    """Attack the server twice, lightly and fully; fail if the second attack leaves anything behind."""
    idle_usage = ProcessUsage(bot.pid)
    # The first request of the page may open the journal and read a file.
    files = idle_usage.files + 5
    generator = MalformedRequests(SEED, cookie)
    await send_all_malformed(port, generator, count // 5)
    await open_many_connections(port, bot.pid)
    before = await wait_until_idle(port, bot.pid, files)
    await run_attack(port, bot.pid, generator, cookie, count)
    after = await wait_until_idle(port, bot.pid, files)
    # A thread pool reads static files.
    assert after.threads <= idle_usage.threads + 40
    assert after.memory_mb - before.memory_mb <= MEMORY_MB, (vars(before), vars(after))


def test_server_survives_malformed_slow_and_many_clients(state: Path, full_size: bool) -> None:
    """Under malformed, slow and many clients there is no server error, no leak of threads, connections or memory, no
    log line; health is answered all the time, and a logged-in user still sees the page.
    """
    port, count = free_port(), 40_000 if full_size else 500
    settings = {"STATE_DIR": str(state), "PORT": str(port), "STATUS_TOKEN": TOKEN}
    with BotProcess(settings=settings, timeout_seconds=1800 if full_size else 100) as bot:
        bot.wait_for("The warm-up is over")
        cookie = Client(port).log_in().cookie
        assert Client(port).get("/", Cookie=cookie).status == 200
        asyncio.run(attack_twice(bot, port, cookie, count))
        assert Client(port).get("/", Cookie=cookie).status == 200
        assert bot.stop() == 0
    for pattern in ("(?i)exception|asyncio|uvicorn|starlette|h11", TOKEN, cookie.partition("=")[2]):
        assert re.search(pattern, bot.text) is None, bot.text
