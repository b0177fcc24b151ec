"""Results out to the PACS: each destination has its own turn, so that a silent one keeps nobody else waiting.

Objects have stable UIDs and files that do not change, so whatever is sent twice (an answer lost, a worker killed) is
the same instance to the destination. `delivered` is the destination's word for having stored it; only `committed`,
its answer to a storage commitment request, is its word for keeping it.
"""

from __future__ import annotations

import logging
import uuid
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from pydicom.errors import InvalidDicomError
from pydicom.filereader import read_file_meta_info
from sqlalchemy import Connection

from service.config import Config, PeerConfig
from service.domain.people import Actor
from service.errors import NotFoundError, SpineprintError
from service.ports import CommitmentReport, Destination, ImageSender, StoreStatus
from service.store import audit, commitments, deliveries
from service.store.database import reading, transaction
from service.store.deliveries import Delivery
from service.workflow.app import App

log = logging.getLogger("spineprint.deliver")

_MOST_AT_ONCE = 16
_MOST_IN_REQUEST = 100
_LEASE = timedelta(minutes=30)
"""Longer than a batch can take. Only another worker waits for it; one that was killed gives its own back."""
_WARN_AT_TRIES = 8
_ALARM_AT_REQUESTS = 5
#: PS3.3 C.14.1.1 and PS3.4 J.3.3: why an object is not committed.
_COMMIT_REASONS = {
    0x0110: "processing failure",
    0x0112: "the PACS does not have this object",
    0x0119: "class and instance do not belong together",
    0x0122: "object class not supported",
    0x0131: "duplicate transaction UID",
    0x0213: "resources are exhausted",
}


@dataclass(frozen=True)
class Route:
    """How one destination is reached."""

    sender: ImageSender
    destination: Destination


def destination_names(config: Config) -> tuple[str, ...]:
    """Who gets results: by C-STORE, or over the web."""
    peers = [p.ae_title for p in config.dicom.peers if "pacs" in p.roles]
    return (*peers, *(w.name for w in config.dicom.web_destinations if "pacs" in w.roles))


def address_of(peer: PeerConfig) -> Destination:
    return Destination(peer.ae_title, peer.host, peer.port, tls=peer.tls)


def queue_result(
    app: App, connection: Connection, *, case_id: str, sop_uid: str, kind: str, path: Path, now: datetime
) -> None:
    """One result object, for every destination."""
    for name in destination_names(app.config):
        deliveries.add(
            connection, case_id=case_id, destination=name, sop_uid=sop_uid, kind=kind, path=path, now=now
        )


def take_turn(app: App, name: str) -> int:
    """One turn of one destination's loop; returns how many objects were tried."""
    tried = deliver_to(app, name)
    request_commitments(app, name)
    return tried


def deliver_to(app: App, name: str) -> int:
    """Send what is due for one destination, a bounded number at a time; returns how many were tried."""
    route = _route(app, name)
    if route is None:
        return 0
    now = app.clock.now()
    with reading(app.engine) as connection:
        if not deliveries.is_due(connection, name, now):
            return 0
    worker = app.config.worker.executor_id
    with transaction(app.engine) as connection:
        items = deliveries.claim(connection, name, by=worker, now=now, lease=_LEASE, most=_MOST_AT_ONCE)
    if not items:
        return 0
    settled = False
    try:
        statuses = _send(route, items)
        _settle(app, name, items, statuses)
        settled = True
    finally:
        if not settled:
            with transaction(app.engine) as connection:
                for item in items:
                    deliveries.left_over(connection, item)
    return sum(s.attempted for s in statuses)


def settle_unknown(app: App) -> int:
    """What waits for a destination that is not configured any more needs a person."""
    known = set(destination_names(app.config))
    with reading(app.engine) as connection:
        gone = deliveries.waiting_destinations(connection) - known
    for name in sorted(gone):
        now = app.clock.now()
        with transaction(app.engine) as connection:
            items = deliveries.claim(connection, name, by="", now=now, lease=timedelta(0), most=1000)
            for item in items:
                deliveries.refused(
                    connection, item, now, "not sent: the destination is not configured any more"
                )
        if items:
            app.notifier.notify(
                "pacs", f"{len(items)} results are for {name}, which is not configured any more."
            )
    return len(gone)


