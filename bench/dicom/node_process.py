"""spineprint's DicomNode in a process of its own, with a sink that does nothing, told what to do on standard input.

counters   answers one line of JSON
stop       stops the node and ends (so does the end of standard input)
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

ROOT_OF_PROJECT = Path(__file__).resolve().parents[2]


class NodeProcess:
    """The node as a child process."""

    def __init__(
        self,
        store: Path,
        *,
        seen: Path | None = None,
        settings: Mapping[str, object] | None = None,
        peers: Sequence[tuple[str, str]] = (),
        log: Path | None = None,
        wait: bool = True,
    ) -> None:
        """`wait`: until it listens. Without it `port` stays 0 and only `kill` may follow."""
        self._log: IO[bytes] | int = log.open("ab") if log else subprocess.DEVNULL
        command = [sys.executable, "-m", "bench.dicom.node_process", str(store)]
        command += ["--settings", json.dumps(settings or {}), "--peers", json.dumps(peers)]
        if seen:
            command += ["--seen", str(seen)]
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            cwd=ROOT_OF_PROJECT,
        )
        self.port = int(self._answer()) if wait else 0

    @property
    def pid(self) -> int:
        return self.process.pid

    def counters(self) -> dict[str, int]:
        return dict(json.loads(self._ask("counters")))

    def wait_for_intake(self, timeout_s: float = 60) -> float:
        """Seconds until nothing waits for its final place."""
        start = time.monotonic()
        while self.counters().get("intake_waiting", 0):
            if time.monotonic() - start > timeout_s:
                raise RuntimeError(f"the node did not settle: {self.counters()}")
            time.sleep(0.02)
        return time.monotonic() - start

    def stop(self, timeout_s: float = 30) -> int:
        """Clean stop; the exit code."""
        with contextlib.suppress(BrokenPipeError):
            self.process.communicate("stop\n", timeout=timeout_s)
        return self._closed(timeout_s)

    def kill(self) -> None:
        """kill -9, as a power button would."""
        self.process.kill()
        self._closed(10)

    def _closed(self, timeout_s: float) -> int:
        code = self.process.wait(timeout_s)
        for stream in (self.process.stdin, self.process.stdout):
            if stream and not stream.closed:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()
        if not isinstance(self._log, int):
            self._log.close()
        return code

    def _ask(self, word: str) -> str:
        assert self.process.stdin is not None
        self.process.stdin.write(word + "\n")
        self.process.stdin.flush()
        return self._answer()

    def _answer(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"the node ended with {self.process.wait(10)}")
        return line


def main() -> int:
    from adapters.dicom_node import DicomNode, NodeConfig
    from service.ports import Peer, ReceivedInstance

    parser = argparse.ArgumentParser()
    parser.add_argument("store", type=Path)
    parser.add_argument("--seen", type=Path, help="file that gets one UID a line from the sink")
    parser.add_argument("--settings", type=json.loads, default={}, help="JSON of NodeConfig fields")
    parser.add_argument("--peers", type=json.loads, default=[], help="JSON of [AE title, address] pairs")
    options = parser.parse_args()
    settings = {"require_known_callers": bool(options.peers), "disk_reserve_bytes": 0} | options.settings
    peers = tuple(Peer(title, address, 104, ("planning_ct",)) for title, address in options.peers)
    seen = options.seen.open("a", buffering=1) if options.seen else None

    def sink(instance: ReceivedInstance) -> None:
        if seen:
            print(instance.sop_instance_uid, file=seen)

    node = DicomNode(NodeConfig("127.0.0.1", 0, options.store, peers=peers, **settings), sink)
    node.start()
    print(node.port, flush=True)
    for line in sys.stdin:
        if line.strip() == "counters":
            print(json.dumps(dict(node.counters())), flush=True)
        else:
            break
    node.stop()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
