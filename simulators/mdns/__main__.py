"""`python -m simulators.mdns`: announce one simulated printer until standard input ends.

A process of its own, so that python-zeroconf (LGPL) is in no other. It ends with the program that started it, by
kill -9 too, and says goodbye on the network. Exit code 3: the package is not installed.
Records as in the reference sheet, section 7.
"""

from __future__ import annotations

import argparse
import json
import socket
import sys
from collections.abc import Sequence

NOT_INSTALLED = 3
SERVICE_TYPE = "_ultimaker._tcp.local."


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m simulators.mdns", description=__doc__)
    parser.add_argument("--address", required=True, help="IPv4 address the printer listens on")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--instance", required=True, help="ultimakersystem-<mac>")
    parser.add_argument("--txt", required=True, help="the TXT record, as a JSON object")
    parser.add_argument("--interface", help="address to announce on (default: --address)")
    options = parser.parse_args(argv)
    try:
        import zeroconf
    except ImportError:
        return NOT_INSTALLED
    info = zeroconf.ServiceInfo(
        SERVICE_TYPE,
        f"{options.instance}.{SERVICE_TYPE}",
        addresses=[socket.inet_aton(options.address)],
        port=options.port,
        properties=json.loads(options.txt),
        server=f"{options.instance}.local.",
    )
    net = zeroconf.Zeroconf(
        interfaces=[options.interface or options.address], ip_version=zeroconf.IPVersion.V4Only
    )
    try:
        net.register_service(info)
        print("announced", flush=True)
        sys.stdin.read()
        net.unregister_service(info)
    except zeroconf.NonUniqueNameException:
        print("another printer has this name", file=sys.stderr)
        return 1
    finally:
        net.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
