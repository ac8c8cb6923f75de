"""The smallest possible web page: one Starlette route on uvicorn, configured as the dashboard server is."""

from __future__ import annotations

import socket

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route


async def ok(_request: Request) -> PlainTextResponse:
    """Answer the health check."""
    return PlainTextResponse("ok\n")


def main() -> None:
    """Serve until the parent ends the process."""
    listener = socket.create_server(("127.0.0.1", 0))
    # Inherited by the connections; uvicorn itself would do the same for a socket that it makes.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    print(listener.getsockname()[1], flush=True)
    app = Starlette(routes=[Route("/healthz", ok)])
    config = uvicorn.Config(app, http="h11", loop="asyncio", lifespan="off", log_config=None, access_log=False)
    uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main()
