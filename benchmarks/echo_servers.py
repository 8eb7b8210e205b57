"""Servers that send each line back, to compare the socket with: one in trio, one that blocks.

python -m benchmarks.echo_servers trio|blocking SOCKET
"""

import socket
import sys

import trio

READ_SIZE = 1 << 16
BACKLOG = 1024


async def echo_in_trio(listener: socket.socket) -> None:
    """A task for each connection."""

    async def echo(stream: trio.SocketStream) -> None:
        while data := await stream.receive_some(READ_SIZE):
            await stream.send_all(data)

    await trio.serve_listeners(
        echo, [trio.SocketListener(trio.socket.from_stdlib_socket(listener))]
    )  # fmt: skip


def echo_blocking(listener: socket.socket) -> None:
    """One connection after the other."""
    while True:
        connection, _ = listener.accept()
        with connection:
            while data := connection.recv(READ_SIZE):
                connection.sendall(data)


def main() -> None:
    """Listen and serve until killed."""
    kind, path = sys.argv[1:]
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen(BACKLOG)
        print("listening", flush=True)
        if kind == "trio":
            trio.run(echo_in_trio, listener)
        else:
            echo_blocking(listener)


if __name__ == "__main__":
    main()
