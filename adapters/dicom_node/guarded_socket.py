"""Bounds on what one client may cost: time for each PDU, and its length.

pynetdicom 3.0.4 reads a PDU with no limit of either (measured: twelve clients that sent three bytes blocked the
node; a header announcing 4 GiB was buffered). Its reader calls `recv(n)` of the association's socket twice for
each PDU, six bytes of header and then the announced length; that method is replaced here.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from typing import Any

_HEADER_BYTES = 6


class GuardedReceive:
    """Replacement of `AssociationSocket.recv`. Raises OSError, which the library takes as a closed connection."""

    def __init__(
        self,
        wrapped: Any,
        *,
        pdu_timeout_s: float,
        longest_pdu_bytes: int,
        on_fault: Callable[[str], None],
    ) -> None:
        self._wrapped = wrapped
        self._timeout_s = pdu_timeout_s
        self._longest = longest_pdu_bytes
        self._on_fault = on_fault
        self._deadline = 0.0

    def __call__(self, nr_bytes: int) -> bytearray:
        if nr_bytes == _HEADER_BYTES:
            self._deadline = time.monotonic() + self._timeout_s
        elif nr_bytes > self._longest:
            self._on_fault(f"announced a PDU of {nr_bytes} bytes, the limit is {self._longest}")
            raise OSError("PDU longer than the limit")
        buffer = bytearray(nr_bytes)
        view = memoryview(buffer)
        sock: socket.socket = self._wrapped.socket
        done = 0
        while done < nr_bytes:
            left = self._deadline - time.monotonic()
            if left <= 0:
                self._on_fault(f"did not finish a PDU within {self._timeout_s:g} s")
                raise TimeoutError("PDU not finished in time")
            sock.settimeout(left)
            try:
                count = sock.recv_into(view[done:])
            except TimeoutError:
                continue
            if not count:
                return buffer[:done]
            done += count
        # answers go out through the same socket: they get the full time again
        sock.settimeout(self._timeout_s)
        return buffer
