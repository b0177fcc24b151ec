"""Reading PDUs from a socket within bounds of time and length (PS3.8 section 9.3).

Nothing is read that was not announced within the limits, and nothing is allocated by what a peer announces: P-DATA
goes straight into the buffer it is meant for.
"""

from __future__ import annotations

import socket
import ssl
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass

ASSOCIATE_RQ, ASSOCIATE_AC, ASSOCIATE_RJ = 0x01, 0x02, 0x03
P_DATA, RELEASE_RQ, RELEASE_RP, ABORT = 0x04, 0x05, 0x06, 0x07

_HEADER = struct.Struct(">BxI")
_PDV = struct.Struct(">IBB")
_LONGEST_TICK_S = 2.0
_AHEAD_BYTES = 4096
_SILENT, _UNFINISHED = "sent nothing for {:g} s", "did not finish a PDU within {:g} s"
_FIXED_LENGTH = {RELEASE_RQ: 4, RELEASE_RP: 4, ABORT: 4}
UNRECOGNISED_PDU, UNEXPECTED_PDU, INVALID_PARAMETER = 0x01, 0x02, 0x06
"""Reasons of an A-ABORT by the service provider (PS3.8 section 9.3.8)."""


class PeerGoneError(Exception):
    """The peer closed the connection."""


class PeerFaultError(Exception):
    """The peer broke a rule or a limit; `args[0]` says what it did ("it ..."), `reason` goes into the A-ABORT."""

    def __init__(self, what: str, reason: int = INVALID_PARAMETER) -> None:
        super().__init__(what)
        self.reason = reason


@dataclass(frozen=True)
class ReadLimits:
    """Times in seconds, lengths in bytes."""

    negotiation_s: float
    idle_s: float
    pdu_s: float
    longest_pdu: int
    announced_pdu: int
    longest_negotiation: int = 1 << 20


class PduReader:
    """One connection. Raises PeerGoneError when it ends and PeerFaultError when the peer breaks a limit."""

    def __init__(
        self, sock: socket.socket, limits: ReadLimits, on_quiet: Callable[[], None] = lambda: None
    ) -> None:
        """`on_quiet` is called when nothing came for a tick between two PDUs."""
        self._sock = sock
        self._on_quiet = on_quiet
        self._limits = limits
        self._deadline = time.monotonic() + limits.negotiation_s
        self._late = _SILENT, limits.negotiation_s
        """The words for it, filled in only when needed: this is set with every PDU."""
        self._left = 0
        self._buffer = memoryview(bytearray(_AHEAD_BYTES))
        self._ahead = self._buffer[:0]
        shortest = min(limits.negotiation_s, limits.idle_s, limits.pdu_s)
        tick_s = max(0.05, min(_LONGEST_TICK_S, shortest / 2))
        if isinstance(sock, ssl.SSLSocket):
            sock.settimeout(tick_s)
            self._whole = 0
        else:
            # the kernel's own time-out: Python's would ask poll() before every read
            sock.setblocking(True)
            self._whole = socket.MSG_WAITALL
            whole = int(tick_s)
            value = struct.pack("ll", whole, int((tick_s - whole) * 1e6))
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, value)

    def next_pdu(self, *, negotiating: bool = False) -> tuple[int, int]:
        """Type and length of the next PDU, whose content is then read with `take` or `pdvs`."""
        if not self._ahead:
            wait_s = self._limits.negotiation_s if negotiating else self._limits.idle_s
            self._deadline = time.monotonic() + wait_s
            self._late = _SILENT, wait_s
            self._read_ahead()
        self._deadline = time.monotonic() + self._limits.pdu_s
        self._late = _UNFINISHED, self._limits.pdu_s
        kind, length = _HEADER.unpack(self._few(_HEADER.size))
        longest = self._longest(kind)
        if length > longest:
            raise PeerFaultError(f"announced a PDU of {length} bytes, the limit is {longest}")
        self._left = length
        return kind, length

    def _longest(self, kind: int) -> int:
        if kind == P_DATA:
            return self._limits.longest_pdu
        if kind in (ASSOCIATE_RQ, ASSOCIATE_AC):
            return self._limits.longest_negotiation
        if kind in _FIXED_LENGTH:
            return _FIXED_LENGTH[kind]
        raise PeerFaultError(f"sent something that is not DICOM (first byte {kind:02X})", UNRECOGNISED_PDU)

    def take(self, count: int) -> bytes:
        """Bytes of the present PDU; the caller has checked the count."""
        data = bytearray(count)
        self.fill(memoryview(data))
        return bytes(data)

    def next_pdv(self) -> tuple[int, int, int] | None:
        """Presentation context, message control header and length of the next fragment; None at the PDU's end."""
        if not self._left:
            return None
        if self._left < _PDV.size:
            raise PeerFaultError("sent a P-DATA PDU that ends inside a fragment's header")
        self._left -= _PDV.size
        length, context, control = _PDV.unpack(self._few(_PDV.size))
        if length < 2 or length - 2 > self._left:
            raise PeerFaultError("sent a fragment that does not fit into its PDU")
        return context, control, length - 2

    def fill(self, view: memoryview) -> None:
        """Fill `view` from the present PDU."""
        if len(view) > self._left:
            raise PeerFaultError("sent a PDU that is shorter than its content")
        self._left -= len(view)
        self._fill(view)

    def _few(self, count: int) -> bytes | memoryview:
        """Some bytes, nearly always from the small buffer."""
        if len(self._ahead) < count:
            data = bytearray(count)
            self._fill(memoryview(data))
            return bytes(data)
        found, self._ahead = self._ahead[:count], self._ahead[count:]
        return found

    def _fill(self, view: memoryview) -> None:
        """Headers come through a small buffer, what is larger straight into its place."""
        done = 0
        while done < len(view):
            if self._ahead:
                piece = self._ahead[: len(view) - done]
                view[done : done + len(piece)] = piece
                self._ahead = self._ahead[len(piece) :]
                done += len(piece)
            elif len(view) - done < _AHEAD_BYTES:
                # also when bytes do come: one a second must not keep the association for ever
                self._check_deadline()
                self._read_ahead(in_pdu=True)
            else:
                # waits in the kernel until all is there: this thread then wakes once, not for every packet
                done += self._receive(view[done:], self._whole)
                if done < len(view):
                    self._check_deadline()

    def _read_ahead(self, *, in_pdu: bool = False) -> None:
        """At least one byte into the small buffer."""
        while not (count := self._receive(self._buffer, 0, in_pdu=in_pdu)):
            self._check_deadline()
            if not in_pdu:
                self._on_quiet()
        self._ahead = self._buffer[:count]

    def _check_deadline(self) -> None:
        if time.monotonic() > self._deadline:
            words, limit_s = self._late
            raise PeerFaultError(words.format(limit_s))

    def _receive(self, view: memoryview, flags: int, *, in_pdu: bool = True) -> int:
        """0 when nothing came within a tick."""
        try:
            count = self._sock.recv_into(view, len(view), flags)
        except (TimeoutError, BlockingIOError, ssl.SSLWantReadError):
            return 0
        except OSError as error:
            raise PeerGoneError(f"({type(error).__name__})") from error
        if not count:
            raise PeerGoneError("in the middle of a PDU" if in_pdu else "")
        return count
