"""The limit of the machine: the same bytes through plain sockets, written and synced one by one, no DICOM.

python -m bench.dicom.raw_socket FOLDER      listens on any free port, which it prints
"""

from __future__ import annotations

import os
import socket
import struct
import sys
import threading
import time
from collections.abc import Sequence
from multiprocessing import get_context
from multiprocessing.synchronize import Barrier
from pathlib import Path


def _exactly(wire: socket.socket, view: memoryview) -> bool:
    while view:
        count = wire.recv_into(view)
        if not count:
            return False
        view = view[count:]
    return True


def _receive(wire: socket.socket, folder: Path, number: int) -> None:
    wire.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    buffer = memoryview(bytearray(1 << 20))
    head = memoryview(bytearray(4))
    index = 0
    while _exactly(wire, head):
        (size,) = struct.unpack("!I", head)
        if not _exactly(wire, buffer[:size]):
            break
        descriptor = os.open(folder / f"{number}-{index}", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o640)
        os.write(descriptor, buffer[:size])
        os.fsync(descriptor)
        os.close(descriptor)
        index += 1
        wire.sendall(b"\1")
    wire.close()


def _send(port: int, files: Sequence[Path], start: Barrier) -> None:
    contents = [f.read_bytes() for f in files]
    start.wait()
    with socket.create_connection(("127.0.0.1", port)) as wire:
        wire.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for data in contents:
            wire.sendall(struct.pack("!I", len(data)))
            wire.sendall(data)
            if wire.recv(1) != b"\1":
                raise RuntimeError("the receiver hung up")


def send(port: int, groups: Sequence[Sequence[Path]]) -> float:
    """Seconds from the first connect to the last answer; one process for each group, files read beforehand."""
    context = get_context("spawn")
    start = context.Barrier(len(groups) + 1)
    senders = [context.Process(target=_send, args=(port, list(g), start)) for g in groups]
    for sender in senders:
        sender.start()
    start.wait()
    began = time.monotonic()
    for sender in senders:
        sender.join()
    seconds = time.monotonic() - began
    if any(sender.exitcode for sender in senders):
        raise RuntimeError("a plain sender failed")
    return seconds


def main() -> None:
    folder = Path(sys.argv[1])
    with socket.create_server(("127.0.0.1", 0)) as server:
        print(server.getsockname()[1], flush=True)
        number = 0
        while True:
            wire, _ = server.accept()
            threading.Thread(target=_receive, args=(wire, folder, number), daemon=True).start()
            number += 1


if __name__ == "__main__":
    main()
