"""Limits of the dashboard server: the number of clients, and time-outs for each of them; uvicorn sets neither.

By uvicorn's source, it keeps for ever a connection that sends nothing, one that sends a byte now and then, and one that
does not read its answer. Its `limit_concurrency` would answer the platform's health check with 503 as soon as somebody
holds enough connections open.
"""

from __future__ import annotations

import asyncio
import socket
from collections import Counter
from typing import cast

import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

CONNECTIONS_MAX = 200
HEAD_BYTES_MAX = 16_384
HEAD_TIMEOUT_SECONDS = 10.0
UNREAD_TIMEOUT_SECONDS = 30.0
# Longer than the proxies' keep-alive, so that no proxy sends a request into a connection that is being closed.
KEEP_ALIVE_SECONDS = 75
# The time for unfinished answers when the server ends.
SHUTDOWN_GRACE_SECONDS = 0.2


class Connection(H11Protocol):
    """A connection, closed when a request's head takes longer than 10 s, when output stays unread for 30 s, or to
    make room."""

    is_aborted = False
    _head_timer: asyncio.TimerHandle | None = None
    _unread_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
        """Start to wait for a request."""
        super().connection_made(transport)
        # Asyncio sets it only where the socket names TCP as its protocol, which one of `create_server` does not.
        # Without it the second part of an answer waits 40 ms for the client's acknowledgement of the first.
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # Pause on every byte that the kernel does not accept.
        transport.set_write_buffer_limits(high=0)
        self.idle_since_seconds = self.loop.time()
        self._head_timer = self.loop.call_later(HEAD_TIMEOUT_SECONDS, self.abort)
        self._evict_if_full()

    def data_received(self, data: bytes) -> None:
        """Handle a piece of a request."""
        if self._head_timer is None and not self.is_serving:
            self._head_timer = self.loop.call_later(HEAD_TIMEOUT_SECONDS, self.abort)
        super().data_received(data)
        if self.is_serving:
            _cancel(self._head_timer)
            self._head_timer = None
            # Requests behind the current one, which no browser sends: they would be kept until it is answered.
            if len(self.conn.trailing_data[0]) > HEAD_BYTES_MAX:
                self.abort()

    def on_response_complete(self) -> None:
        """Start to wait for the next request, of which a part may have arrived already."""
        super().on_response_complete()
        self.idle_since_seconds = self.loop.time()
        if not self.is_serving and self.conn.trailing_data[0]:
            self._head_timer = self.loop.call_later(HEAD_TIMEOUT_SECONDS, self.abort)

    def send_400_response(self, msg: str) -> None:
        """Answer input that is not HTTP, unless a request came before it; uvicorn would fail then, and fill the log."""
        if self.conn.our_state is h11.IDLE:
            super().send_400_response(msg)
        else:
            self.abort()

    def pause_writing(self) -> None:
        """Start to wait for the client to read."""
        super().pause_writing()
        self._unread_timer = self.loop.call_later(UNREAD_TIMEOUT_SECONDS, self.abort)

    def resume_writing(self) -> None:
        """Stop to wait for the client to read."""
        super().resume_writing()
        _cancel(self._unread_timer)

    def connection_lost(self, exc: Exception | None) -> None:
        """Remove the connection."""
        _cancel(self._head_timer)
        _cancel(self._unread_timer)
        super().connection_lost(exc)
        # Uvicorn does so only after an orderly close; otherwise the connection would be kept, with all its input, until
        # the end of its timer.
        self._unset_keepalive_if_required()

    def shutdown(self) -> None:
        """End with the server: a stream would continue."""
        super().shutdown()
        self.loop.call_later(SHUTDOWN_GRACE_SECONDS, self.abort)

    @property
    def is_serving(self) -> bool:
        """Tell whether a request is being answered."""
        return self.cycle is not None and not self.cycle.response_complete

    def abort(self) -> None:
        """Close at once, unread data included."""
        self.is_aborted = True
        self.transport.abort()

    def _evict_if_full(self) -> None:
        """If there are too many connections, close one of the peer with the most: the one that has waited longest
        for its client."""
        others = [cast(Connection, other) for other in self.connections if other is not self]
        others = [other for other in others if not other.is_aborted]
        if len(others) < CONNECTIONS_MAX:
            return
        counts = Counter(other.peer for other in others)
        highest_count = max(counts.values())
        candidates = [other for other in others if counts[other.peer] == highest_count]
        min(candidates, key=lambda one: (one.is_serving, one.idle_since_seconds)).abort()

    @property
    def peer(self) -> str:
        """The address of the client."""
        return self.client[0] if self.client else ""


def _cancel(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()


def uvicorn_config(app: ASGIApp) -> uvicorn.Config:
    """Return the server settings for this app; nothing is read from the environment."""
    return uvicorn.Config(
        app,
        http=Connection,
        ws="none",
        loop="asyncio",
        lifespan="off",
        workers=1,
        # The log is the program's. Errors of clients do not belong in it: they could fill it.
        log_config=None,
        log_level="error",
        access_log=False,
        server_header=False,
        # A client can put any address into these headers.
        proxy_headers=False,
        forwarded_allow_ips=[],
        backlog=128,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=1,
        h11_max_incomplete_event_size=HEAD_BYTES_MAX,
    )
