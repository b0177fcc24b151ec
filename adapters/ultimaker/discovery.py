"""Printers that announce themselves on the network, found by a child process (`adapters.mdns`).

Reference sheet, section 7: `_ultimaker._tcp`, only entries with `type=printer` are printers, `cluster_size` is there
only with the cluster firmware. A convenience: printers are used by the address in the configuration alone.
"""

from __future__ import annotations

import ipaddress
import json
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence

from service.errors import ConflictError, DeviceError, ToolMissingError
from service.ports import FoundPrinter

SERVICE_TYPE = "_ultimaker._tcp.local."
#: By the number before the dot of `machine` (sheet, section 7).
MODELS: Mapping[str, str] = {"9066": "Ultimaker 3", "9511": "Ultimaker 3 Extended"}
_NOT_INSTALLED = 3
_BESIDE_S = 20.0
"""For starting the child and for its last questions, beside the time it listens."""
LONGEST_S = 15.0


class MdnsDiscovery:
    """`service.ports.PrinterDiscovery`. `interfaces`: own addresses to look from; empty = all of this machine."""

    def __init__(self, interfaces: Sequence[str] = ()) -> None:
        self._interfaces = tuple(interfaces)
        self._searching = threading.Lock()

    def discover(self, seconds: float) -> list[FoundPrinter]:
        """Listen for `seconds` (at most LONGEST_S) and tell what was found, by address.

        Raises
        ------
        ToolMissingError : the optional package is not installed.
        DeviceError : the network of this machine does not do multicast, or the child failed.
        ConflictError : somebody is searching already.
        """
        if not self._searching.acquire(blocking=False):
            raise ConflictError(
                "A search for printers is under way.", next_step="Wait some seconds.", code="device.searching"
            )
        try:
            return self._search(seconds)
        finally:
            self._searching.release()

    def _search(self, seconds: float) -> list[FoundPrinter]:
        listen_s = min(max(seconds, 0.1), LONGEST_S)
        command = [sys.executable, "-m", "adapters.mdns", SERVICE_TYPE, "--seconds", f"{listen_s:g}"]
        for address in self._interfaces:
            command += ["--interface", address]
        try:
            child = subprocess.run(
                command, capture_output=True, check=False, stdin=subprocess.DEVNULL,
                timeout=listen_s + _BESIDE_S,
            )  # fmt: skip
        except subprocess.TimeoutExpired as exc:
            raise _failed("it did not end in time") from exc
        if child.returncode == _NOT_INSTALLED:
            raise ToolMissingError(
                "Looking for printers needs the package 'zeroconf', which is not installed.",
                next_step="Install it beside the service (pip install --require-hashes -r requirements/discovery.txt), "
                "or read the printer's address off its display and put it into the configuration.",
                code="tool.no_discovery",
            )
        if child.returncode != 0:
            raise _failed(child.stderr.decode("utf-8", "replace").strip().splitlines()[-1:] or "no words")
        return found_in(child.stdout.decode("utf-8", "replace"))


def found_in(lines: str) -> list[FoundPrinter]:
    """The printers among JSON lines of the child; what is no printer, or has no usable address, is left out."""
    printers = {
        printer.url: printer for line in lines.splitlines() if (printer := _printer(line)) is not None
    }
    return [printers[url] for url in sorted(printers)]


def _printer(line: str) -> FoundPrinter | None:
    try:
        document = json.loads(line)
    except ValueError:
        return None
    txt = document.get("txt") if isinstance(document, dict) else None
    if not isinstance(txt, dict) or txt.get("type") != "printer":
        return None
    address, port = _address(document.get("addresses")), document.get("port")
    if address is None or not isinstance(port, int) or not 0 < port < 65536:
        return None
    host = f"http://{address}" if port == 80 else f"http://{address}:{port}"
    machine = str(txt.get("machine", ""))
    return FoundPrinter(
        instance=str(document.get("instance", "")),
        url=host,
        name=str(txt.get("name", "")),
        model=MODELS.get(machine.partition(".")[0], ""),
        machine=machine,
        firmware=str(txt.get("firmware_version", "")),
        cores=tuple(str(txt[key]) for key in ("hotend_type_0", "hotend_type_1") if txt.get(key)),
        cluster="cluster_size" in txt,
    )


def _address(addresses: object) -> str | None:
    for text in addresses if isinstance(addresses, list) else ():
        try:
            return str(ipaddress.IPv4Address(text))
        except ValueError:
            continue
    return None


def _failed(why: object) -> DeviceError:
    words = why[0] if isinstance(why, list) else why
    return DeviceError(
        f"The search for printers failed: {words}.",
        next_step="Read the printer's address off its display and put it into the configuration.",
        code="device.discovery",
    )
