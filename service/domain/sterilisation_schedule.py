"""When a part must be printed for a surgery date, what it waits for now, and until when.

The way back from the operation: issue, release, the longer of aeration and incubation (they run side by side), the
cycle, packing and inspection, the print. All of it comes from the settings, with their marks: hours of people and of
the chamber around the exposure are proposals (P) that a site replaces by its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from service.domain.sterilisation_model import BiologicalIndicator, BiState, Item, ItemState, Load, LoadState
from service.domain.sterilisation_settings import SterilisationSettings


@dataclass(frozen=True)
class Plan:
    """Latest moments, UTC, for an operation at `surgery_at`, when nothing goes wrong."""

    surgery_at: datetime
    latest_release: datetime
    latest_cycle_start: datetime
    latest_print_start: datetime


@dataclass(frozen=True)
class Wait:
    """`sentence` says in one sentence what is waited for; `due_at` when it can go on (None: when people act)."""

    sentence: str
    since: datetime
    due_at: datetime | None
    overdue: bool


def plan_back(
    surgery_at: datetime, settings: SterilisationSettings, *, print_h: float | None = None
) -> Plan | None:
    """The latest start of each step, by the cycle, aeration and indicator the site counts with (`plan_...`).

    `print_h` is the time of the sliced file, once it is known. None when the cycle, the aeration or the indicator
    has no known time.
    """
    cycle, spec = settings.cycle(settings.plan_cycle), settings.indicator(settings.plan_indicator)
    aeration_h = settings.aeration_hours(settings.plan_aeration_c)
    if cycle is None or spec is None or aeration_h is None:
        return None
    release = surgery_at - timedelta(hours=settings.issue_h)
    side_by_side_h = max(aeration_h, spec.hours)
    start = release - timedelta(
        hours=settings.release_h + side_by_side_h + cycle.exposure_min / 60.0 + settings.chamber_h
    )
    took_h = settings.print_h if print_h is None else print_h
    return Plan(surgery_at, release, start, start - timedelta(hours=settings.inspect_and_pack_h + took_h))


def aeration_due(load: Load, settings: SterilisationSettings) -> datetime | None:
    """Earliest end of the running aeration by its set temperature; the log decides later. None: no time is known."""
    record = load.aeration
    if record is None or record.started_at is None or record.set_c is None:
        return None
    hours = settings.aeration_hours(record.set_c)
    return None if hours is None else record.started_at + timedelta(hours=hours)


def readout_due(bi: BiologicalIndicator, settings: SterilisationSettings) -> datetime | None:
    spec = settings.indicator(bi.product)
    if spec is None or bi.incubation_started_at is None:
        return None
    return bi.incubation_started_at + timedelta(hours=spec.hours)


#: What people have to do next, by state of the item.
_PEOPLE: Mapping[ItemState, str] = {
    ItemState.PRINTED: "Waits for a second person to inspect the print.",
    ItemState.QA_PASSED: "Waits for sterile services to pack it.",
    ItemState.PACKED: "Waits to be put into an open load of a steriliser in service.",
    ItemState.EXPOSED: "The cycle is over: waits for aeration to be started.",
    ItemState.RELEASED: "Released: waits to be issued at the door of the operating room.",
    ItemState.ISSUED: "In the operating room: waits to be used or given back unopened.",
    ItemState.USED: "Used: waits to be discarded, which closes the case.",
    ItemState.REJECTED: "Rejected at inspection: waits to be discarded.",
    ItemState.NONSTERILE: "Not sterile: waits to be discarded, and a new print is needed.",
    ItemState.RECALLED: "Recalled: waits to be brought back to sterile services. Do not use it.",
}
#: States in which a pack may rest by intention, so that no alarm is raised.
_MAY_REST = frozenset({ItemState.RELEASED, ItemState.ISSUED})


def why_waiting(
    item: Item,
    load: Load | None,
    bi: BiologicalIndicator | None,
    now: datetime,
    settings: SterilisationSettings,
) -> Wait | None:
    """What this item waits for; None when it is discarded."""
    if item.state is ItemState.DISCARDED:
        return None
    since = item.history[-1].at if item.history else now
    sentence, due = _process(item, load, bi, now, settings)
    if due is not None and due > now:
        return Wait(sentence, since, due, overdue=False)
    late_from = max(since, due) if due is not None else since
    rests = item.state in _MAY_REST
    overdue = not rests and now - late_from > timedelta(hours=settings.overdue_after_h)
    return Wait(sentence, since, due, overdue)


def _process(
    item: Item,
    load: Load | None,
    bi: BiologicalIndicator | None,
    now: datetime,
    settings: SterilisationSettings,
) -> tuple[str, datetime | None]:
    if item.state is ItemState.LOADED:
        return _in_chamber(load, settings)
    if item.state is ItemState.AERATING and load is not None:
        due = aeration_due(load, settings)
        if due is None:
            return "Aerating, but no aeration time is known for this temperature: ask the supervisor.", None
        if due > now:
            return "Aerating.", due
        return "Aeration time is over: waits for the end of aeration to be recorded.", due
    if item.state is ItemState.QUARANTINED:
        return _in_quarantine(load, bi, now, settings)
    return _PEOPLE.get(item.state, "Waits for the next step in sterile services."), None


def _in_chamber(load: Load | None, settings: SterilisationSettings) -> tuple[str, datetime | None]:
    if load is None or load.state is not LoadState.RUNNING:
        return "In the chamber list: waits for the cycle to be started.", None
    cycle = settings.cycle(load.cycle_name)
    started = next((h.at for h in reversed(load.history) if h.event == "start"), None)
    due = None if cycle is None or started is None else started + timedelta(minutes=cycle.exposure_min)
    return f"Cycle {load.cycle_number} is running, or its record is still to be entered.", due


def _in_quarantine(
    load: Load | None, bi: BiologicalIndicator | None, now: datetime, settings: SterilisationSettings
) -> tuple[str, datetime | None]:
    if load is not None and load.state is LoadState.RELEASED:
        return "The load is released: waits for a supervisor to release this pack.", None
    if bi is None or bi.incubation_started_at is None:
        return "In quarantine: the biological indicator was not put into the incubator yet.", None
    if bi.state is BiState.PENDING:
        due = readout_due(bi, settings)
        if due is not None and due > now:
            return "In quarantine: the biological indicator is incubating.", due
        return "In quarantine: the biological indicator is ready to be read.", due
    if bi.state is BiState.NEGATIVE:
        return (
            "In quarantine: the indicator is negative; waits for a second person to release the load.",
            None,
        )
    return f"In quarantine: the indicator is {bi.state.value.lower()}, so the load cannot be released.", None
