"""The DICOM side of the service for an administrator: what stands, what was turned away, and what to do about it."""

from __future__ import annotations

import ipaddress
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Connection

from service.config import Config, DicomConfig, PeerConfig
from service.store import cases, deliveries, node_events, studies
from service.store.node_events import StoredEvent
from service.store.studies import Aside, StoredInstance
from service.web.views import delivery_view
from service.workflow import node_watch
from service.workflow.app import App
from service.workflow.node_watch import SeenNode

#: What of `dicom_operations` changes by itself; see `service.web.polling`.
VOLATILE = ("now", "heard_at", "free_bytes")
_MOST_EVENTS = 50
_MOST_FILES = 50


@dataclass(frozen=True)
class Reason:
    """One kind of node event in words."""

    title: str
    next_step: str
    group: str = "fault"
    """rejection (the whole association) | refusal (what it asked for) | fault | commitment."""


REASONS: dict[str, Reason] = {
    "rejected_called_ae": Reason(
        "Rejected: called by another AE title",
        "Correct the destination's AE title at the sender, or [dicom] ae_title here.",
        "rejection",
    ),
    "rejected_calling_ae": Reason(
        "Rejected: this sender is not allowed here",
        "If it may send to us, add it to the configuration and restart the service.",
        "rejection",
    ),
    "rejected_limit": Reason(
        "Rejected: too many associations at once",
        "The sender tries again by itself. If it repeats, raise [dicom] max_associations.",
        "rejection",
    ),
    "rejected_connections": Reason(
        "Turned away: too many connections at once",
        "Find out which machine opens so many connections (a port scan?) and stop it there.",
        "rejection",
    ),
    "refused_uid": Reason(
        "Image refused: its UID is not a DICOM UID",
        "Have the sender's vendor correct it; the UID must be digits and dots, at most 64.",
        "refusal",
    ),
    "refused_class": Reason(
        "Image refused: its class is not stored here (0122), or not that of its context (A900)",
        "Send only images and structured objects here; A900 is for the sender's vendor to correct.",
        "refusal",
    ),
    "refused_empty": Reason(
        "Image refused: it had no data set (C000)", "Have the sender's vendor look at it.", "refusal"
    ),
    "refused_size": Reason(
        "Image refused: larger than the limit",
        "Send the study in smaller objects, or raise the limit.",
        "refusal",
    ),
    "refused_operation": Reason(
        "Refused: an operation that is not offered here",
        "Ask this node only for C-STORE, C-ECHO and storage commitment; queries go to the PACS.",
        "refusal",
    ),
    "no_context": Reason(
        "Nothing the sender offers is taken here",
        "Look at the object classes and transfer syntaxes of that destination at the sender.",
        "refusal",
    ),
    "conflicts": Reason(
        "Other content under a UID that is here already",
        "Find out at the sender which of the two is right; both are kept, see the quarantine below.",
    ),
    "damaged": Reason(
        "An image the disk does not give back as it came",
        "Have the study sent again, and check the data disk; what is left of it lies in the quarantine folder.",
    ),
    "refused_storage": Reason(
        "Image refused: the disk is full or not writable (A700)",
        "Free disk space or check the data folder; then have the study sent again.",
        "refusal",
    ),
    "faults": Reason(
        "Connection dropped: it broke the protocol or stood still",
        "Look at that machine: a port scan, a wrong port or protocol (TLS against plain), or a bad network.",
    ),
    "tls_faults": Reason(
        "TLS connection not made",
        "Check the sender's certificate (signed by our tls_ca, not expired) and that it speaks TLS 1.2 or newer.",
    ),
    "aborted": Reason(
        "Association aborted by the sender",
        "Nothing that was acknowledged is lost. If it repeats, look at the sender's log and time-outs.",
    ),
}
_COMMITMENTS: dict[str, str] = {
    "commitment_refused": "Storage commitment request refused",
    "commitment_unsafe": "Not committed to some images",
    "commitment_unreachable": "Storage commitment report cannot be delivered",
    "commitment_not_taken": "Storage commitment report not taken",
    "commitment_given_up": "Storage commitment report given up",
}


def reason_of(kind: str) -> Reason:
    known = REASONS.get(kind)
    if known:
        return known
    words = kind.replace("_", " ").capitalize()
    return Reason(
        _COMMITMENTS.get(kind, words), "", "commitment" if kind.startswith("commitment") else "fault"
    )


def dicom_operations(app: App, connection: Connection) -> dict[str, Any]:
    """Everything of the operations page, for people."""
    now = app.clock.now()
    config = app.config.dicom
    nodes = node_watch.seen(connection, now)
    heard = studies.last_heard(connection)
    titles = [p.ae_title for p in config.peers]
    aside, unreadable = (
        studies.aside(connection, _MOST_FILES),
        studies.unreadable_files(connection, _MOST_FILES),
    )
    return {
        "now": now,
        "ae_title": config.ae_title,
        "require_known_peers": config.require_known_peers,
        "max_associations": config.max_associations,
        "nodes": [
            *(_node_view(connection, n, running=True) for n in nodes.running),
            *(_node_view(connection, n, running=False) for n in nodes.silent),
        ],
        "events": [_event_view(config, e) for e in node_events.newest(connection, _MOST_EVENTS)],
        "peers": [_peer_view(p) | {"last_heard_at": heard.get(p.ae_title)} for p in config.peers],
        "other_senders": [
            {"calling_ae": ae, "last_heard_at": at} for ae, at in sorted(heard.items()) if ae not in titles
        ],
        "quarantine": {
            "total": studies.count_aside(connection),
            "copies": [_aside_view(connection, a) for a in aside],
        },
        "unreadable": {
            "total": studies.count_unreadable(connection),
            "files": [
                {"file": Path(u.path).name, "reason": u.reason, "calling_ae": u.calling_ae,
                 "received_at": u.received_at}
                for u in unreadable
            ],
        },
        "disk": disk_view(app.config),
        "deliveries": deliveries.counts(connection),
        "stuck": _stuck_view(connection),
        "studies": _studies_by_state(connection),
    }  # fmt: skip


