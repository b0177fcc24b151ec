"""One listening socket: a thread for each connection, with the TLS handshake on that thread and within bounds."""

from __future__ import annotations

import contextlib
import errno
import resource
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable, Sequence

from adapters.dicom_node.association import Association
from adapters.dicom_node.events import NodeEvents
from adapters.dicom_node.tls import TlsFiles, server_context
from service.errors import ConfigError

_BACKLOG = 512
_MOST_CONNECTIONS = 1000
"""Open sockets, one thread each, before negotiation sorts them out."""
_OUT_OF_DESCRIPTORS = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}

Opener = Callable[[socket.socket, str], Association]


def _descriptors(wanted: int) -> int:
    """How many files this process may have open, after asking for `wanted`."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return wanted
    possible = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (possible, hard))
    return possible


class Connections:
    """All that is connected to the node, over every port."""

    def __init__(self, on_end: Callable[[], None] = lambda: None) -> None:
        """`on_end`: an association is over."""
        self._on_end = on_end
        self._lock = threading.Lock()
        self._open: dict[int, tuple[socket.socket, threading.Thread]] = {}
        self._associations: set[Association] = set()
        self._most = min(_MOST_CONNECTIONS, _descriptors(2 * _MOST_CONNECTIONS) // 2)

    def enter(self, sock: socket.socket, thread: threading.Thread) -> bool:
        """False when there are too many."""
        with self._lock:
            if len(self._open) >= self._most:
                return False
            self._open[id(sock)] = (sock, thread)
            return True

    def leave(self, sock: socket.socket) -> None:
        with self._lock:
            self._open.pop(id(sock), None)

    def add(self, association: Association) -> None:
        with self._lock:
            self._associations.add(association)

    def remove(self, association: Association) -> None:
        with self._lock:
            self._associations.discard(association)
        self._on_end()

    def established(self) -> Sequence[Association]:
        with self._lock:
            return [a for a in self._associations if a.established_at is not None]

    def end_all(self, timeout_s: float) -> None:
        with self._lock:
            associations, threads = list(self._associations), [t for _, t in self._open.values()]
            sockets = [s for s, _ in self._open.values()]
        for association in associations:
            association.end()
        for sock in sockets:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        end = time.monotonic() + timeout_s
        for thread in threads:
            thread.join(max(0.0, end - time.monotonic()))


class Listener:
    """`handshake_s` bounds the whole TLS handshake. Raises ConfigError at `start` when the port is not free."""

    def __init__(
        self,
        host: str,
        port: int,
        open_association: Opener,
        connections: Connections,
        events: NodeEvents,
        *,
        tls: TlsFiles | None = None,
        handshake_s: float = 10.0,
    ) -> None:
        self._host, self._wanted_port = host, port
        self._open_association = open_association
        self._connections = connections
        self._events = events
        self._tls = tls
        self._handshake_s = handshake_s
        self._context: ssl.SSLContext | None = None
        self._stamp: tuple[int, ...] = ()
        self._socket: socket.socket | None = None
        self._thread: threading.Thread | None = None
        self._stopping = threading.Event()

    def start(self) -> None:
        if self._tls is not None:
            self._context, self._stamp = server_context(self._tls), self._tls.stamp
        try:
            family, kind, _, _, address = socket.getaddrinfo(
                self._host, self._wanted_port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )[0]
            listening = socket.socket(family, kind)
            try:
                listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                listening.bind(address)
                listening.listen(_BACKLOG)
            except (OSError, OverflowError):
                listening.close()
                raise
        except (OSError, OverflowError) as error:
            raise ConfigError(
                f"The DICOM port {self._wanted_port} on {self._host or 'all addresses'} cannot be opened "
                f"({getattr(error, 'strerror', None) or error}).",
                next_step="Choose another [dicom] host or port, or stop the program that holds it.",
                code="dicom.port",
            ) from error
        self._socket = listening
        self._thread = threading.Thread(target=self._accept, name=f"dicom-accept-{self.port}", daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        return self._wanted_port if self._socket is None else int(self._socket.getsockname()[1])

    def stop(self) -> None:
        self._stopping.set()
        if self._socket is not None:
            # wakes the accept
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)
            if self._thread is not None:
                self._thread.join(5.0)
            self._socket.close()
            self._socket = None

    def _accept(self) -> None:
        listening = self._socket
        while listening is not None and not self._stopping.is_set():
            try:
                sock, address = listening.accept()
            except OSError as error:
                if self._stopping.is_set():
                    return
                if error.errno in _OUT_OF_DESCRIPTORS:
                    self._events.note("faults", f"a connection could not be taken: {error.strerror}")
                    time.sleep(0.2)
                continue
            thread = threading.Thread(
                target=self._serve, args=(sock, str(address[0])), name=f"dicom-{address[0]}", daemon=True
            )
            if self._connections.enter(sock, thread):
                thread.start()
            else:
                self._events.note(
                    "rejected_connections", "too many connections are open already", address=str(address[0])
                )
                sock.close()

    def _serve(self, sock: socket.socket, address: str) -> None:
        """The thread of one connection."""
        wire: socket.socket | None = None
        try:
            wire = self._secured(sock, address)
            if wire is None:
                return
            wire.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            association = self._open_association(wire, address)
            self._connections.add(association)
            try:
                association.run()
            finally:
                self._connections.remove(association)
        except OSError:
            # the connection was gone before anything was said
            self._events.count("probes")
        finally:
            self._connections.leave(sock)
            (wire or sock).close()

    def _secured(self, sock: socket.socket, address: str) -> socket.socket | None:
        """The socket to talk over: itself, or its TLS side; None when the handshake failed."""
        if self._tls is None:
            return sock
        wrapped = self._current_context(self._tls).wrap_socket(
            sock, server_side=True, do_handshake_on_connect=False
        )
        try:
            _shake_hands(wrapped, self._handshake_s)
        except (OSError, ssl.SSLError) as error:
            reason = getattr(error, "reason", None) or str(error) or type(error).__name__
            self._events.note(
                "tls_faults",
                f"the TLS handshake failed: {reason}",
                address=address,
                next_step="Give the client a certificate signed by [dicom] tls_ca, and TLS 1.2 or 1.3.",
            )
            wrapped.close()
            return None
        return wrapped

    def _current_context(self, files: TlsFiles) -> ssl.SSLContext:
        """A renewed certificate is used from the next connection on; an unusable one is noted and not used."""
        try:
            if self._context is None or files.stamp != self._stamp:
                self._context, self._stamp = server_context(files), files.stamp
        except (ConfigError, OSError) as error:
            self._events.note("tls_faults", f"the renewed TLS files cannot be used: {error}")
            if self._context is None:
                raise
        return self._context


def _shake_hands(wrapped: ssl.SSLSocket, within_s: float) -> None:
    """Raises OSError or SSLError. Waits for the socket by itself: a time-out would start anew with every byte."""
    end = time.monotonic() + within_s
    wrapped.setblocking(False)
    while True:
        try:
            wrapped.do_handshake()
            return
        except ssl.SSLWantReadError:
            ready: tuple[list[ssl.SSLSocket], list[ssl.SSLSocket]] = ([wrapped], [])
        except ssl.SSLWantWriteError:
            ready = ([], [wrapped])
        left = end - time.monotonic()
        if left <= 0 or not any(select.select(*ready, [], left)[:2]):
            raise TimeoutError(f"not finished within {within_s:g} s")
