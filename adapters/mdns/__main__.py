"""`python -m adapters.mdns SERVICE_TYPE`: what answers to a service type on this network, as JSON lines.

A process apart because python-zeroconf is under the LGPL and is not loaded into the service, and because it talks to
strangers: whatever they send ends here as text of limited length. Exit code 3: the package is not installed.
Protocol: RFC 6762 and 6763.
"""

from __future__ import annotations

import argparse
import enum
import json
import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from zeroconf import ServiceInfo

NOT_INSTALLED = 3
_LONGEST = 200
_MOST_ENTRIES = 40
_MOST_FOUND = 200
_ASK_MS = 1500


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m adapters.mdns", description=__doc__)
    parser.add_argument("service_type", help="for example _ultimaker._tcp.local.")
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--interface", action="append", help="own address to look from; repeatable (all)")
    options = parser.parse_args(argv)
    try:
        import zeroconf
    except ImportError:
        return NOT_INSTALLED
    try:
        net = zeroconf.Zeroconf(
            interfaces=options.interface or zeroconf.InterfaceChoice.All,
            ip_version=zeroconf.IPVersion.V4Only,
        )
    except OSError as exc:
        print(f"no multicast on this machine: {exc}", file=sys.stderr)
        return 1
    names: set[str] = set()
    try:
        browser = zeroconf.ServiceBrowser(net, options.service_type, handlers=[_noting(names)])
        time.sleep(options.seconds)
        browser.cancel()
        for name in sorted(names)[:_MOST_FOUND]:
            info = net.get_service_info(options.service_type, name, _ASK_MS)
            if info is not None:
                _tell(info, options.service_type)
    finally:
        net.close()
    return 0


def _noting(names: set[str]) -> Callable[..., None]:
    """Called on the browser's thread; a printer that says goodbye meanwhile is forgotten."""

    def note(*, name: str, state_change: enum.Enum, **_rest: object) -> None:
        (names.discard if state_change.name == "Removed" else names.add)(name)

    return note


def _tell(info: ServiceInfo, service_type: str) -> None:
    entries = list(info.properties.items())[:_MOST_ENTRIES]
    found = {
        "instance": info.name.removesuffix(f".{service_type}")[:_LONGEST],
        "addresses": info.parsed_addresses()[:8],
        "port": info.port,
        "txt": {_text(key): _text(value or b"") for key, value in entries},
    }
    print(json.dumps(found), flush=True)


def _text(raw: bytes) -> str:
    shown = raw.decode("utf-8", "replace")[:_LONGEST]
    return "".join(c if c.isprintable() else "?" for c in shown)


if __name__ == "__main__":
    sys.exit(main())
