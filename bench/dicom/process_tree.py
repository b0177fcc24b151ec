"""CPU time and memory of a process with all its children, from /proc."""

from __future__ import annotations

import os
import threading
from pathlib import Path

_TICK_S = 1.0 / os.sysconf("SC_CLK_TCK")


def _stat(pid: int) -> list[str] | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return text[text.rindex(")") + 2 :].split()


def tree(root: int) -> list[int]:
    """`root` and its living descendants (ended children that nobody waited for yet are among them)."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (fields := _stat(int(entry.name))):
            parents.setdefault(int(fields[1]), []).append(int(entry.name))
    found = [root]
    for pid in found:
        found.extend(parents.get(pid, ()))
    return found


def cpu_seconds(root: int) -> float:
    """User and system time so far, of ended children too. Kernel threads (journal, write-back) are not in it."""
    ticks = 0
    for pid in tree(root):
        if fields := _stat(pid):
            ticks += sum(int(fields[i]) for i in (11, 12, 13, 14))
    return ticks * _TICK_S


def status_mb(pid: int, key: str) -> float:
    """VmRSS or VmHWM of one process in MB; 0 when it has ended."""
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith(key + ":"):
                return int(line.split()[1]) / 1024
    except (FileNotFoundError, ProcessLookupError):
        pass
    return 0.0


def reset_peak(pid: int) -> None:
    """Start VmHWM again from the present size."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def sockets(pid: int) -> int:
    """Open sockets of one process."""
    count = 0
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        try:
            count += str(entry.readlink()).startswith("socket:")
        except FileNotFoundError:
            continue
    return count


class PeakMemory:
    """Largest resident size of the whole tree while the block runs, looked at four times a second."""

    def __init__(self, root: int) -> None:
        self._root = root
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.mb = 0.0

    def __enter__(self) -> PeakMemory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self.mb = max(self.mb, status_mb(self._root, "VmHWM"))

    def _run(self) -> None:
        while not self._stop.wait(0.25):
            self.mb = max(self.mb, sum(status_mb(pid, "VmRSS") for pid in tree(self._root)))
