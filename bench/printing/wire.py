"""A cable between the service and a printer that changes nothing, and tells when which part of a request passes.

The service runs in another process: an instant such as "the printer has started, its answer is not yet through"
can only be met here.
"""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

#: A request's head comes / so much of its body has passed / the answer has come, still held / it has passed.
ASKED, BODY, ANSWERED, PASSED = "asked", "body", "answered", "passed"

_REQUEST = re.compile(rb"(GET|PUT|POST|DELETE) (/\S*) HTTP/1\.1\r\n")
_STATUS = re.compile(rb"HTTP/1\.1 (\d\d\d)")
_BLOCK = 16384


@dataclass(frozen=True)
class Seen:
    """One thing on the wire. `count` is bytes of the body so far for BODY, the status for ANSWERED and PASSED."""

    what: str
    method: str
    path: str
    count: int = 0


@dataclass
class _Connection:
    service: socket.socket
    printer: socket.socket
    method: str = ""
    path: str = ""
    body_bytes: int = 0


@dataclass
class Wire:
    """Listens on a free port of this machine; `watch` is called in order, before the bytes go on."""

    printer: tuple[str, int]
    watch: Callable[[Seen], None] = lambda _seen: None
    _listener: socket.socket = field(init=False)

    def __post_init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                service, _ = self._listener.accept()
            except OSError:
                return
            try:
                printer = socket.create_connection(self.printer, timeout=10)
            except OSError:
                service.close()
                continue
            printer.settimeout(None)
            connection = _Connection(service, printer)
            threading.Thread(target=self._ask, args=(connection,), daemon=True).start()
            threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _ask(self, connection: _Connection) -> None:
        try:
            while block := connection.service.recv(_BLOCK):
                head = _REQUEST.match(block)
                if head:
                    connection.method, connection.path = head[1].decode(), head[2].decode()
                    connection.body_bytes = max(0, len(block) - block.find(b"\r\n\r\n") - 4)
                    self.watch(Seen(ASKED, connection.method, connection.path))
                else:
                    connection.body_bytes += len(block)
                if connection.body_bytes:
                    self.watch(Seen(BODY, connection.method, connection.path, connection.body_bytes))
                connection.printer.sendall(block)
        except OSError:
            pass
        _end(connection.printer)

    def _answer(self, connection: _Connection) -> None:
        try:
            while block := connection.printer.recv(_BLOCK):
                status = _STATUS.match(block)
                if status is None:
                    connection.service.sendall(block)
                    continue
                method, path, code = connection.method, connection.path, int(status[1])
                self.watch(Seen(ANSWERED, method, path, code))
                connection.service.sendall(block)
                self.watch(Seen(PASSED, method, path, code))
        except OSError:
            pass
        _end(connection.service)


def _end(sock: socket.socket) -> None:
    with suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)
    sock.close()