def release_claims(app: App) -> None:
    """At the start of a worker: what it was sending when it was ended is sent again."""
    with transaction(app.engine) as connection:
        freed = deliveries.release_claims(connection, app.config.worker.executor_id)
    if freed:
        log.warning("%d deliveries were cut off; they are sent again with the same UIDs", freed)


def retry_delivery(app: App, delivery_id: str, actor: Actor) -> None:
    """A person has an object sent again now: waiting, refused, given up or not answered for. Raises NotFoundError."""
    now = app.clock.now()
    with transaction(app.engine) as connection:
        if not deliveries.retry(connection, delivery_id, now):
            raise NotFoundError(
                "There is no such delivery, or it has arrived already.", next_step="See the case's deliveries.",
                code="delivery.not_found",
            )  # fmt: skip
        audit.append(
            connection, at=now, actor=actor.name, subject=f"delivery:{delivery_id}", event="retried", data={}
        )


def retry_stuck(app: App, destination: str, actor: Actor) -> int:
    """A person has all that did not get through to one destination sent again now; how many objects that are."""
    now = app.clock.now()
    with transaction(app.engine) as connection:
        count = deliveries.retry_stuck(connection, destination, now)
        if count:
            audit.append(
                connection, at=now, actor=actor.name, subject=f"destination:{destination}", event="retried",
                data={"deliveries": count},
            )  # fmt: skip
    return count


# --- sending ---------------------------------------------------------------------------------------------


def _route(app: App, name: str) -> Route | None:
    if name in app.web_senders:
        return Route(app.web_senders[name], Destination(name, "", 0))
    peer = _peer(app, name)
    return Route(app.sender, address_of(peer)) if peer and app.sender else None


def _peer(app: App, name: str) -> PeerConfig | None:
    return next((p for p in app.config.dicom.peers if p.ae_title == name and "pacs" in p.roles), None)


def _send(route: Route, items: Sequence[Delivery]) -> Sequence[StoreStatus]:
    try:
        return route.sender.send([d.path for d in items], route.destination)
    except SpineprintError as exc:
        # E.g. a certificate that cannot be read: a fault of the set-up, and no reason to give the objects up.
        return [StoreStatus(d.sop_uid, None, f"not sent: {exc.message}") for d in items]


def _settle(app: App, name: str, items: Sequence[Delivery], statuses: Sequence[StoreStatus]) -> None:
    now = app.clock.now()
    peer = _peer(app, name)
    commit = bool(peer and peer.commitment and app.committer)
    refusals: Counter[str] = Counter()
    given_up: Counter[str] = Counter()
    late = 0
    with transaction(app.engine) as connection:
        for item, status in zip(items, statuses, strict=True):
            text = answer_text(status)
            if not status.attempted:
                deliveries.left_over(connection, item)
            elif status.accepted:
                deliveries.delivered(connection, item, now, text, commit=commit)
            elif status.permanent:
                deliveries.refused(connection, item, now, text)
                refusals[text] += 1
            elif _is_dead(app, item, now):
                deliveries.given_up(connection, item, now, text)
                given_up[text] += 1
            else:
                deliveries.postponed(connection, item, now, text)
                late += item.tries + 1 == _WARN_AT_TRIES
    for text, n in refusals.items():
        app.notifier.notify("pacs", f"{name} refused {_results(n)} ({text}).")
    for text, n in given_up.items():
        app.notifier.notify(
            "pacs",
            f"{_results(n)} for {name} given up after many tries ({text}). Once {name} works, send again.",
        )
    if late:
        app.notifier.notify(
            "pacs", f"{name} has not taken {_results(late)} in {_WARN_AT_TRIES} tries; trying on."
        )


