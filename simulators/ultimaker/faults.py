"""Faults of the network and of the web server, put between the wire and the application."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass, field
from typing import Any

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

#: Faults on the way of a request.
WIRE = (
    "silent",  # no answer until the fault is lifted
    "slow",  # `seconds` before the answer
    "error_500",  # 500 instead of the work
    "refuse_connection",  # connection cut before anything is read
    "drop_upload",  # connection cut after `seconds` = that many bytes of the body (default 1024); not accepted
    "drop_reply",  # the work is done, the connection is cut before the answer
    "work_then_500",  # the work is done, the answer is 500
    "garbage",  # 200 with something that is not JSON
    "nonce_expired",  # every nonce is forgotten the moment this request comes
)
#: Faults of what is told; looked up by the endpoints.
TOLD = (
    "false_idle",  # printer/status says idle whatever goes on
    "job_404",  # print_job says 404 whatever goes on
    "history_empty",  # history shows nothing
    "queue_empty",  # the queue of the cluster firmware shows nothing
    "odd_status",  # printer/status is `value`
    "odd_state",  # print_job/state is `value`
)
#: Things that happen once, at once.
EVENTS = (
    "reboot",
    "power_cut",
    "power_on",
    "panel_abort",
    "panel_pause",
    "hardware_error",  # see `Machine.hardware_error`
    "wrong_core",
    "wrong_material",
    "filament_out",  # the spool is empty: see `Machine.filament_out`
    "filament_in",
    "nonce_expiry",
    "forget_clients",
)


@dataclass
class Fault:
    """One fault. `match` and `method` narrow it; `count` None = until lifted."""

    kind: str
    match: str = ""
    method: str = ""
    count: int | None = None
    seconds: float = 0.0
    value: str = ""

    def hits(self, method: str, path: str) -> bool:
        return self.match in path and self.method.upper() in ("", method)


@dataclass
class FaultBoard:
    active: list[Fault] = field(default_factory=list)
    in_hand: int = 0
    """POSTs that have come and are not done with, whether or not their senders still wait."""

    def set(self, fault: Fault) -> None:
        if fault.kind not in WIRE + TOLD:
            raise ValueError(f"unknown fault {fault.kind}; known: {', '.join(WIRE + TOLD + EVENTS)}")
        self.active.append(fault)

    def lift(self, kind: str = "") -> None:
        self.active = [f for f in self.active if kind not in ("", f.kind)]

    def take(self, method: str, path: str) -> Fault | None:
        """The wire fault for this request, counted down."""
        for fault in self.active:
            if fault.kind in WIRE and fault.hits(method, path):
                return self._count(fault)
        return None

    def told(self, kind: str) -> Fault | None:
        return next((f for f in self.active if f.kind == kind), None)

    def _count(self, fault: Fault) -> Fault:
        if fault.count is not None:
            fault.count -= 1
            if fault.count <= 0:
                self.active.remove(fault)
        return fault


class Gate:
    """ASGI application around the real one. The panel is never disturbed."""

    def __init__(
        self, app: App, board: FaultBoard, answering: Callable[[], bool], expire: Callable[[], None]
    ) -> None:
        self._app, self._board, self._answering, self._expire = app, board, answering, expire

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"].startswith("/panel"):
            await self._app(scope, receive, send)
            return
        if not self._answering():
            _cut(receive)
            return
        fault = self._board.take(scope["method"], scope["path"])
        counts = int(scope["method"] == "POST")
        self._board.in_hand += counts
        try:
            if fault is None:
                await self._app(scope, receive, send)
            else:
                await self._disturb(fault, scope, receive, send)
        finally:
            self._board.in_hand -= counts

    async def _disturb(
        self, fault: Fault, scope: MutableMapping[str, Any], receive: Receive, send: Send
    ) -> None:
        if fault.kind == "silent":
            await self._hang(fault, receive)
        elif fault.kind == "slow":
            # the front web server takes the body in whatever becomes of the client
            whole = await _taken_in(receive)
            await asyncio.sleep(fault.seconds)
            await self._app(scope, whole, send)
        elif fault.kind == "nonce_expired":
            self._expire()
            await self._app(scope, receive, send)
        elif fault.kind == "error_500":
            await _drain(receive, None)
            await _answer(send, 500, b'{"message": "Internal Server Error"}')
        elif fault.kind == "garbage":
            await _drain(receive, None)
            await _answer(send, 200, b"<html>Ultimaker</html>")
        elif fault.kind in ("drop_reply", "work_then_500"):
            await self._app(scope, receive, _swallow)
            if fault.kind == "drop_reply":
                _cut(receive)
            else:
                await _answer(send, 500, b'{"message": "Internal Server Error"}')
        else:
            limit = 0 if fault.kind == "refuse_connection" else int(fault.seconds or 1024)
            await _drain(receive, limit)
            _cut(receive)

    async def _hang(self, fault: Fault, receive: Receive) -> None:
        # a counted fault leaves the board when taken, so it hangs for its `seconds` (default a minute)
        lasts_s = fault.seconds or (60.0 if fault.count is not None else 3600.0)
        waited_s = 0.0
        while waited_s < lasts_s and not _transport(receive).is_closing():
            if fault.count is None and fault not in self._board.active:
                break
            await asyncio.sleep(0.02)
            waited_s += 0.02
        _cut(receive)


async def _swallow(_message: Message) -> None:
    """Takes the answer that the client is not to see."""


async def _drain(receive: Receive, limit: int | None) -> None:
    """Read the body to its end, or until more than `limit` bytes have come."""
    got = 0
    while limit is None or got < limit:
        message = await receive()
        if message["type"] != "http.request":
            return
        got += len(message.get("body", b""))
        if not message.get("more_body"):
            return


async def _taken_in(receive: Receive) -> Receive:
    """Read the body to its end now; a `receive` that hands it out later."""
    body, more = bytearray(), True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message["type"] == "http.request" and message.get("more_body", False)
    kept: list[Message] = [{"type": "http.request", "body": bytes(body), "more_body": False}]

    async def replay() -> Message:
        return kept.pop() if kept else await receive()

    return replay


async def _answer(send: Send, status: int, body: bytes) -> None:
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _transport(receive: Receive) -> asyncio.Transport:
    # ASGI has no word for cutting a connection: uvicorn's `receive` is a method of the object that holds it
    transport = receive.__self__.transport  # type: ignore[attr-defined]
    assert isinstance(transport, asyncio.Transport)
    return transport


def _cut(receive: Receive) -> None:
    _transport(receive).abort()
