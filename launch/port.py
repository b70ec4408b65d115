"""The port at which the ranks of one machine meet."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager

ADDRESS = "127.0.0.1"


@contextmanager
def reserved_port() -> Iterator[int]:
    """A port on which rank 0, and nobody else, can listen while the block runs.

    It stays bound here without listening. The kernel then gives it to no socket that asks for any free port, neither
    by bind nor by connect (a rank that connects before rank 0 listens could even meet itself); rank 0 may listen on
    it, because both sockets have SO_REUSEADDR, as torch's TCPStore and libuv set it. What remains: a foreign program
    that asks for this very number; rank 0 then fails at once with "address already in use".
    """
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind((ADDRESS, 0))
        yield holder.getsockname()[1]
