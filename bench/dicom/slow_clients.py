"""500 silent and slow sockets for a minute: others are served, memory stays bounded, and all of them are let go."""

from __future__ import annotations

import argparse
import os
import selectors
import shutil
import socket
import statistics
import struct
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench.dicom import senders
from bench.dicom.images import CT_IMAGE, Load, as_another_study, write_load
from bench.dicom.machine import load_average, program, require_disk
from bench.dicom.node_process import NodeProcess
from bench.dicom.process_tree import reset_peak, sockets, status_mb
from bench.dicom.wire import associate_request, echo_only

ECHO_LIMIT_S = 1.0
SPEED_LIMIT = 0.5
MEMORY_LIMIT_MB = 10.0
_FLOOD_BYTES = 64 << 20
"""Sent behind a header that announces 4 GiB, if the node lets us."""
_RELEASE_MARGIN_S = 30
_MOST_TRANSFERS = 12


@dataclass(frozen=True)
class Kind:
    """One way to be slow: `first` is sent at once, then one byte of `drip` every second."""

    name: str
    first: bytes = b""
    drip: bytes = b""
    holds: bool = False
    """It gets an association and then says nothing on it."""


def kinds() -> tuple[Kind, ...]:
    request = associate_request("SPINEPRINT", "BENCH", CT_IMAGE)
    return (
        Kind("silent"),
        Kind("one byte a second", drip=request),
        Kind("half a PDU header", first=request[:3]),
        Kind("half a request", first=request[: len(request) // 2]),
        Kind("stranger's request, then silence", first=associate_request("SPINEPRINT", "NOBODY", CT_IMAGE)),
        Kind("echo association, then silence", first=echo_only("SPINEPRINT", "NOBODY"), holds=True),
        Kind("known sender's association, then silence", first=request, holds=True),
    )


class Crowd:
    """Keeps `count` sockets open by dialling again whenever the node hangs up. One thread, hardly any work."""

    def __init__(self, port: int, count: int, *, holders: bool = True) -> None:
        self._port = port
        self._count = count
        self._selector = selectors.DefaultSelector()
        self._open: dict[socket.socket, tuple[Kind, int, float]] = {}
        self._kinds = tuple(k for k in kinds() if holders or not k.holds)
        self._refill, self._stop = True, False
        self._next = 0
        self.dropped: Counter[str] = Counter()
        self.lifetimes: dict[str, list[float]] = {}
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        self._thread.start()
        end = time.monotonic() + 30
        while len(self._open) < self._count and time.monotonic() < end:
            time.sleep(0.05)

    @property
    def open(self) -> int:
        return len(self._open)

    def let_them_go(self) -> None:
        """Dial no more; those that are open stay as slow as they are until the node hangs up."""
        self._refill = False

    def close(self) -> None:
        self._stop = True
        self._thread.join()
        for wire in list(self._open):
            wire.close()

    def _run(self) -> None:
        beat = time.monotonic()
        while not self._stop:
            for key, _ in self._selector.select(0.1):
                self._hear(key.fileobj)  # type: ignore[arg-type]
            if self._refill:
                # a few at a time: a crowd, not a SYN flood
                for _ in range(min(100, self._count - len(self._open))):
                    self._dial()
            if time.monotonic() - beat >= 1.0:
                beat += 1.0
                for wire in list(self._open):
                    self._drip(wire)

    def _dial(self) -> None:
        kind = self._kinds[self._next % len(self._kinds)]
        self._next += 1
        try:
            wire = socket.create_connection(("127.0.0.1", self._port), timeout=5)
            wire.setblocking(False)
            if kind.first:
                wire.send(kind.first)
        except OSError:
            self.dropped["refused at the door"] += 1
            time.sleep(0.01)
            return
        self._open[wire] = (kind, 0, time.monotonic())
        self._selector.register(wire, selectors.EVENT_READ)

    def _drip(self, wire: socket.socket) -> None:
        kind, sent, since = self._open[wire]
        if sent < len(kind.drip):
            try:
                wire.send(kind.drip[sent : sent + 1])
                self._open[wire] = (kind, sent + 1, since)
            except OSError:
                self._gone(wire)

    def _hear(self, wire: socket.socket) -> None:
        try:
            if wire.recv(65536):
                return
        except BlockingIOError:
            return
        except OSError:
            pass
        self._gone(wire)

    def _gone(self, wire: socket.socket) -> None:
        kind, _, since = self._open.pop(wire)
        self.dropped[kind.name] += 1
        self.lifetimes.setdefault(kind.name, []).append(time.monotonic() - since)
        self._selector.unregister(wire)
        wire.close()


# --- what is measured -------------------------------------------------------------------------------------


def echo(port: int) -> tuple[float, bool]:
    """Seconds and success of one echoscu, its own start included."""
    start = time.monotonic()
    done = subprocess.run(
        [program("echoscu"), "-to", "5", "-ta", "5", "-td", "5", "-aet", "BENCH", "-aec", "SPINEPRINT",
         "127.0.0.1", str(port)],
        env=os.environ | {"TCP_NODELAY": "1"}, capture_output=True, check=False,
    )  # fmt: skip
    return time.monotonic() - start, done.returncode == 0


class Echoes:
    """A real C-ECHO every second."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.seconds: list[float] = []
        self.failed = 0

    def __enter__(self) -> Echoes:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(max(0.0, 1.0 - (self.seconds[-1] if self.seconds else 0.0))):
            seconds, good = echo(self._port)
            self.seconds.append(seconds)
            self.failed += not good


class Transfers:
    """One association after the other, each with images that the node has not seen yet."""

    def __init__(self, node: NodeProcess, load: Load, work: Path) -> None:
        self._node, self._load, self._work = node, load, work
        self._number = 0

    def one(self) -> float:
        """Images per second; 0 when not every image got Success."""
        folder = self._work / f"study{self._number}"
        load = as_another_study(self._load, folder, self._number)
        self._number += 1
        os.sync()
        sent = senders.send("storescu", "SPINEPRINT", self._node.port, [load.folders], folder / "logs")
        self._node.wait_for_intake(120)
        shutil.rmtree(folder)
        return len(load.images) / sent.seconds if sent.successes == len(load.images) else 0.0


def announced_memory(
    node: NodeProcess, opening: Callable[[socket.socket], None], kind: int
) -> tuple[float, int]:
    """MB that the node grew by, at its peak, over a PDU of `kind` that announces 4 GiB; and the bytes it took."""
    before = status_mb(node.pid, "VmRSS")
    reset_peak(node.pid)
    taken = 0
    with socket.create_connection(("127.0.0.1", node.port), timeout=5) as wire:
        opening(wire)
        try:
            wire.sendall(struct.pack(">BxI", kind, 0xFFFFFFFF))
            block = bytes(1 << 16)
            while taken < _FLOOD_BYTES:
                taken += wire.send(block)
        except OSError:
            pass
    time.sleep(0.5)
    return status_mb(node.pid, "VmHWM") - before, taken


def _associate(wire: socket.socket) -> None:
    wire.sendall(associate_request("SPINEPRINT", "BENCH", CT_IMAGE))
    if wire.recv(65536)[:1] != b"\2":
        raise RuntimeError("the node did not accept a known sender")


# --- command ----------------------------------------------------------------------------------------------


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--clients", type=int, default=500)
    parser.add_argument("--seconds", type=float, default=60.0, help="how long the crowd stays complete")
    parser.add_argument("--no-holders", action="store_true", help="leave out those that get an association")
    parser.add_argument("--slow-images", type=int, default=200, help="images of one transfer")


def run(options: argparse.Namespace, work: Path) -> bool:
    require_disk(work.parent)
    load = write_load(work / "load", options.slow_images)
    # as shipped: only known senders; every time-out and limit has its default
    node = NodeProcess(work / "store", log=work / "node.log", peers=[("BENCH", "127.0.0.1")])
    print(
        f"{options.clients} sockets for {options.seconds:g} s, load average {load_average():.1f}", flush=True
    )
    try:
        return _run(options, node, load, work)
    finally:
        node.kill()


def _run(options: argparse.Namespace, node: NodeProcess, load: Load, work: Path) -> bool:
    transfers = Transfers(node, load, work)
    transfers.one()  # finds everything cold
    memory = {
        "A-ASSOCIATE-RQ": announced_memory(node, lambda _: None, 0x01),
        "P-DATA-TF": announced_memory(node, _associate, 0x04),
    }
    baseline = _settled_sockets(node)
    before = [transfers.one() for _ in range(3)]
    alone = [echo(node.port)[0] for _ in range(10)]
    crowd = Crowd(node.port, options.clients, holders=not options.no_holders)
    crowd.start()
    during, lowest = [], crowd.open
    with Echoes(node.port) as echoes:
        end = time.monotonic() + options.seconds
        while time.monotonic() < end:
            if len(during) < _MOST_TRANSFERS:
                during.append(transfers.one())
            lowest = min(lowest, crowd.open)
            time.sleep(2)
    crowd.let_them_go()
    start = time.monotonic()
    # the longest default time-out is 60 s
    while (left := sockets(node.pid)) > baseline and time.monotonic() - start < 60 + _RELEASE_MARGIN_S:
        time.sleep(0.5)
    gone_s = time.monotonic() - start
    crowd.close()
    for name, lifetimes in sorted(crowd.lifetimes.items()):
        print(
            f"  {name}: {len(lifetimes)} hung up by the node, after {statistics.median(lifetimes):.1f} s (median)"
        )
    print(
        f"  never fewer than {lowest} of {options.clients} sockets open, {crowd.dropped['refused at the door']} refused"
    )
    print(f"  before {_rates(before)}, during {_rates(during)}; node: {node.counters()}")
    ratio = statistics.median(during) / max(statistics.median(before), 0.001)
    results = [
        (echoes.failed == 0 and max(echoes.seconds) <= ECHO_LIMIT_S,
         f"C-ECHO: {len(echoes.seconds)} sent, {echoes.failed} failed, slowest {max(echoes.seconds):.3f} s"
         f" (without the crowd {max(alone):.3f} s),"
         f" at most {ECHO_LIMIT_S:g} s"),
        (ratio >= SPEED_LIMIT, f"transfer keeps {ratio:.2f} of its speed, at least {SPEED_LIMIT:g}"),
        (left <= baseline, f"all let go {gone_s:.0f} s after the last dialled: {left} sockets open,"
         f" {baseline} before the crowd"),
    ]  # fmt: skip
    for name, (grown, taken) in memory.items():
        results.append(
            (grown < MEMORY_LIMIT_MB, f"4 GiB announced as {name}: {grown:.1f} MB more at the peak"
             f" ({taken >> 20} MB were taken from the wire), under {MEMORY_LIMIT_MB:g} MB")
        )  # fmt: skip
    for good, text in results:
        print(f"{'PASS' if good else 'FAIL'} {text}")
    return all(good for good, _ in results)


def _settled_sockets(node: NodeProcess) -> int:
    time.sleep(1)
    return sockets(node.pid)


def _rates(rates: list[float]) -> str:
    return (
        f"{statistics.median(rates):.0f} img/s ({min(rates):.0f}..{max(rates):.0f}, {len(rates)} transfers)"
    )