def _is_dead(app: App, item: Delivery, now: datetime) -> bool:
    # Both limits: a clock that jumps, or a service that stood still for a week, must not use up the one chance.
    rules = app.config.delivery
    since = item.first_failed_at
    return (
        since is not None
        and now - since >= timedelta(hours=rules.give_up_h)
        and item.tries + 1 >= rules.give_up_tries
    )


def answer_text(status: StoreStatus) -> str:
    """The answer for people: the status as the standard writes it, and the destination's comment."""
    if status.status is None:
        return status.detail
    return f"{status.status:04X} {status.detail}".strip()


def _results(n: int) -> str:
    return "a result" if n == 1 else f"{n} results"


# --- storage commitment ----------------------------------------------------------------------------------


def request_commitments(app: App, name: str) -> int:
    """Ask one destination to answer for what it was sent (PS3.4 annex J); returns how many objects were asked for."""
    peer = _peer(app, name)
    if peer is None or not peer.commitment or app.committer is None:
        return 0
    now = app.clock.now()
    with reading(app.engine) as connection:
        items = commitments.due(connection, name, now, most=_MOST_IN_REQUEST)
    wanted = {item.id: (found, item.sop_uid) for item in items if (found := sop_class_of(item.path))}
    nameless = [item for item in items if item.id not in wanted]
    items = [item for item in items if item.id in wanted]
    if nameless:
        with transaction(app.engine) as connection:
            for item in nameless:
                commitments.unaskable(connection, item, "the file cannot be read any more")
        app.notifier.notify("pacs", f"The files of {_results(len(nameless))} cannot be read any more.")
    if not items:
        return 0
    transaction_uid = (
        f"2.25.{uuid.uuid4().int}"  # PS3.5 B.2; a new one for every request, also a repeated one
    )
    again_at = now + timedelta(hours=app.config.delivery.commitment_wait_h)
    with transaction(app.engine) as connection:
        commitments.asking(connection, items, transaction_uid, now=now, again_at=again_at)
    answer = app.committer.ask([wanted[i.id] for i in items], address_of(peer), transaction_uid)
    if not answer.accepted:
        pause_s = min(3600.0, 60.0 * 2.0 ** min(max(i.commit_tries for i in items), 6))
        with transaction(app.engine) as connection:
            commitments.not_asked(
                connection, transaction_uid, app.clock.now() + timedelta(seconds=pause_s), answer.detail
            )
    unanswered = sum(i.commit_tries + 1 == _ALARM_AT_REQUESTS for i in items)
    if unanswered:
        app.notifier.notify(
            "pacs",
            f"{name} was asked {_ALARM_AT_REQUESTS} times to commit to {_results(unanswered)}, without outcome.",
        )
    return len(items)


def note_commitment(app: App, report: CommitmentReport) -> None:
    """The outcome of a request, as the node received it; the same report twice changes nothing more."""
    reasons = {
        uid: f"{code:04X} {_COMMIT_REASONS.get(code, '')}".strip() for uid, code in report.failed.items()
    }
    with transaction(app.engine) as connection:
        change = commitments.report(
            connection, report.transaction_uid, frozenset(report.committed), reasons, app.clock.now()
        )
    if change is None:
        log.warning(
            "a storage commitment report for transaction %s, which is not ours", report.transaction_uid
        )
    elif change.refused:
        words = Counter(reasons[item.sop_uid] for item in change.refused)
        listed = "; ".join(f"{n} x {text}" for text, n in sorted(words.items()))
        app.notifier.notify(
            "pacs",
            f"{change.refused[0].destination} does not answer for {_results(len(change.refused))} ({listed}). "
            "Send again from the case.",
        )


def sop_class_of(path: Path) -> str:
    """From the file's own header; empty when it cannot be read."""
    try:
        return str(read_file_meta_info(path).get("MediaStorageSOPClassUID", ""))
    except (OSError, InvalidDicomError, ValueError, AttributeError, KeyError):
        return ""
