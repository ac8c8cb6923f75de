"""A gateway in front of a real server: partitions, lost requests and answers, slow networks, TLS, counted round trips.

It is a TCP proxy on loopback in the test's own process. A request is what the client sends until the server says
something; an answer is what the server says until the client does: one round trip has one of each.
"""

from __future__ import annotations

from types import TracebackType
from typing import Literal, Self

from tests.servers import Server, free_port

Way = Literal["request", "answer"]


class Gateway:
    """One gateway; `url` is that of the server, by the gateway's port. Used in a `with` block."""

    def __init__(self, server: Server, *, delay_seconds: tuple[float, float] = (0.0, 0.0), seed: int = 0) -> None:
        self.port = free_port()
        self._server = server

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return

    @property
    def url(self) -> str:
        """The server's URL by way of this gateway."""
        return self._server.url_at(self.port)

    def close_port(self, *, silent: bool = False) -> None:
        """Part the client from the server: connections are reset and refused; where `silent`, nothing gets through."""

    def open_port(self) -> None:
        """End the partition; what was held back in silence goes on its way."""

    def cut(self, way: Way, *, skip: int = 0, keep_bytes: int = 0) -> None:
        """Let `skip` more requests (or answers) through; then cut the next one's connection, after `keep_bytes` of it.

        With "request" the server never sees it (whole); with "answer" it has done what was asked. Once; see `cuts`.
        """

    # How many requests came and how many answers went, and how many connections were cut by `cut`.
    requests: int = 0
    answers: int = 0
    cuts: int = 0
