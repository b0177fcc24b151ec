"""The load machine: one steriliser run from open chamber to release or failure (facts sheet, section 2)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime

from service.domain import sterilisation_guards
from service.domain.sterilisation_load_guards import aeration_record, cycle_record
from service.domain.sterilisation_model import (
    BiologicalIndicator,
    Item,
    Load,
    LoadState,
    RecallSet,
    Steriliser,
)
from service.domain.sterilisation_settings import SterilisationSettings
from service.domain.sterilisation_table import (
    Facts,
    FieldSpec,
    Transition,
    admit,
    check_guards,
    entry,
    guard,
)

GUARD_MODULES = (sterilisation_guards,)

S = LoadState
_REASON = FieldSpec("reason", "text", "why, in words")
_NOTE = FieldSpec("reason", "text", "remark", required=False)

LOAD_RELEASE_GUARDS = (
    "cycle_pass",
    "aeration_pass",
    "bi_negative",
    "control_positive",
    "control_same_lot",
    "readout_time_met",
    "incubator_temp_ok",
    "pcd_ci_pass",
    "no_open_recall",
    "releaser_ne_operator",
)

LOAD_TRANSITIONS: tuple[Transition, ...] = (
    Transition(
        (S.OPEN,),
        "add_item",
        S.OPEN,
        ("cssd_tech",),
        ("item_not_in_load", "routine_load", "steriliser_in_service"),
        (FieldSpec("item_id", "text", "the packed item"), _NOTE),
        "Put a packed item into the chamber list; the item's own `load` event judges whether it may run.",
    ),
    Transition(
        (S.OPEN,),
        "remove_item",
        S.OPEN,
        ("cssd_tech",),
        ("item_in_load", "item_not_loaded"),
        (FieldSpec("item_id", "text", "the item taken out"), _REASON),
        "Take out an item that was listed but not accepted.",
    ),
    Transition(
        (S.OPEN,),
        "place_bi",
        S.OPEN,
        ("cssd_tech",),
        (),
        (
            FieldSpec("pcd_id", "text", "process challenge device"),
            FieldSpec("bi_id", "text", "biological indicator inside it"),
            _NOTE,
        ),
        "Place the challenge device with its indicator.",
    ),
    Transition(
        (S.OPEN,),
        "start",
        S.RUNNING,
        ("cssd_tech",),
        (
            "steriliser_in_service",
            "load_has_items",
            "exposure_temp_ok",
            "aeration_temp_ok",
            "pcd_and_bi_present",
            "bi_in_date",
        ),
        (_NOTE,),
    ),
    Transition(
        (S.RUNNING,),
        "finish_cycle",
        S.EXPOSED,
        ("cssd_tech",),
        ("cycle_record_complete", "all_parameters_in_window", "no_alarm", "max_temp_ok"),
        (
            FieldSpec("started_at", "time", "start of the cycle"),
            FieldSpec("ended_at", "time", "end of the cycle"),
            FieldSpec("exposure_min", "number", "exposure, minutes"),
            FieldSpec("min_c", "number", "lowest temperature, °C"),
            FieldSpec("max_c", "number", "highest temperature, °C"),
            FieldSpec("min_humidity_pct", "number", "lowest relative humidity, %"),
            FieldSpec("max_humidity_pct", "number", "highest relative humidity, %"),
            FieldSpec("eto_mg_l", "number", "EtO concentration, mg/L", required=False),
            FieldSpec("dose_g", "number", "EtO dose, g", required=False),
            FieldSpec("alarms", "texts", "alarms of the device; an empty list for none"),
            FieldSpec("record_source", "text", "printout or file the values come from", required=False),
            _NOTE,
        ),
        "Enter the steriliser's record; outside its window the load must be aborted instead.",
        signed=True,
    ),
    Transition((S.OPEN, S.RUNNING), "abort", S.ABORTED, ("cssd_tech", "system"), ("reason",), (_REASON,)),
    Transition(
        (S.EXPOSED,),
        "start_aeration",
        S.AERATING,
        ("cssd_tech",),
        ("aerator_id", "temp_ok"),
        (
            FieldSpec("aerator_id", "text", "the aerator, or the room"),
            FieldSpec("set_c", "number", "set temperature, °C"),
            FieldSpec("started_at", "time", "start of aeration"),
            _NOTE,
        ),
    ),
    Transition(
        (S.AERATING,),
        "finish_aeration",
        S.AERATED,
        ("cssd_tech",),
        ("aeration_hours_ok", "max_temp_ok"),
        (
            FieldSpec("ended_at", "time", "end of aeration"),
            FieldSpec("min_c", "number", "lowest temperature of the log, °C"),
            FieldSpec("max_c", "number", "highest temperature of the log, °C"),
            _NOTE,
        ),
    ),
    Transition(
        (S.AERATED,),
        "release",
        S.RELEASED,
        ("cssd_supervisor",),
        LOAD_RELEASE_GUARDS,
        (FieldSpec("pcd_ci_pass", "flag", "chemical indicator of the challenge device passed"), _NOTE),
        "A supervisor who did not run the load releases it on a negative indicator and a grown control.",
        signed=True,
    ),
    Transition(
        (S.EXPOSED, S.AERATING, S.AERATED, S.RELEASED),
        "fail",
        S.FAILED,
        ("cssd_supervisor", "system"),
        ("reason",),
        (_REASON,),
        "Failed indicator, hot aeration, or a late positive after release.",
    ),
)


@guard("item_not_in_load", "data")
def item_not_in_load(facts: Facts) -> str | None:
    listed = facts.load is None or facts.text("item_id") in facts.load.item_ids
    return "The item is listed in this load already." if listed else None


@guard("item_in_load", "data")
def item_in_load(facts: Facts) -> str | None:
    listed = facts.load is not None and facts.text("item_id") in facts.load.item_ids
    return None if listed else "The item is not in this load."


@guard("item_not_loaded", "state")
def item_not_loaded(facts: Facts) -> str | None:
    if facts.item is None or facts.load is None or facts.item.id != facts.text("item_id"):
        return "The item to take out is not known."
    loaded = facts.item.load_id == facts.load.id
    return "The item was accepted into the load and stays; abort the load." if loaded else None


@guard("routine_load", "data")
def routine_load(facts: Facts) -> str | None:
    routine = facts.load is not None and facts.load.purpose == "routine"
    return None if routine else "A qualification load stays empty."


def apply_load(
    load: Load,
    event: str,
    data: Mapping[str, object],
    actor: str,
    role: str,
    now: datetime,
    settings: SterilisationSettings,
    *,
    bi: BiologicalIndicator | None = None,
    steriliser: Steriliser | None = None,
    recalls: tuple[RecallSet, ...] | None = None,
    item: Item | None = None,
) -> Load:
    """The load after one signed event. Parameters and errors as `sterilisation_item.apply_item`.

    `item` is needed by `remove_item` only. Temperatures are judged against the strictest known material.
    """
    transition, values = admit(LOAD_TRANSITIONS, load.state, event, data, actor, role, now, settings)
    # The limits of a load do not depend on one item, so only `remove_item` looks at it.
    seen = item if event == "remove_item" else None
    facts = Facts(event, values, actor, role, now, settings, seen, load, bi, steriliser, recalls)
    check_guards(transition, facts)
    effect = _EFFECTS.get(event)
    changed = effect(load, facts) if effect else load
    operates = "cssd_tech" in transition.roles and role != "system"
    operators = changed.operators
    if operates and actor not in operators:
        operators = (*operators, actor)
    line = entry(event, load.state, transition.target, actor, role, now, values)
    return replace(
        changed,
        state=LoadState(transition.target),
        operators=operators,
        history=(*load.history, line),
        version=load.version + 1,
    )


_EFFECTS: Mapping[str, Callable[[Load, Facts], Load]] = {
    "add_item": lambda load, f: replace(load, item_ids=(*load.item_ids, f.text("item_id"))),
    "remove_item": lambda load, f: replace(
        load, item_ids=tuple(i for i in load.item_ids if i != f.text("item_id"))
    ),
    "place_bi": lambda load, f: replace(load, pcd_id=f.text("pcd_id"), bi_id=f.text("bi_id")),
    "finish_cycle": lambda load, f: replace(load, cycle=cycle_record(f)),
    "start_aeration": lambda load, f: replace(load, aeration=aeration_record(f)),
    "finish_aeration": lambda load, f: replace(load, aeration=aeration_record(f)),
}
