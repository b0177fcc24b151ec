"""Runs the simulated printer under uvicorn, on its own or inside another program's thread."""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Callable, Mapping

import uvicorn

from simulators.ultimaker.app import build
from simulators.ultimaker.simulator import Simulator


class _AnnouncingServer(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, announce: Callable[[], None]) -> None:
        super().__init__(config)
        self._announce = announce

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._announce()


def listen(host: str, port: int) -> socket.socket:
    """A bound socket; port 0 takes a free one."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind((host, port))
    return sock


def address(sock: socket.socket) -> str:
    host, port = sock.getsockname()[:2]
    return f"http://{host}:{port}"


def make_server(sim: Simulator, announce: Callable[[], None]) -> uvicorn.Server:
    # h11 and no proxy headers: the fault gate reaches the transport through them (see faults._transport)
    config = uvicorn.Config(
        build(sim),
        http="h11",
        ws="none",
        proxy_headers=False,
        lifespan="on",
        log_level="error",
        access_log=False,
        timeout_graceful_shutdown=1,
    )
    return _AnnouncingServer(config, announce)


def print_ready(document: Mapping[str, object]) -> None:
    """One JSON line on stdout: the programs that start the simulator wait for it."""
    sys.stdout.write(json.dumps(document) + "\n")
    sys.stdout.flush()
