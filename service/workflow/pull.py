"""Have a PACS send us a study, found by its accession number: C-FIND, then C-MOVE to our own node.

The images come in through the node like all others. Whoever asks twice gets the same request; a job that was cut off
starts from the beginning, and images that come twice with the same bytes are one.
"""

from __future__ import annotations

import dataclasses
import re
import secrets
import time

from service.config import PeerConfig
from service.domain.people import Actor, Role
from service.errors import (
    ConflictError,
    DeviceError,
    InputRefusedError,
    NotAllowedError,
    NotFoundError,
    SpineprintError,
)
from service.ports import FoundStudy, JobRequest, MoveProgress, MoveResult, MoveWatcher
from service.store import audit, outbox, pulls
from service.store.database import reading, transaction
from service.store.pulls import Pull
from service.workflow.app import App
from service.workflow.deliver import address_of

ROLES = frozenset({Role.PLANNER, Role.TECHNICIAN})
_ASKABLE = frozenset({"pacs", "planning_ct"})
#: SH of PS3.5 6.2 in ASCII, without what a query would take for a pattern.
_ACCESSION = re.compile(r"[!-)+-\[\]-~](?:[ -)+-\[\]-~]{0,14}[!-)+-\[\]-~])?")
_UID = re.compile(r"[0-9][0-9.]{0,63}")
_UNKNOWN_DESTINATION = 0xA801
_MOVE_WORDS = {
    0xA701: "it is out of resources",
    0xA702: "it is out of resources",
    0xA900: "it does not understand the request",
    0xFE00: "the transfer was cancelled there",
}


def ask(app: App, *, accession_number: str, peer: str, actor: Actor, study_uid: str = "") -> Pull:
    """Queue the request; the same one twice is one. `study_uid` chooses when several studies share the number."""
    if not (actor.roles or frozenset()) & ROLES:
        raise NotAllowedError(
            "A study is fetched by a planner or a technician.", next_step="Ask a person with that role.",
            code="auth.role",
        )  # fmt: skip
    wanted, chosen = accession_number.strip(), study_uid.strip()
    if not _ACCESSION.fullmatch(wanted) or "?" in wanted:
        raise InputRefusedError(
            "This is no accession number a PACS can be asked for.",
            next_step="Give it as the PACS shows it: 1 to 16 characters, without * ? and \\.",
            code="pull.accession_number",
        )
    if chosen and not _UID.fullmatch(chosen):
        raise InputRefusedError(
            "This is no study UID.",
            next_step="Take one from the list of studies found.",
            code="pull.study_uid",
        )
    _peer(app, peer)
    now = app.clock.now()
    with transaction(app.engine) as connection:
        same = pulls.open_one(connection, peer=peer, accession_number=wanted, study_uid=chosen)
        if same:
            return same
        pull_id = secrets.token_hex(8)
        pulls.add(
            connection, pull_id=pull_id, peer=peer, accession_number=wanted, study_uid=chosen, by=actor.name, now=now
        )  # fmt: skip
        outbox.put(connection, [JobRequest(f"pull.{pull_id}", "pull", pull_id, "pulls")], now)
        audit.append(
            connection, at=now, actor=actor.name, subject=f"pull:{pull_id}", event="pull_requested",
            data={"peer": peer},
        )  # fmt: skip
        return pulls.need(connection, pull_id)


def run(app: App, key: str, pull_id: str) -> None:
    """Job: find the study and have it sent."""
    with reading(app.engine) as connection:
        pull = pulls.need(connection, pull_id)
    if pull.state in pulls.OPEN:
        try:
            _fetch(app, pull)
        except SpineprintError as exc:
            _end(app, pull.id, pulls.FAILED, error=exc)
            app.notifier.notify("pull", f"A study could not be fetched from {pull.peer}: {exc.message}")
    with transaction(app.engine) as connection:
        outbox.finish(connection, key, app.clock.now())


