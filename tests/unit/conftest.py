"""Fixtures for tests of the dashboard's auth middleware: one HTTP server per module, a new middleware per test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from starlette.types import Receive, Scope, Send

from tests.dashboard_tools import AuthServer, Client, serving


@pytest.fixture(scope="module")
def port_and_servers() -> Iterator[tuple[int, list[AuthServer]]]:
    """Serve the most recent middleware that a test has added to the list."""
    servers: list[AuthServer] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await servers[-1].app(scope, receive, send)

    with serving(app) as port:
        yield port, servers


@pytest.fixture
def public_server(port_and_servers: tuple[int, list[AuthServer]]) -> AuthServer:
    """A public dashboard with a token."""
    port_and_servers[1].append(AuthServer())
    return port_and_servers[1][-1]


@pytest.fixture
def loopback_server(port_and_servers: tuple[int, list[AuthServer]]) -> AuthServer:
    """A dashboard bound to loopback, without a token."""
    port_and_servers[1].append(AuthServer(is_public=False, token=""))
    return port_and_servers[1][-1]


@pytest.fixture
def client(port_and_servers: tuple[int, list[AuthServer]]) -> Client:
    """A client at the default address."""
    return Client(port_and_servers[0])
