"""The receivers that are measured side by side. Each starts fresh in an empty folder and can say what it stored."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar

from adapters.dicom_node import NodeConfig
from bench.dicom import raw_socket, senders
from bench.dicom.images import Load, compare
from bench.dicom.machine import program
from bench.dicom.node_process import ROOT_OF_PROJECT, NodeProcess

PLAIN_ENVIRON = {
    k: v for k, v in os.environ.items() if k != "TCP_NODELAY" and not k.startswith("SPINEPRINT_")
}
FAST_ENVIRON = PLAIN_ENVIRON | {"TCP_NODELAY": "1"}


class Receiver(ABC):
    """One receiver on one empty folder."""

    name: str
    title: str
    called = "BENCH"
    same_bytes = False
    """True: the data set must be stored byte for byte, not only its pixels."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = 0

    @abstractmethod
    def start(self, associations: int) -> None: ...

    @property
    @abstractmethod
    def pid(self) -> int: ...

    @abstractmethod
    def settled(self, count: int) -> bool:
        """Whether all `count` images are where they belong and nothing is left to do."""

    @abstractmethod
    def faults(self, load: Load) -> list[str]:
        """What is wrong with what was stored."""

    @abstractmethod
    def stop(self) -> None: ...

    def send(self, sender: str, groups: Sequence[Sequence[Path]], logs: Path) -> senders.Transfer:
        return senders.send(sender, self.called, self.port, groups, logs)


class Program(Receiver):
    """A receiver that is a program with a port."""

    process: subprocess.Popen[bytes]

    @property
    def pid(self) -> int:
        return self.process.pid

    def run(self, command: Sequence[object], environ: dict[str, str]) -> None:
        with (self.folder / "log").open("wb") as log:
            self.process = subprocess.Popen(
                [str(c) for c in command], env=environ, stdout=log, stderr=log, cwd=ROOT_OF_PROJECT
            )
        end = time.monotonic() + 60
        while not _listens(self.port):
            if self.process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"{self.name} did not start: {(self.folder / 'log').read_text()[-2000:]}")
            time.sleep(0.05)

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class Node(Receiver):
    name, title, called, same_bytes = "node", "spineprint DicomNode", "SPINEPRINT", True

    def start(self, associations: int) -> None:
        self.node = NodeProcess(self.folder / "store", log=self.folder / "log")
        self.port = self.node.port
        wait_for_spare_segments(self.folder / "store")

    @property
    def pid(self) -> int:
        return self.node.pid

    def settled(self, count: int) -> bool:
        if self.node.counters().get("intake_waiting", 0):
            return False
        return sum(1 for _ in instances(self.folder / "store")) >= count

    def faults(self, load: Load) -> list[str]:
        return compare(load, instances(self.folder / "store"), same_bytes=True)

    def stop(self) -> None:
        self.node.stop()


class Service(Program):
    name, title, called, same_bytes = "service", "spineprint serve --role dicom, SQLite", "SPINEPRINT", True

    def start(self, associations: int) -> None:
        self.port = _free_port()
        environ = PLAIN_ENVIRON | {
            "SPINEPRINT_DATA_DIR": str(self.folder / "data"),
            "SPINEPRINT_DICOM__PORT": str(self.port),
            "SPINEPRINT_DICOM__REQUIRE_KNOWN_PEERS": "false",
            "SPINEPRINT_DICOM__DISK_RESERVE_MB": "0",
        }
        self.run([sys.executable, "-m", "service.cli", "serve", "--role", "dicom"], environ)
        wait_for_spare_segments(self.folder / "data/dicom")

    def settled(self, count: int) -> bool:
        return self._rows() >= count and sum(1 for _ in instances(self.folder / "data/dicom")) >= count

    def _rows(self) -> int:
        with contextlib.closing(self._database()) as database:
            return int(database.execute("select count(*) from instances").fetchone()[0])

    def _database(self) -> sqlite3.Connection:
        return sqlite3.connect(
            f"file:{self.folder / 'data/spineprint.sqlite3'}?mode=ro", uri=True, timeout=30
        )

    def faults(self, load: Load) -> list[str]:
        found = compare(load, instances(self.folder / "data/dicom"), same_bytes=True)
        with contextlib.closing(self._database()) as database:
            rows = dict(database.execute("select sop_uid, sha256 from instances").fetchall())
        if rows != {image.uid: image.dataset for image in load.images}:
            found.append("the rows of the index are not those of the images")
        return found


