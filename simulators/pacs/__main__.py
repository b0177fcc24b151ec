"""`python -m simulators.pacs sink --folder DIR [--port 11113 ...]` or `... send DIR --to AE@host:port`."""

from __future__ import annotations

import argparse
import re
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from simulators.pacs.send import send_directory
from simulators.pacs.sink import OUT_OF_RESOURCES, Faults, PacsSink


def peer(text: str) -> tuple[str, str, int]:
    """AE title, host and port from `AE@host:port`."""
    found = re.fullmatch(r"([^@\s]{1,16})@(.+):(\d{1,5})", text)
    if not found:
        raise argparse.ArgumentTypeError(f"expected AE@host:port, not {text}")
    return found[1], found[2].strip("[]"), int(found[3])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="simulators.pacs", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    sink = commands.add_parser("sink", help="take in what is sent until SIGTERM")
    sink.add_argument("--folder", type=Path, required=True)
    sink.add_argument("--ae-title", default="PACS")
    sink.add_argument("--host", default="127.0.0.1")
    sink.add_argument("--port", type=int, default=0)
    sink.add_argument("--refuse-first", type=int, default=0)
    sink.add_argument("--refuse-status", type=lambda text: int(text, 0), default=OUT_OF_RESOURCES)
    sink.add_argument("--drop-associations", type=int, default=0)
    sink.add_argument("--drop-at", type=int, default=1)
    sink.add_argument("--silent", action="store_true")
    send = commands.add_parser("send", help="C-STORE a folder")
    send.add_argument("folder", type=Path)
    send.add_argument("--to", type=peer, required=True, metavar="AE@host:port")
    send.add_argument("--calling-ae", default="SIMPACS")
    send.add_argument("--delay", type=float, default=0.0, help="seconds between instances")
    send.add_argument("--abort-after", type=int, default=None)
    return parser


def _run_sink(options: argparse.Namespace) -> int:
    faults = Faults(
        refuse_first=options.refuse_first,
        refuse_status=options.refuse_status,
        drop_associations=options.drop_associations,
        drop_at=options.drop_at,
        silent=options.silent,
    )
    stopped = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: stopped.set())
    sink = PacsSink(
        options.folder, ae_title=options.ae_title, host=options.host, port=options.port, faults=faults
    )
    with sink:
        # the line a parent process waits for
        sys.stdout.write(f"listening {sink.ae_title}@{sink.host}:{sink.port}\n")
        sys.stdout.flush()
        stopped.wait()
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code (0 ok, 1 something was not stored, 2 nothing to send)."""
    options = _parser().parse_args(arguments)
    if options.command == "sink":
        return _run_sink(options)
    name, host, port = options.to
    results = send_directory(
        options.folder,
        name,
        host,
        port,
        calling_ae=options.calling_ae,
        delay_s=options.delay,
        abort_after=options.abort_after,
    )
    stored = sum(result.stored for result in results)
    sys.stdout.write(f"{stored} of {len(results)} instances stored\n")
    if not results:
        return 2
    return 0 if stored == len(results) else 1


if __name__ == "__main__":
    sys.exit(main())
