"""What monitoring sees of receiving: counts and ages, no titles of senders and no patient."""

from __future__ import annotations

from collections import Counter
from datetime import datetime

from prometheus_client import CollectorRegistry, Gauge
from sqlalchemy import Connection

from service.store import studies
from service.workflow import node_watch

_REJECTED = "rejected_"


def fill(registry: CollectorRegistry, connection: Connection, now: datetime) -> None:
    """Gauges over what the nodes last said; the same from every process."""
    nodes = node_watch.seen(connection, now)
    counters: Counter[str] = Counter()
    for node in nodes.running:
        counters.update(node.counters)
    events = Gauge(
        "spineprint_dicom_total", "Events of the DICOM node since start", ["event"], registry=registry
    )
    rejections = Gauge(
        "spineprint_dicom_rejections", "Associations rejected since start", ["reason"], registry=registry
    )
    for name, n in counters.items():
        events.labels(name).set(n)
        if name.startswith(_REJECTED):
            rejections.labels(name.removeprefix(_REJECTED)).set(n)
    by_state = Gauge("spineprint_studies", "Studies by kind and state", ["kind", "state"], registry=registry)
    for (kind, state), n in studies.count_by_state(connection).items():
        by_state.labels(kind, state).set(n)
    _set(registry, "spineprint_dicom_nodes_running", "DICOM nodes heard of lately", len(nodes.running))
    _set(registry, "spineprint_open_associations", "Associations open now", len(nodes.open_associations))
    _set(
        registry,
        "spineprint_quarantined_instances",
        "Received copies that are kept but not used",
        studies.count_aside(connection),
    )
    last = max(studies.last_heard(connection).values(), default=None)
    if last is not None:
        age_s = max(0.0, (now - last).total_seconds())
        _set(registry, "spineprint_seconds_since_last_instance", "Age of the last image received", age_s)


def _set(registry: CollectorRegistry, name: str, text: str, value: float) -> None:
    Gauge(name, text, registry=registry).set(value)