class Orthanc(Program):
    name, title, called = "orthanc", "Orthanc, TCP_NODELAY=1", "BENCH"
    environ: ClassVar[dict[str, str]] = FAST_ENVIRON
    options: ClassVar[dict[str, object]] = {}

    def start(self, associations: int) -> None:
        self.port, self._http = _free_port(), _free_port()
        settings = {
            "Name": "bench",
            "StorageDirectory": str(self.folder / "store"),
            "IndexDirectory": str(self.folder / "store"),
            "HttpPort": self._http,
            "DicomPort": self.port,
            "DicomAet": self.called,
            "DicomAlwaysAllowStore": True,
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": False,
            "Plugins": [],
        }
        (self.folder / "orthanc.json").write_text(json.dumps(settings | self.options))
        self.run([program("Orthanc"), self.folder / "orthanc.json"], self.environ)

    def settled(self, count: int) -> bool:
        with urllib.request.urlopen(f"http://127.0.0.1:{self._http}/statistics", timeout=30) as answer:
            return int(json.load(answer)["CountInstances"]) >= count

    def faults(self, load: Load) -> list[str]:
        # its store holds DICOM files under names of its own, beside its index
        stored = (p for p in (self.folder / "store").rglob("*") if p.is_file() and _is_part10(p))
        return compare(load, stored, same_bytes=False)


class OrthancLargePdu(Orthanc):
    name, title = "orthanc-pdu", "Orthanc, TCP_NODELAY=1, MaximumPduLength 131072"
    options: ClassVar[dict[str, object]] = {"MaximumPduLength": 131072}


class OrthancAsItComes(Orthanc):
    name, title, environ = "orthanc-plain", "Orthanc as it comes (Nagle on)", PLAIN_ENVIRON


class Storescp(Program):
    name, title = "storescp", "DCMTK storescp, TCP_NODELAY=1 (not durable: no fsync)"

    def start(self, associations: int) -> None:
        self.port = _free_port()
        (self.folder / "store").mkdir()
        fork = ["--fork"] if associations > 1 else []
        command = [program("storescp"), *fork, "-pdu", 131072, "-aet", self.called]
        self.run([*command, "-od", self.folder / "store", self.port], FAST_ENVIRON)

    def settled(self, count: int) -> bool:
        return sum(1 for _ in (self.folder / "store").iterdir()) >= count

    def faults(self, load: Load) -> list[str]:
        return compare(load, (self.folder / "store").iterdir(), same_bytes=False)


class RawSocket(Receiver):
    name, title = "raw", "plain socket, write + fsync (no DICOM)"

    def start(self, associations: int) -> None:
        (self.folder / "store").mkdir()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "bench.dicom.raw_socket", str(self.folder / "store")],
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT_OF_PROJECT,
        )
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline())

    @property
    def pid(self) -> int:
        return self.process.pid

    def send(self, sender: str, groups: Sequence[Sequence[Path]], logs: Path) -> senders.Transfer:
        files = [[p for folder in group for p in sorted(folder.iterdir())] for group in groups]
        return senders.Transfer(raw_socket.send(self.port, files), sum(map(len, files)), ())

    def settled(self, count: int) -> bool:
        return sum(1 for _ in (self.folder / "store").iterdir()) >= count

    def faults(self, load: Load) -> list[str]:
        return compare(load, (self.folder / "store").iterdir(), same_bytes=True)

    def stop(self) -> None:
        self.process.kill()
        self.process.communicate()


RECEIVERS: tuple[type[Receiver], ...] = (
    RawSocket,
    Node,
    Orthanc,
    Service,
    Storescp,
    OrthancLargePdu,
    OrthancAsItComes,
)


def instances(store: Path) -> Iterator[Path]:
    """The files of our store that have their final place."""
    return (store / "instances").glob("*/*.dcm")


def wait_for_spare_segments(store: Path, timeout_s: float = 60) -> None:
    """A node prepares its log while nothing comes. The first seconds after a first start are not what is measured."""
    end = time.monotonic() + timeout_s
    wanted = NodeConfig("", 0, store)
    while time.monotonic() < end:
        segments = list((store / "segments").glob("*.seg"))
        if len(segments) >= wanted.spare_segments and all(
            _is_written(s, wanted.segment_bytes) for s in segments
        ):
            time.sleep(1.0)  # its last bytes are being synced
            return
        time.sleep(0.1)
    raise RuntimeError(f"the node did not prepare {wanted.spare_segments} segments in {timeout_s:g} s")


def _is_written(path: Path, size: int) -> bool:
    return path.stat().st_size >= size


def _is_part10(path: Path) -> bool:
    with path.open("rb") as stream:
        return stream.read(132)[128:] == b"DICM"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(0.5)
        return probe.connect_ex(("127.0.0.1", port)) == 0
