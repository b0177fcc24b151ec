"""Cycle records that come as a file: kept exactly as received, judged, and signed for by the operator.

A person who brings the file signs at once. A steriliser that posts it with its token cannot sign: its record waits
with the load until the operator has looked at it and accepts it.
"""

from __future__ import annotations

import re
from dataclasses import replace

from service.domain import sterilisation as rules
from service.domain.people import Actor
from service.domain.sterilisation import Load, LoadState
from service.errors import ConflictError, InputRefusedError, NotAllowedError, SpineprintError
from service.store import audit, cycle_files, sterile
from service.store.cycle_files import CycleFile
from service.store.database import reading, transaction
from service.workflow import sterilise
from service.workflow.app import App
from service.workflow.cycle_record import read_cycle_record, stated_cycle
from service.workflow.sterilise import load_event

_LONGEST_NAME = 128


def import_cycle(
    app: App, load_id: str, raw: bytes, actor: Actor, *, name: str = "record", signed: bool = False
) -> Load:
    """The load after its cycle; the record is judged like one entered by hand, and kept whatever the answer is.

    Errors as `read_cycle_record` and `load_event`.
    """
    sterilise.check_signed("load", "finish_cycle", signed)
    with reading(app.engine) as connection:
        load = sterile.get(connection, Load, load_id)
    kept = _keep(app, load, raw, name, actor.name)
    return _apply(app, load, kept, actor, signed)


def accept_cycle(app: App, load_id: str, sha256: str, actor: Actor, *, signed: bool) -> Load:
    """The operator signs for a record that the steriliser itself has posted. Errors as `import_cycle`."""
    sterilise.check_signed("load", "finish_cycle", signed)
    with reading(app.engine) as connection:
        load = sterile.get(connection, Load, load_id)
        kept = cycle_files.get(connection, load_id, sha256)
    return _apply(app, load, kept, actor, signed)


def receive_cycle(
    app: App, steriliser_id: str, raw: bytes, *, name: str, token: str, bound_to: str
) -> CycleFile:
    """A steriliser's own record, posted with its token: kept for the running load it names, and judged.

    The load does not move: that needs the operator's signature.

    Raises
    ------
    NotAllowedError : the token speaks for another steriliser.
    ConflictError : `cycle.no_load`, when no running load of this steriliser fits.
    """
    if not bound_to or bound_to != steriliser_id:
        raise NotAllowedError(
            f"This token does not speak for steriliser {steriliser_id!r}.",
            next_step="Post to the steriliser the token was made for, or ask the administrator for another token.",
            code="token.other_steriliser",
        )
    load = _running(app, steriliser_id, raw)
    kept = _keep(app, load, raw, name, f"token:{token}")
    verdict = _verdict(app, load, kept)
    _judged(app, load, kept, verdict)
    words = verdict or "it fits; an operator must sign for it"
    app.notifier.notify("sterile", f"Steriliser {steriliser_id} posted the record of load {load.id}: {words}")
    return replace(kept, verdict=verdict)


def _running(app: App, steriliser_id: str, raw: bytes) -> Load:
    with reading(app.engine) as connection:
        loads = [
            x for x in sterile.listed(connection, Load)
            if x.steriliser_id == steriliser_id and x.state is LoadState.RUNNING
        ]  # fmt: skip
    number = stated_cycle(raw.decode("utf-8", "replace"))
    fitting = [x for x in loads if str(x.cycle_number) == number]
    found = fitting or (loads if number is None else [])
    if len(found) != 1:
        raise ConflictError(
            f"No single running load of steriliser {steriliser_id!r} fits this record, cycle {number or 'not stated'}.",
            next_step="Start the load here when the cycle starts, name its cycle_number in the record, and post again.",
            code="cycle.no_load",
        )
    return found[0]


def _keep(app: App, load: Load, raw: bytes, name: str, sender: str) -> CycleFile:
    path, digest, size = cycle_files.write(app.config.data_dir / "sterile", raw)
    now = app.clock.now()
    plain = re.sub(r"[^\w. -]", "_", name)[-_LONGEST_NAME:] or "record"
    file = CycleFile(digest, load.id, plain, path, size, now, sender, "not judged yet")
    with transaction(app.engine) as connection:
        if cycle_files.add(connection, file):
            audit.append(
                connection, at=now, actor=sender, subject=f"load:{load.id}", event="cycle_record_received",
                data={"sha256": digest, "size": size},
            )  # fmt: skip
    return file


def _data(app: App, load: Load, kept: CycleFile) -> dict[str, object]:
    try:
        text = cycle_files.content(kept).decode("utf-8")
    except UnicodeDecodeError as exc:
        raise InputRefusedError(
            "The cycle record cannot be used: it is not text in UTF-8.",
            next_step="Set the export of the steriliser to UTF-8, or enter the values of the printout by hand.",
            code="cycle.format",
        ) from exc
    site = app.sterile_settings
    data = read_cycle_record(text, load, site.cycle(load.cycle_name), gap_min=site.record_gap_min)
    return {**data, "record_source": f"sha256:{kept.sha256}"}


def _apply(app: App, load: Load, kept: CycleFile, actor: Actor, signed: bool) -> Load:
    try:
        changed = load_event(app, load.id, "finish_cycle", _data(app, load, kept), actor, signed=signed)
    except SpineprintError as exc:
        if load.state is LoadState.RUNNING:
            _judged(app, load, kept, exc.message)
        raise
    _judged(app, load, kept, "")
    return changed


def _verdict(app: App, load: Load, kept: CycleFile) -> str:
    """What the rules would say to this record; nothing is changed."""
    try:
        rules.apply_load(
            load, "finish_cycle", _data(app, load, kept), "steriliser", "cssd_technician", app.clock.now(),
            app.sterile_settings,
        )  # fmt: skip
    except SpineprintError as exc:
        return exc.message
    return ""


def _judged(app: App, load: Load, kept: CycleFile, verdict: str) -> None:
    with transaction(app.engine) as connection:
        cycle_files.judge(connection, load.id, kept.sha256, verdict)
