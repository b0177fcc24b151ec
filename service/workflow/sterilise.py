"""Sterile services: one function per machine, each a transaction of guards, record, audit and the case's step."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import Connection

from service.domain import sterilisation as rules
from service.domain.case import CaseEvent, CaseState
from service.domain.people import Actor, system
from service.domain.sterilisation import (
    BiologicalIndicator,
    BiState,
    Item,
    ItemState,
    Load,
    Steriliser,
)
from service.errors import ConflictError, NotAllowedError, SpineprintError
from service.store import approvals, audit, cases, print_pictures, sterile
from service.store.cases import Case
from service.store.database import reading, transaction
from service.workflow.app import App
from service.workflow.jobs import park, tell_attention
from service.workflow.printed_item import patient_reference

REJECTED = SpineprintError(
    "The printed part was rejected at inspection.",
    next_step="Discard it. Resume to have the plan approved again, which allows one new print.",
    code="part.rejected",
)

_TABLES = {
    "item": rules.ITEM_TRANSITIONS,
    "load": rules.LOAD_TRANSITIONS,
    "bi": rules.BI_TRANSITIONS,
    "steriliser": rules.STERILISER_TRANSITIONS,
}

#: A step of the item that is also a step of its case, with the guard it answers.
_CASE_STEPS: Mapping[str, tuple[CaseEvent, str]] = {
    "pass_qa": (CaseEvent.PASS_QA, "item_passed_qa"),
    "issue": (CaseEvent.ISSUE, "item_issued"),
    "return_unopened": (CaseEvent.RETURN_UNOPENED, "item_returned"),
    "use": (CaseEvent.USE, "item_used"),
}


def needs_signature(machine: str, event: str) -> bool:
    """Whether a person signs this step by giving their password again."""
    return any(t.signed for t in _TABLES[machine] if t.event == event)


def check_signed(machine: str, event: str, signed: bool) -> None:
    """Raises NotAllowedError when the step asks for an electronic signature and none was given."""
    if needs_signature(machine, event) and not signed:
        raise NotAllowedError(
            "This step needs your signature (your password again).",
            code="auth.signature",
            next_step="Enter your password and sign again.",
        )


def item_event(
    app: App, item_id: str, event: str, data: Mapping[str, object], actor: Actor, *, signed: bool = False
) -> Item:
    """One step of an item, with everything that follows from it for the case.

    `signed`: the person's password was checked for this very request.
    """
    check_signed("item", event, signed)
    now = app.clock.now()
    values = dict(data)
    if values.get("scanned_patient_id"):
        values["scanned_patient_reference"] = patient_reference(str(values.pop("scanned_patient_id")))
    with transaction(app.engine) as connection:
        item = sterile.get(connection, Item, item_id)
        if event == "pass_qa":
            # what is stored counts, whatever was typed
            stored = print_pictures.listed(connection, item_id)
            values["photos"] = [p.sha256 for p in stored if p.kind == print_pictures.INSPECTION]
        load_id = str(values.get("load_id") or item.load_id)
        load = sterile.maybe(connection, Load, load_id) if load_id else None
        changed = rules.apply_item(
            item,
            event,
            values,
            actor.name,
            _role(app, actor, rules.ITEM_TRANSITIONS, event, item.state),
            now,
            app.sterile_settings,
            load=load,
            bi=sterile.maybe(connection, BiologicalIndicator, load.bi_id) if load and load.bi_id else None,
            steriliser=sterile.maybe(connection, Steriliser, load.steriliser_id) if load else None,
            recalls=_recalls(connection),
        )
        _keep(connection, app, changed, item.version, event, actor, values, signed)
        case = cases.get(connection, item.design.case_id)
        _step_case(connection, app, case, changed, event, actor)
        rejected = event == "reject" and case.state is CaseState.PRINTED
        if rejected:
            approvals.void(connection, case.id, now)
            park(connection, app, cases.get(connection, case.id), REJECTED, CaseState.PLAN_READY)
    if rejected:
        tell_attention(app, case, REJECTED)
    return changed


def load_event(
    app: App, load_id: str, event: str, data: Mapping[str, object], actor: Actor, *, signed: bool = False
) -> Load:
    """One step of a load; `signed` as of `item_event`."""
    check_signed("load", event, signed)
    now = app.clock.now()
    with transaction(app.engine) as connection:
        load = sterile.get(connection, Load, load_id)
        item_id = str(data.get("item_id") or "")
        changed = rules.apply_load(
            load,
            event,
            data,
            actor.name,
            _role(app, actor, rules.LOAD_TRANSITIONS, event, load.state),
            now,
            app.sterile_settings,
            bi=sterile.maybe(connection, BiologicalIndicator, load.bi_id) if load.bi_id else None,
            steriliser=sterile.maybe(connection, Steriliser, load.steriliser_id),
            recalls=_recalls(connection),
            item=sterile.maybe(connection, Item, item_id) if item_id else None,
        )
        _keep(connection, app, changed, load.version, event, actor, data, signed)
        if event in ("abort", "fail"):
            _fail_items(connection, app, changed, str(data.get("reason", "")))
    return changed


def _fail_items(connection: Connection, app: App, load: Load, why: str) -> None:
    """No item of an aborted or failed load stays where it stands; the same transaction takes it out."""
    for item in [sterile.get(connection, Item, i) for i in load.item_ids]:
        changed, step = rules.fail_item(item, load, why, app.clock.now(), app.sterile_settings)
        if not step:
            continue
        _keep(connection, app, changed, item.version, step, system("sterile"), changed.history[-1].data)
        case = cases.get(connection, item.design.case_id)
        _step_case(connection, app, case, changed, step, system("sterile"))


def bi_event(
    app: App, bi_id: str, event: str, data: Mapping[str, object], actor: Actor
) -> BiologicalIndicator:
    """One signed step of an indicator; a positive result recalls what it calls into question, at once."""
    now = app.clock.now()
    with transaction(app.engine) as connection:
        bi = sterile.get(connection, BiologicalIndicator, bi_id)
        role = _role(app, actor, rules.BI_TRANSITIONS, event, bi.state)
        changed = rules.apply_bi(bi, event, data, actor.name, role, now, app.sterile_settings)
        _keep(connection, app, changed, bi.version, event, actor, data)
        incidents = recall_all(connection, app)
    for incident in incidents:
        app.notifier.notify(
            "recall", f"Used item {incident} is in question: tell infection control and the surgeon."
        )
    if changed.state is BiState.POSITIVE:
        app.notifier.notify(
            "recall", f"Positive indicator in steriliser {changed.steriliser_id}: items are recalled."
        )
    return changed


def steriliser_event(
    app: App, device_id: str, event: str, data: Mapping[str, object], actor: Actor, *, signed: bool = False
) -> Steriliser:
    """One step of a steriliser: out of service by hand, or back on the configured evidence."""
    check_signed("steriliser", event, signed)
    with transaction(app.engine) as connection:
        device = sterile.get(connection, Steriliser, device_id)
        own = tuple(
            b for b in sterile.listed(connection, BiologicalIndicator) if b.steriliser_id == device_id
        )
        role = _role(app, actor, rules.STERILISER_TRANSITIONS, event, device.state)
        changed = rules.apply_steriliser(
            device, event, data, actor.name, role, app.clock.now(), app.sterile_settings, bis=own
        )
        _keep(connection, app, changed, device.version, event, actor, data, signed)
    return changed


def recall_all(connection: Connection, app: App) -> list[str]:
    """Apply every open recall again (a growing set grows); returns items with a new incident."""
    now = app.clock.now()
    told: list[str] = []
    indicators = sterile.listed(connection, BiologicalIndicator)
    for positive in [b for b in indicators if b.state is BiState.POSITIVE]:
        loads, items = sterile.listed(connection, Load), sterile.listed(connection, Item)
        device = sterile.get(connection, Steriliser, positive.steriliser_id)
        outcome = rules.apply_recall(positive, device, loads, indicators, items, now, app.sterile_settings)
        known: list[sterile.Record] = [*loads, *items, device]
        before = {r.id: r.version for r in known}
        changed: list[sterile.Record] = [outcome.steriliser, *outcome.loads, *outcome.items]
        for record in changed:
            if record.version != before[record.id]:
                sterile.save(connection, record, before[record.id], now)
                audit.append(
                    connection,
                    at=now,
                    actor="system:recall",
                    subject=_subject(record),
                    event="recall",
                    data={"indicator": positive.id, "state": record.state.value},
                )
        told += [incident.item_id for incident in outcome.incidents]
    return told


def withdraw_expired(app: App) -> list[str]:
    """Released packs past their use-by become non-sterile by themselves; returns their items."""
    now = app.clock.now()
    withdrawn = []
    with transaction(app.engine) as connection:
        for item in sterile.listed(connection, Item):
            if item.state is not ItemState.RELEASED or item.pack is None or item.pack.expires_at > now:
                continue
            reason = {"reason": "use-by date passed"}
            changed = rules.apply_item(
                item, "withdraw", reason, "system", "system", now, app.sterile_settings
            )
            _keep(connection, app, changed, item.version, "withdraw", system("expiry"), reason)
            withdrawn.append(item.id)
    for item_id in withdrawn:
        app.notifier.notify("sterile", f"The pack of {item_id} has passed its use-by date and was withdrawn.")
    return withdrawn


def register_steriliser(app: App, steriliser: Steriliser, actor: Actor) -> Steriliser:
    _need_role(actor, ("cssd_supervisor", "admin"))
    return _register(app, steriliser, actor)


def open_load(
    app: App,
    *,
    load_id: str,
    steriliser_id: str,
    cycle_name: str,
    planned_aeration_c: float,
    purpose: str,
    actor: Actor,
) -> Load:
    """A new load; its cycle number is the next of that steriliser."""
    _need_role(actor, ("cssd_technician", "cssd_supervisor"))
    now = app.clock.now()
    with transaction(app.engine) as connection:
        sterile.get(connection, Steriliser, steriliser_id)
        if app.sterile_settings.cycle(cycle_name) is None:
            raise ConflictError(
                f"The cycle {cycle_name!r} is not in the catalogue.",
                next_step="Choose one of: " + ", ".join(c.name for c in app.sterile_settings.cycles) + ".",
                code="sterilisation.cycle",
            )
        numbers = [
            x.cycle_number for x in sterile.listed(connection, Load) if x.steriliser_id == steriliser_id
        ]
        load = Load(
            load_id,
            steriliser_id,
            max(numbers, default=0) + 1,
            cycle_name,
            planned_aeration_c,
            purpose,
            operators=(actor.name,),
        )
        sterile.add(connection, load, now)
        audit.append(
            connection,
            at=now,
            actor=actor.name,
            subject=_subject(load),
            event="opened",
            data={"steriliser": steriliser_id, "cycle": cycle_name, "number": load.cycle_number},
        )
        return load


def register_bi(
    app: App, *, bi_id: str, product: str, lot: str, expires_at: datetime, load_id: str, actor: Actor
) -> BiologicalIndicator:
    """An indicator for an open load."""
    _need_role(actor, ("cssd_technician", "cssd_supervisor"))
    with reading(app.engine) as connection:
        load = sterile.get(connection, Load, load_id)
    bi = BiologicalIndicator(bi_id, product, lot, expires_at, load.id, load.steriliser_id, load.cycle_number)
    return _register(app, bi, actor)


def _register(app: App, record: sterile.R, actor: Actor) -> sterile.R:
    now = app.clock.now()
    with transaction(app.engine) as connection:
        sterile.add(connection, record, now)
        audit.append(
            connection, at=now, actor=actor.name, subject=_subject(record), event="registered", data={}
        )
    return record


def _step_case(connection: Connection, app: App, case: Case, item: Item, event: str, actor: Actor) -> None:
    now = app.clock.now()
    # A scan that came while the pack was only issued has taken the case past the point of "use" already.
    ahead = event == "use" and case.state in (CaseState.VERIFYING, CaseState.VERIFIED, CaseState.USED)
    if event in _CASE_STEPS and not ahead:
        step, guard = _CASE_STEPS[event]
        cases.move(connection, case, step, actor=actor, now=now, guards={guard: True}, data={"item": item.id})
    elif event == "discard" and item.use is not None and case.state is CaseState.VERIFIED:
        cases.move(
            connection,
            case,
            CaseEvent.CLOSE,
            actor=actor,
            now=now,
            guards={"item_discarded": True},
            data={"item": item.id},
        )
    else:
        cases.note(
            connection,
            case,
            event=f"item_{event}",
            actor=actor,
            now=now,
            data={"item": item.id, "to": item.state.value},
        )


def close_case(app: App, case_id: str, actor: Actor) -> Case:
    """Close a case by hand, when its model was discarded before the scan was verified."""
    with transaction(app.engine) as connection:
        case = cases.get(connection, case_id)
        items = sterile.items_of_case(connection, case_id)
        gone = bool(items) and all(i.state is ItemState.DISCARDED for i in items)
        return cases.move(
            connection,
            case,
            CaseEvent.CLOSE,
            actor=actor,
            now=app.clock.now(),
            guards={"item_discarded": gone},
        )


def _keep(
    connection: Connection,
    app: App,
    record: Any,
    seen_version: int,
    event: str,
    actor: Actor,
    data: Mapping[str, object],
    signed: bool = False,
) -> None:
    # The moment of the step itself, so that the line of the audit and that of the history find each other.
    now = record.history[-1].at
    sterile.save(connection, record, seen_version, now)
    line: dict[str, object] = {"to": record.state.value, "data": dict(data)}
    if signed and needs_signature(sterile.KINDS[type(record)], event):
        line["signed"] = True
    audit.append(connection, at=now, actor=actor.name, subject=_subject(record), event=event, data=line)


def _subject(record: Any) -> str:
    return f"{sterile.KINDS[type(record)]}:{record.id}"


def _recalls(connection: Connection) -> tuple[rules.RecallSet, ...]:
    return rules.open_recalls(
        sterile.listed(connection, Load), sterile.listed(connection, BiologicalIndicator)
    )


def _role(app: App, actor: Actor, table: tuple[rules.Transition, ...], event: str, state: str) -> str:
    """The role of this person that may take the step; else any of theirs, so that the refusal names it."""
    held = sorted(r.value for r in (actor.roles or ()))
    wanted = [t for t in table if t.event == event and state in t.sources]
    fitting = [r for r in held if any(app.sterile_settings.holds(r, t.roles) for t in wanted)]
    return (fitting or held or ["none"])[0]


def _need_role(actor: Actor, names: tuple[str, ...]) -> None:
    if not {r.value for r in (actor.roles or ())} & set(names):
        raise NotAllowedError(
            f"This needs one of these roles: {', '.join(names)}.",
            code="auth.role",
            next_step="Ask a person with that role.",
        )
