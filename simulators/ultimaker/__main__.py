"""`python -m simulators.ultimaker`: one simulated Ultimaker 3 on the command line."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from simulators.ultimaker.announce import Announcement, instance_of
from simulators.ultimaker.clock import MachineClock
from simulators.ultimaker.options import Options
from simulators.ultimaker.server import address, listen, make_server, print_ready
from simulators.ultimaker.simulator import Simulator


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        prog="python -m simulators.ultimaker",
        description="A simulated Ultimaker 3 with its local HTTP API.",
    )
    p.add_argument("--host", default="127.0.0.1")
    p.add_argument("--port", type=int, default=0, help="0 takes a free port (default)")
    speed = p.add_mutually_exclusive_group()
    speed.add_argument(
        "--speed", type=float, default=2000.0, help="machine seconds per second (default 2000)"
    )
    speed.add_argument("--real-time", dest="speed", action="store_const", const=1.0)
    p.add_argument("--name", default="um3-sim")
    p.add_argument("--panel-auto-allow", action="store_true", help="press allow on every pairing prompt")
    p.add_argument(
        "--clear-after",
        type=float,
        metavar="SECONDS",
        help="take the part off this many real seconds after the end",
    )
    p.add_argument(
        "--mdns",
        nargs="?",
        const="",
        metavar="ADDRESS",
        help="announce the printer by multicast DNS under this IPv4 address (default: the one it listens on)",
    )
    p.add_argument("--state", type=Path, metavar="FILE", help="memory that survives a kill of the simulator")
    p.add_argument(
        "--option",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="any switch of simulators/ultimaker/options.py; repeatable",
    )
    return p


def main(argv: Sequence[str] | None = None) -> int:
    p = parser()
    args = p.parse_args(argv)
    options = Options(name=args.name, auto_allow=args.panel_auto_allow, clear_after_wall_s=args.clear_after)
    try:
        for item in args.option:
            name, _, value = item.partition("=")
            options.change(name, value)
        sim = Simulator(options, MachineClock(args.speed), args.state)
        sock = listen(args.host, args.port)
    except (ValueError, OSError) as exc:
        p.error(str(exc))
    url = address(sock)
    host, port = sock.getsockname()[:2]
    announced = None if args.mdns is None else Announcement(sim, args.mdns or host, port)
    ready: dict[str, object] = {
        "ready": True,
        "name": options.name,
        "url": url,
        "panel": f"{url}/panel",
        "port": port,
        "pid": os.getpid(),
    }
    if announced is not None:
        ready["mdns"] = announced.words or instance_of(options.name)
    try:
        make_server(sim, lambda: print_ready(ready)).run(sockets=[sock])
    finally:
        if announced is not None:
            announced.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
