"""DCMTK as the sender, the same for every receiver, timed by its own log."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.dicom.machine import program

# Written to a file by the sender itself: reading its output line by line would take time from the receiver.
_LOG_CONFIG = """\
log4cplus.rootLogger = INFO, file
log4cplus.appender.file = log4cplus::FileAppender
log4cplus.appender.file.File = ${BENCH_LOG}
log4cplus.appender.file.ImmediateFlush = true
log4cplus.appender.file.Append = false
log4cplus.appender.file.layout = log4cplus::PatternLayout
log4cplus.appender.file.layout.ConversionPattern = %D{%s.%q} %m%n
"""
_FIRST = "Requesting Association"
_SUCCESS = re.compile(r"Received (C-STORE|Store) Response \(Success\)")
SENDERS = ("dcmsend", "storescu")


@dataclass(frozen=True)
class Transfer:
    """`seconds` from the first association request to the last Success, over all senders."""

    seconds: float
    successes: int
    failures: tuple[str, ...]


@dataclass
class Sending:
    """One running sender and the log it writes."""

    process: subprocess.Popen[bytes]
    log: Path


def start_sender(
    name: str, called: str, port: int, folders: Sequence[Path], log: Path, *, calling: str = "BENCH"
) -> Sending:
    config = log.parent / "log.cfg"
    if not config.exists():
        config.write_text(_LOG_CONFIG)
    # dcmsend scans subfolders only with +r; the parts are flat folders, named one by one
    command = [
        program(name),
        "-lc",
        str(config),
        "-aet",
        calling,
        "-aec",
        called,
        "+sd",
        "127.0.0.1",
        str(port),
    ]
    process = subprocess.Popen(
        [*command, *map(str, folders)],
        env=os.environ | {"BENCH_LOG": str(log), "TCP_NODELAY": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    return Sending(process, log)


def send(
    name: str, called: str, port: int, groups: Sequence[Sequence[Path]], logs: Path, timeout_s: float = 600
) -> Transfer:
    """One sender for each group of folders, all at the same time."""
    logs.mkdir(parents=True, exist_ok=True)
    running = [start_sender(name, called, port, g, logs / f"sender{n}.log") for n, g in enumerate(groups)]
    try:
        for sending in running:
            sending.process.wait(timeout_s)
    finally:
        for sending in running:
            sending.process.kill()
            sending.process.wait()
    return read_logs([s.log for s in running])


def read_logs(logs: Sequence[Path]) -> Transfer:
    first, last, successes = float("inf"), 0.0, 0
    failures = []
    for log in logs:
        for line in log.read_text(errors="replace").splitlines():
            stamp, _, text = line.partition(" ")
            if text.startswith(_FIRST):
                first = min(first, float(stamp))
            elif _SUCCESS.search(text):
                successes += 1
                last = max(last, float(stamp))
            elif "Failed" in text or "Rejected" in text or "Response (" in text:
                failures.append(text)
    return Transfer(max(last - first, 0.0), successes, tuple(failures))


def acknowledged(log: str) -> list[str]:
    """Files that got Success, from the log of storescu (with -v or higher)."""
    found = []
    current = ""
    for line in log.splitlines():
        if match := re.search(r"Sending file: (.*)$", line):
            current = match[1].strip()
        elif "Received Store Response (Success)" in line:
            found.append(current)
    return found
