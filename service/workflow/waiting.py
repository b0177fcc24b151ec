"""Why each case is waiting, whether its surgery date can still be kept, and telling people what is overdue."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from sqlalchemy import Connection

from service.domain.case import ACTIVE, CaseState
from service.domain.sterilisation import BiologicalIndicator, Item, ItemState, Load
from service.domain.sterilisation_schedule import Handling, Plan, plan_back, why_waiting
from service.store import audit, blobs, cases, sterile
from service.store.cases import Case
from service.store.database import reading, transaction
from service.workflow.app import App
from service.workflow.sterilise import SETTINGS

HANDLING = Handling()
#: What a plan assumes before a load is chosen: the cool cycle, the slowest indicator, aeration in the chamber.
CYCLE, AERATION_C, INDICATOR = "GS5_COOL", 38.0, "EZTEST"
_BEFORE_PRINT = frozenset({
    CaseState.RECEIVING, CaseState.RECEIVED, CaseState.BUILDING, CaseState.PLAN_READY, CaseState.APPROVED,
    CaseState.SLICED,
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
    plan = _plan(connection, case)
    items = [_item_row(connection, app, item) for item in sterile.items_of_case(connection, case.id)]
    active = [i for i in items if i is not None]
    late, verdict = False, None
    if plan is not None:
        limit = plan.latest_print_start if case.state in _BEFORE_PRINT else plan.latest_release
        released = any(i["state"] in (ItemState.RELEASED, ItemState.ISSUED, ItemState.USED) for i in active)
        late = now > limit and not released
        verdict = _verdict(case, plan, late, released)
    return {
        "case_id": case.id, "code": case.code, "state": case.state.value, "surgery_at": case.surgery_at,
        "plan": asdict(plan) if plan else None, "late": late, "verdict": verdict, "items": active,
    }  # fmt: skip


def _verdict(case: Case, plan: Plan, late: bool, released: bool) -> str:
    if released:
        return "A pack is released for this operation."
    if case.state in _BEFORE_PRINT:
        said = f"{plan.latest_print_start:%Y-%m-%d %H:%M} UTC"
        return f"Too late: the print had to start by {said}." if late else f"The print must start by {said}."
    said = f"{plan.latest_release:%Y-%m-%d %H:%M} UTC"
    return f"Too late: the pack had to be released by {said}." if late else f"Release is needed by {said}."


def _item_row(connection: Connection, app: App, item: Item) -> dict[str, Any] | None:
    load = sterile.maybe(connection, Load, item.load_id) if item.load_id else None
    bi = sterile.maybe(connection, BiologicalIndicator, load.bi_id) if load and load.bi_id else None
    wait = why_waiting(item, load, bi, app.clock.now(), SETTINGS, HANDLING)
    return None if wait is None else {"item_id": item.id, "state": item.state, **asdict(wait)}


def _plan(connection: Connection, case: Case) -> Plan | None:
    """Back from the surgery date; with the time of the sliced print once it is known."""
    if case.surgery_at is None:
        return None
    handling = HANDLING
    report = blobs.current(connection, case.id).get("gcode_report")
    if report is not None:
        seconds = json.loads(report.path.read_text("utf-8")).get("print_time_s")
        if isinstance(seconds, int | float) and seconds > 0:
            handling = Handling(print_h=seconds / 3600.0)
    return plan_back(
        case.surgery_at, SETTINGS, cycle_name=CYCLE, aeration_c=AERATION_C, indicator=INDICATOR, handling=handling
    )  # fmt: skip


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