def _stuck_view(connection: Connection) -> dict[str, Any]:
    total, found = deliveries.stuck(connection, _MOST_FILES)
    codes = {c: cases.get(connection, c).code for c in {d.case_id for d in found}}
    return {
        "total": total,
        "deliveries": [
            {"case_id": d.case_id, "case_code": codes[d.case_id]} | delivery_view(d) for d in found
        ],
    }


def disk_view(config: Config) -> dict[str, Any]:
    free, reserve = shutil.disk_usage(config.data_dir).free, config.dicom.disk_reserve_mb << 20
    return {"free_bytes": free, "reserve_bytes": reserve, "below_reserve": free <= reserve}


def _studies_by_state(connection: Connection) -> dict[str, int]:
    by_state: dict[str, int] = {}
    for (_, state), n in studies.count_by_state(connection).items():
        by_state[state] = by_state.get(state, 0) + n
    return by_state


def _node_view(connection: Connection, node: SeenNode, *, running: bool) -> dict[str, Any]:
    carried = studies.carried_by(connection, [a.id for a in node.associations]) if running else []
    return {
        "name": node.name,
        "running": running,
        "stopped": node.stopped,
        "ae_title": node.ae_title,
        "host": node.host,
        "port": node.port,
        "tls_port": node.tls_port,
        "listening_since": node.listening_since,
        "heard_at": node.heard_at,
        "counters": dict(node.counters),
        "associations": [
            {
                "id": a.id,
                "calling_ae": a.calling_ae,
                "since": a.since,
                "images": sum(s.images for s in carried if s.association == a.id),
                "last_image_at": max((s.last_at for s in carried if s.association == a.id), default=None),
            }
            for a in (node.associations if running else ())
        ],
    }


def _event_view(config: DicomConfig, event: StoredEvent) -> dict[str, Any]:
    reason = reason_of(event.kind)
    step, snippet = _remedy(config, event)
    return {
        "kind": event.kind,
        "group": reason.group,
        "title": reason.title,
        "calling_ae": event.calling_ae,
        "called_ae": event.called_ae,
        "address": event.address,
        "what": event.what,
        "next_step": step or event.next_step or reason.next_step,
        "snippet": snippet,
        "first_at": event.first_at,
        "last_at": event.last_at,
        "times": event.times,
    }


def _remedy(config: DicomConfig, event: StoredEvent) -> tuple[str, str | None]:
    """A next step that knows the configuration, and lines to copy into it (TOML)."""
    if event.kind == "rejected_called_ae":
        step = (
            f"Set the destination's AE title at the sender to {config.ae_title}; it called {event.called_ae}."
        )
        return step, None
    if event.kind != "rejected_calling_ae":
        return "", None
    peer = next((p for p in config.peers if p.ae_title == event.calling_ae), None)
    address = json.dumps(event.address)
    if peer is None:
        title = json.dumps(event.calling_ae)
        lines = f'[[dicom.peers]]\nae_title = {title}\nhost = {address}\nport = 104\nroles = ["planning_ct"]'
        return (
            "If it may send to us, add these lines to the configuration (port: where it listens itself; roles: "
            "planning_ct, oarm, pacs) and restart the service.",
            lines,
        )
    if _covers(peer.host, event.address):
        return "It is configured now: have it send again.", None
    return (
        f"{peer.ae_title} is configured with the address {peer.host}, but called from {event.address}. If it has "
        "moved, change its address and restart the service; otherwise another machine uses its title.",
        f"host = {address}",
    )


def _covers(rule: str, address: str) -> bool:
    """Whether a peer's rule names this address; host names are left to the node, which looks them up."""
    if rule in ("", "*", address):
        return True
    try:
        return ipaddress.ip_address(address) in ipaddress.ip_network(rule, strict=False)
    except ValueError:
        return False


def _peer_view(peer: PeerConfig) -> dict[str, Any]:
    anywhere = peer.host in ("", "*")
    return {
        "ae_title": peer.ae_title,
        "roles": list(peer.roles),
        "address_rule": "any address" if anywhere else f"only {peer.host}",
        "host": peer.host,
        "port": peer.port,
        "tls": peer.tls,
        "quiet_s": peer.quiet_s,
        "commitment": peer.commitment,
        "can_echo": can_be_called(peer),
    }


def can_be_called(peer: PeerConfig) -> bool:
    """Whether the peer's rule is one machine with a port, not a network or any address."""
    return bool(peer.port) and peer.host not in ("", "*") and "/" not in peer.host


def _aside_view(connection: Connection, aside: Aside) -> dict[str, Any]:
    case = cases.by_study(connection, aside.study_uid)
    return {
        "sop_uid": aside.copy.sop_uid,
        "study_uid": aside.study_uid,
        "case": {"id": case.id, "code": case.code} if case else None,
        "why": "damaged, replaced by a whole copy"
        if aside.copy.superseded_in is not None
        else "other content under the same UID",
        "aside": _copy_view(aside.copy),
        "used": _copy_view(aside.used) if aside.used else None,
    }


def _copy_view(copy: StoredInstance) -> dict[str, Any]:
    return {"sha256": copy.sha256, "calling_ae": copy.calling_ae, "received_at": copy.received_at}