def _fetch(app: App, pull: Pull) -> None:
    if app.finder is None:
        raise ConflictError("This process has no DICOM client.", code="pull.no_client")
    address = address_of(_peer(app, pull.peer))
    _change(app, pull.id, state=pulls.FINDING)
    found = sorted(
        app.finder.find(pull.accession_number, address),
        key=lambda s: (s.study_date, s.study_uid),
        reverse=True,
    )
    chosen = _choose(found, pull.study_uid)
    if chosen is None:
        _end(app, pull.id, pulls.AMBIGUOUS, candidates=[_candidate(s) for s in found])
        return
    with transaction(app.engine) as connection:
        pulls.change(
            connection, pull.id, app.clock.now(), state=pulls.MOVING, study_uid=chosen.study_uid,
            expected=chosen.instances, candidates=[_candidate(s) for s in found], completed=0, failed=0, warned=0,
            remaining=chosen.instances,
        )  # fmt: skip
        if chosen.instances is not None:
            # Before the first image comes, so that its study knows how many to wait for.
            pulls.tell_study(connection, chosen.study_uid, chosen.instances)
    own_title = app.config.dicom.ae_title
    result = app.finder.move(chosen.study_uid, address, own_title, _watcher(app, pull.id))
    _change(app, pull.id, **dataclasses.asdict(result.progress))
    error = _what_went_wrong(result, pull.peer, own_title)
    if error:
        raise error
    _end(app, pull.id, pulls.DONE)


def _choose(found: list[FoundStudy], study_uid: str) -> FoundStudy | None:
    """The one study; None when a person must choose."""
    if not found:
        raise NotFoundError(
            "The PACS has no study with this accession number.",
            next_step="Compare the number with the PACS; an archived study may have to be restored there first.",
            code="pull.nothing",
        )
    if study_uid:
        chosen = next((s for s in found if s.study_uid == study_uid), None)
        if chosen is None:
            raise NotFoundError(
                "The PACS has studies with this accession number, but not the chosen one.",
                next_step="Ask again without a study UID to see them.", code="pull.study_gone",
            )  # fmt: skip
        return chosen
    return found[0] if len(found) == 1 else None


def _what_went_wrong(result: MoveResult, peer: str, own_title: str) -> SpineprintError | None:
    code, done = result.status, result.progress
    counted = f"{done.completed + done.warned} images came, {done.failed} failed"
    if code == 0 and done.failed == 0:
        return None
    if code is None:
        return DeviceError(
            f"{peer} did not finish sending: {result.detail} ({counted}).",
            next_step="Repeat; what has arrived stays.", code="pull.no_answer",
        )  # fmt: skip
    if code == _UNKNOWN_DESTINATION:
        return DeviceError(
            f"{peer} does not know where {own_title} is (status A801).",
            next_step="Let the PACS administrator add our AE title, address and port as a destination, then repeat.",
            code="pull.unknown_destination", retryable=False,
        )  # fmt: skip
    if done.failed or code == 0xB000:
        return DeviceError(
            f"{peer} could not send all images: {counted} (status {code:04X} {result.detail}".rstrip() + ").",
            next_step="See our node's events for refusals, and the log of the PACS; then repeat.",
            code="pull.incomplete", details={"failed_instances": list(result.failed_uids[:50])},
        )  # fmt: skip
    words = _MOVE_WORDS.get(code, result.detail or "it gives no reason")
    return DeviceError(
        f"{peer} did not send the study: {words} (status {code:04X}).",
        next_step="See the log of the PACS, then repeat.", code="pull.move_failed",
    )  # fmt: skip


def _watcher(app: App, pull_id: str) -> MoveWatcher:
    last = float("-inf")

    def watch(progress: MoveProgress) -> None:
        nonlocal last
        if time.monotonic() - last >= 0.5:
            last = time.monotonic()
            _change(app, pull_id, **dataclasses.asdict(progress))

    return watch


def _candidate(study: FoundStudy) -> dict[str, object]:
    return dataclasses.asdict(study) | {"modalities": list(study.modalities)}


def _peer(app: App, name: str) -> PeerConfig:
    askable = [p for p in app.config.dicom.peers if _ASKABLE & set(p.roles)]
    found = next((p for p in askable if p.ae_title == name), None)
    if found is None:
        names = ", ".join(p.ae_title for p in askable) or "none"
        raise InputRefusedError(
            f"'{name}' is no PACS that can be asked.",
            next_step=f"Use one with the role pacs or planning_ct under [[dicom.peers]]: {names}.",
            code="pull.peer",
        )
    return found


def _change(app: App, pull_id: str, **values: object) -> None:
    with transaction(app.engine) as connection:
        pulls.change(connection, pull_id, app.clock.now(), **values)


def _end(
    app: App, pull_id: str, state: str, *, error: SpineprintError | None = None, **values: object
) -> None:
    now = app.clock.now()
    with transaction(app.engine) as connection:
        pulls.change(
            connection, pull_id, now, state=state, error=error.to_document() if error else None, **values
        )
        audit.append(
            connection, at=now, actor="system:pull", subject=f"pull:{pull_id}", event=f"pull_{state.lower()}",
            data={"code": error.code} if error else {},
        )  # fmt: skip
