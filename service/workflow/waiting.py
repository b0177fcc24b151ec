"""Why each case is waiting, whether its surgery date can still be kept, and telling people what is overdue."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import datetime
from typing import Any

from sqlalchemy import Connection

from service.domain.case import ACTIVE, CaseState
from service.domain.sterilisation import BiologicalIndicator, Item, ItemState, Load
from service.domain.sterilisation_schedule import Plan, plan_back, why_waiting
from service.store import audit, blobs, cases, sterile
from service.store.cases import Case
from service.store.database import reading, transaction
from service.workflow.app import App

_BEFORE_PRINT = frozenset({
    CaseState.RECEIVING, CaseState.RECEIVED, CaseState.BUILDING, CaseState.PLAN_READY, CaseState.APPROVED,
    CaseState.SLICED,
})  # fmt: skip
_BEFORE_CYCLE = frozenset({
    ItemState.PRINTED, ItemState.QA_PASSED, ItemState.PACKED, ItemState.LOADED, ItemState.REJECTED,
    ItemState.NONSTERILE,
})  # fmt: skip
_GONE = (ItemState.DISCARDED,)


def list_waiting(app: App) -> list[dict[str, Any]]:
    """One row a running case: its items' waits, its plan back from the surgery date; most urgent first."""
    with reading(app.engine) as connection:
        rows = [_row(connection, app, case) for case in cases.listed(connection, states=ACTIVE)]
    return sorted(
        rows, key=lambda r: (not r["late"], r["surgery_at"] is None, r["surgery_at"] or "", r["code"])
    )


def _row(connection: Connection, app: App, case: Case) -> dict[str, Any]:
    now = app.clock.now()
    plan = _plan(connection, app, case)
    items = [_item_row(connection, app, item) for item in sterile.items_of_case(connection, case.id)]
    active = [i for i in items if i is not None]
    late, verdict = False, None
    if plan is not None:
        states = {i["state"] for i in active}
        released = bool(states & {ItemState.RELEASED, ItemState.ISSUED, ItemState.USED})
        what, limit = _next_limit(case, plan, states)
        late = now > limit and not released
        verdict = _verdict(what, limit, late, released)
    return {
        "case_id": case.id, "code": case.code, "state": case.state.value, "surgery_at": case.surgery_at,
        "plan": asdict(plan) if plan else None, "late": late, "verdict": verdict, "items": active,
    }  # fmt: skip


def schedule(connection: Connection, app: App, case: Case) -> dict[str, Any] | None:
    """Whether the surgery date can still be kept, in words, for the pages; None without a date, or at the end."""
    if case.surgery_at is None or case.state not in ACTIVE:
        return None
    row = _row(connection, app, case)
    plan = row["plan"]
    if plan is None:
        return {
            "late": False,
            "verdict": "No latest start is known: a time of sterile services is not configured.",
        }
    return {
        "late": row["late"], "verdict": row["verdict"], "latest_print_start": plan["latest_print_start"].isoformat(),
        "latest_cycle_start": plan["latest_cycle_start"].isoformat(),
        "latest_release": plan["latest_release"].isoformat(),
    }  # fmt: skip


def _next_limit(case: Case, plan: Plan, states: set[ItemState]) -> tuple[str, datetime]:
    """The next step that must not come later than its moment of the plan, in words."""
    if case.state in _BEFORE_PRINT:
        return "the print {} start", plan.latest_print_start
    if not states or states & _BEFORE_CYCLE:
        return "the cycle {} start", plan.latest_cycle_start
    return "the pack {} be released", plan.latest_release


def _verdict(what: str, limit: datetime, late: bool, released: bool) -> str:
    if released:
        return "A pack is released for this operation."
    said = f"{limit:%Y-%m-%d %H:%M} UTC"
    if late:
        return f"Too late: {what.format('had to')} by {said}."
    return f"{what.format('must')[0].upper()}{what.format('must')[1:]} by {said}."


def _item_row(connection: Connection, app: App, item: Item) -> dict[str, Any] | None:
    load = sterile.maybe(connection, Load, item.load_id) if item.load_id else None
    bi = sterile.maybe(connection, BiologicalIndicator, load.bi_id) if load and load.bi_id else None
    wait = why_waiting(item, load, bi, app.clock.now(), app.sterile_settings)
    return None if wait is None else {"item_id": item.id, "state": item.state, **asdict(wait)}


def _plan(connection: Connection, app: App, case: Case) -> Plan | None:
    """Back from the surgery date; with the time of the sliced print once it is known."""
    if case.surgery_at is None:
        return None
    print_h = None
    report = blobs.current(connection, case.id).get("gcode_report")
    if report is not None:
        seconds = json.loads(report.path.read_text("utf-8")).get("print_time_s")
        if isinstance(seconds, int | float) and seconds > 0:
            print_h = seconds / 3600.0
    return plan_back(case.surgery_at, app.sterile_settings, print_h=print_h)


def tell_overdue(app: App) -> list[str]:
    """Tell people once about each wait that is overdue; returns the items told about.

    That they were told stands in the audit chain, so that a restart does not tell them again.
    """
    told: list[tuple[str, str]] = []
    with transaction(app.engine) as connection:
        for item in sterile.listed(connection, Item):
            row = _item_row(connection, app, item) if item.state not in _GONE else None
            if row is None or not row["overdue"] or _was_told(connection, item, row):
                continue
            audit.append(
                connection, at=app.clock.now(), actor="system:overdue", subject=f"item:{item.id}", event="overdue",
                data={"since": row["since"].isoformat(), "wait": row["sentence"]},
            )  # fmt: skip
            told.append((item.id, row["sentence"]))
    for item_id, sentence in told:
        app.notifier.notify("overdue", f"Item {item_id}: {sentence}")
    return [item_id for item_id, _ in told]


def _was_told(connection: Connection, item: Item, row: dict[str, Any]) -> bool:
    said = {"since": row["since"].isoformat(), "wait": row["sentence"]}
    return any(r.event == "overdue" and r.data == said for r in audit.history(connection, f"item:{item.id}"))
