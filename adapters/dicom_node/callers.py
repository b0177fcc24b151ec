"""Who may send to us: calling AE titles with an address rule each."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Sequence

from service.ports import Peer


def known_peer(peers: Sequence[Peer], calling_ae: str, address: str) -> tuple[Peer | None, str]:
    """The peer that may call as `calling_ae` from `address`, or None and the reason in words.

    A peer's `host` is an address, a network (10.1.0.0/16), a host name, or "" or "*" for any address.
    """
    same_title = [peer for peer in peers if peer.ae_title.strip() == calling_ae.strip()]
    if not same_title:
        return None, "calling AE title is not configured"
    for peer in same_title:
        if _address_matches(peer.host.strip(), address):
            return peer, ""
    return None, "calling AE title is configured for another address"


def _address_matches(rule: str, address: str) -> bool:
    if rule in ("", "*"):
        return True
    caller = _plain_address(address)
    try:
        return caller is not None and caller in ipaddress.ip_network(rule, strict=False)
    except ValueError:
        pass
    try:
        found = socket.getaddrinfo(rule, None, proto=socket.IPPROTO_TCP)
    except OSError:
        return False
    return any(_plain_address(str(entry[4][0])) == caller for entry in found)


def _plain_address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        address = ipaddress.ip_address(text.split("%", maxsplit=1)[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def printable(text: str) -> str:
    """An AE title from the wire as it may stand in a log line."""
    return "".join(c if c.isascii() and c.isprintable() else "?" for c in text.strip())[:16] or "(empty)"
