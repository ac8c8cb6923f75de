"""What tests of the gate before the status page share: one server for a module's tests, and a gate for each of them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from starlette.types import Receive, Scope, Send

from tests.dashboard_tools import Client, World, serving


@pytest.fixture(scope="module")
def port_and_world() -> Iterator[tuple[int, list[World]]]:
    """Serve whatever world a test has put into the list."""
    worlds: list[World] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await worlds[-1].app(scope, receive, send)

    with serving(app) as port:
        yield port, worlds


@pytest.fixture
def world(port_and_world: tuple[int, list[World]]) -> World:
    """A public page with a token."""
    port_and_world[1].append(World())
    return port_and_world[1][-1]


@pytest.fixture
def local(port_and_world: tuple[int, list[World]]) -> World:
    """A page bound to loopback, without a token."""
    port_and_world[1].append(World(is_public=False, token=""))
    return port_and_world[1][-1]


@pytest.fixture
def client(port_and_world: tuple[int, list[World]]) -> Client:
    """Somebody at the default address."""
    return Client(port_and_world[0])
