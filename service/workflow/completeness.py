"""When a study is complete: every sender silent for its own quiet time, and no association open that carried it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection

from service.store import studies
from service.store.studies import Source, Study
from service.workflow import node_watch
from service.workflow.app import App


def quiet_seconds(app: App, study: Study, calling_ae: str) -> float:
    """How long this sender must be silent: its own setting, else the one for the kind of study."""
    config = app.config.dicom
    own = next((p.quiet_s for p in config.peers if p.ae_title == calling_ae), None)
    return own or (config.oarm_quiet_s if study.kind == "oarm" else config.quiet_s)


def last_heard(study: Study, sources: Sequence[Source]) -> dict[str, datetime]:
    """Calling AE title -> when it last sent an image of this study, also one that was here already."""
    heard: dict[str, datetime] = {}
    for source in sources:
        heard[source.calling_ae] = max(source.last_at, heard.get(source.calling_ae, source.last_at))
    return heard or {study.calling_ae: study.last_instance_at}


def closes_at(
    app: App, study: Study, sources: Sequence[Source], listening_since: datetime | None
) -> datetime:
    """When the last of the senders has been silent long enough, if none sends any more.

    `listening_since` is the start of the node: the silence before it was ours, not the sender's, and a sender
    that was cut off by our restart gets the whole quiet time to send the rest.
    """
    return max(
        max(at, listening_since or at) + timedelta(seconds=quiet_seconds(app, study, ae))
        for ae, at in last_heard(study, sources).items()
    )


#: An early start needs so many images at least: fewer are no volume, but a sender with an association for each image.
_EARLY_IMAGES = 20


def may_begin(
    study: Study,
    sources: Sequence[Source],
    open_associations: Mapping[str, str],
    listening_since: datetime | None = None,
) -> bool:
    """Whether a scan may be measured before its sender was silent for its quiet time.

    A closed association that carried the whole scan is the strongest sign of completeness there is, but no proof:
    the answer is held back until the quiet time is over (`service.workflow.verify`). Who uses several associations,
    or sent more after an early start, gets the whole quiet time first; and so does who was cut off by our restart
    (`listening_since`): that association was closed by us.
    """
    return (
        study.kind == "oarm"
        and study.revision == 1
        and len(sources) == 1
        and study.instance_count >= _EARLY_IMAGES
        and (listening_since is None or sources[0].last_at >= listening_since)
        and not held_by(sources, open_associations)
    )


def held_by(sources: Sequence[Source], open_associations: Mapping[str, str]) -> tuple[str, ...]:
    """Titles of the senders with an open association that carried the study."""
    return tuple(sorted({s.calling_ae for s in sources if s.association in open_associations}))


@dataclass(frozen=True)
class Live:
    """How a study stands, in figures and in words.

    `text` is `lead`, then while images are arriving the age of the last one, then `tail` or the time left; a page
    can count on from `last_at` and `closes_at` by itself.
    """

    slices: int
    expected: int | None
    last_at: datetime
    closes_at: datetime | None
    """None: complete, held open, or nobody is listening."""
    held_by: tuple[str, ...]
    late_images: int
    """How many arrived after the study was complete, over all later revisions."""
    receiving: bool
    lead: str
    tail: str

    def last_s(self, now: datetime) -> float:
        return max(0.0, (now - self.last_at).total_seconds())

    def closes_in_s(self, now: datetime) -> float | None:
        return max(0.0, (self.closes_at - now).total_seconds()) if self.closes_at else None

    def text(self, now: datetime) -> str:
        parts = [self.lead]
        if self.receiving:
            parts.append(f"last {_span(self.last_s(now))} ago")
        left = self.closes_in_s(now)
        if left is not None:
            parts.append(f"closes in {_span(left)}" if left > 0 else "closing now")
        elif self.tail:
            parts.append(self.tail)
        return ", ".join(parts)


def live(app: App, connection: Connection, found: Sequence[Study]) -> dict[str, Live]:
    """Study UID -> how it stands, for many studies with few queries."""
    nodes = node_watch.seen(connection, app.clock.now())
    sources = studies.sources_of(connection, [s.study_uid for s in found if s.state == "RECEIVING"])
    revised = studies.images_by_revision(connection, [s.study_uid for s in found if s.revision > 1])
    return {
        s.study_uid: _live(app, s, sources.get(s.study_uid, []), revised.get(s.study_uid, {}), nodes)
        for s in found
    }


def _live(
    app: App, study: Study, sources: Sequence[Source], revised: Mapping[int, int], nodes: node_watch.Nodes
) -> Live:
    receiving = study.state == "RECEIVING"
    late = sum(n for revision, n in revised.items() if revision > 1)
    holders = held_by(sources, nodes.open_associations) if receiving else ()
    closes, tail = None, ""
    if receiving and study.use_now:
        tail = "closing now"
    elif holders:
        tail = "held open by " + ", ".join(holders)
    elif receiving and not nodes.running:
        tail = "stays open: no DICOM node is running"
    elif receiving:
        closes = closes_at(app, study, sources, nodes.listening_since)
    return Live(
        slices=study.instance_count,
        expected=study.expected_instances,
        last_at=max(last_heard(study, sources).values()),
        closes_at=closes,
        held_by=holders,
        late_images=late,
        receiving=receiving,
        lead=_lead(study, revised),
        tail=tail,
    )


def _lead(study: Study, revised: Mapping[int, int]) -> str:
    count = f"{study.instance_count}"
    if study.expected_instances and study.expected_instances >= study.instance_count:
        count += f" of {study.expected_instances}"
    images = f"{count} {'slice' if count == '1' else 'slices'}"
    latest = revised.get(study.revision, 0)
    late = f"revision {study.revision}: {latest} image{'' if latest == 1 else 's'} arrived after completion"
    if study.state == "RECEIVING":
        return f"{images}, {late}" if study.revision > 1 else images
    return f"complete, {images}" + (f"; {late}" if study.revision > 1 else "")


def _span(seconds: float) -> str:
    """Seconds as long as they are worth counting; `liveText` of the pages says the same."""
    for unit, length in (("s", 1.0), ("min", 60.0), ("h", 3600.0)):
        if seconds < 120 * length:
            return f"{int(seconds // length)} {unit}"
    return f"{int(seconds // 86400)} days"
