"""A bare-socket server that answers every request the same: what a client costs then is the client's own.

Prints its port.
"""

from __future__ import annotations

import socket
import threading

BODY = b'{"error":[],"result":{"ZUSD":"10000.0000","XXBT":"0.5000000000"}}'
RESPONSE = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(BODY), BODY)


def serve(connection: socket.socket) -> None:
    """Answer the requests of one connection."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    received = b""
    while data := connection.recv(65_536):
        received += data
        head, separator, body = received.partition(b"\r\n\r\n")
        lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
        if separator and len(body) >= int(lengths[0].partition(b":")[2]):
            received = b""
            connection.sendall(RESPONSE)


def main() -> None:
    """Serve until the process is ended."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        print(listener.getsockname()[1], flush=True)
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=serve, args=(connection,), daemon=True).start()


if __name__ == "__main__":
    main()
