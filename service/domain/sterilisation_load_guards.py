"""Guards about the run: cycle record, aeration, indicator and load release (facts sheet, section 2)."""

from __future__ import annotations

import math

from service.domain.sterilisation_guards import material_limit_c
from service.domain.sterilisation_model import (
    AerationRecord,
    BiologicalIndicator,
    BiState,
    CycleRecord,
    LoadState,
)
from service.domain.sterilisation_settings import CycleSpec
from service.domain.sterilisation_table import Facts, guard


def cycle_record(facts: Facts) -> CycleRecord | None:
    """The record being entered (load event `finish_cycle`), else that of the load."""
    if facts.event == "finish_cycle":
        return CycleRecord(
            started_at=facts.time("started_at"),
            ended_at=facts.time("ended_at"),
            exposure_min=facts.number("exposure_min"),
            min_c=facts.number("min_c"),
            max_c=facts.number("max_c"),
            min_humidity_pct=facts.number("min_humidity_pct"),
            max_humidity_pct=facts.number("max_humidity_pct"),
            eto_mg_l=facts.number("eto_mg_l"),
            dose_g=facts.number("dose_g"),
            alarms=facts.texts("alarms"),
            source=facts.text("record_source"),
        )
    return facts.load.cycle if facts.load else None


def aeration_record(facts: Facts) -> AerationRecord | None:
    """The aeration as it stands with the data of this event."""
    if facts.load is None:
        return None
    if facts.event == "start_aeration" and "aerator_id" in facts.data:
        return AerationRecord(facts.text("aerator_id"), facts.number("set_c"), facts.time("started_at"))
    known = facts.load.aeration
    if known is None or facts.event != "finish_aeration" or "ended_at" not in facts.data:
        return known
    return AerationRecord(
        known.aerator_id,
        known.set_c,
        known.started_at,
        facts.time("ended_at"),
        facts.number("min_c"),
        facts.number("max_c"),
    )


@guard("cycle_record_complete", "data")
def cycle_record_complete(facts: Facts) -> str | None:
    record = cycle_record(facts)
    if record is None:
        return "There is no cycle record."
    missing = [
        name
        for name in (
            "started_at",
            "ended_at",
            "exposure_min",
            "min_c",
            "max_c",
            "min_humidity_pct",
            "max_humidity_pct",
        )
        if getattr(record, name) is None
    ]
    if record.eto_mg_l is None and record.dose_g is None:
        missing.append("eto_mg_l or dose_g")
    if missing:
        return f"The cycle record lacks {', '.join(missing)}."
    return _times_fit(facts, record)


def _times_fit(facts: Facts, record: CycleRecord) -> str | None:
    if record.started_at is None or record.ended_at is None or record.exposure_min is None:
        return "The cycle record lacks its times."
    if not record.started_at < record.ended_at <= facts.now:
        return "The cycle must end after it starts, and not in the future."
    lasted_min = (record.ended_at - record.started_at).total_seconds() / 60.0
    if record.exposure_min > lasted_min:
        return f"An exposure of {record.exposure_min:g} min does not fit a cycle of {lasted_min:g} min."
    return None


@guard("all_parameters_in_window", "data")
def all_parameters_in_window(facts: Facts) -> str | None:
    record = cycle_record(facts)
    cycle = facts.settings.cycle(facts.load.cycle_name) if facts.load else None
    if record is None or cycle is None:
        return "The cycle record or the catalogue entry is missing."
    faults = _outside(record, cycle)
    return f"Out of the window of {cycle.name}: {'; '.join(faults)}." if faults else None


def _outside(record: CycleRecord, cycle: CycleSpec) -> list[str]:
    humidity = cycle.humidity_pct or (math.nan, math.nan)
    nominal, measured = cycle.eto_mg_l, record.eto_mg_l
    if cycle.dose_g is not None:
        nominal, measured = cycle.dose_g, record.dose_g
    span = (cycle.sterilant_tolerance_pct or math.nan) / 100.0
    nominal = math.nan if nominal is None else nominal
    rows = (
        ("lowest °C", record.min_c, cycle.coldest_c, cycle.hottest_c),
        ("highest °C", record.max_c, cycle.coldest_c, cycle.hottest_c),
        ("lowest humidity %", record.min_humidity_pct, *humidity),
        ("highest humidity %", record.max_humidity_pct, *humidity),
        ("exposure min", record.exposure_min, cycle.exposure_min, math.inf),
        ("EtO", measured, nominal * (1 - span), nominal * (1 + span)),
    )
    faults = []
    for name, value, low, high in rows:
        if low is None or high is None or math.isnan(low) or math.isnan(high):
            faults.append(f"{name}: the catalogue has no limits, the site must supply them")
        elif value is None:
            faults.append(f"{name}: not recorded")
        elif not low <= value <= high:
            faults.append(f"{name}: {value:g}, allowed {low:g} to {high:g}")
    if record.min_c is not None and record.max_c is not None and record.min_c > record.max_c:
        faults.append("lowest °C is above highest °C")
    return faults


@guard("no_alarm", "data")
def no_alarm(facts: Facts) -> str | None:
    record = cycle_record(facts)
    if record is None or record.alarms is None:
        return "It is not recorded whether there were alarms."
    return f"The steriliser reported: {', '.join(record.alarms)}." if record.alarms else None


@guard("max_temp_ok", "data")
def max_temp_ok(facts: Facts) -> str | None:
    """Highest recorded temperature of exposure, and of aeration once it is closed, within the material's limit."""
    limit = material_limit_c(facts)
    if limit is None:
        return "The temperature limit of the material is not known."
    closing = facts.event == "finish_aeration"
    record: CycleRecord | AerationRecord | None = aeration_record(facts) if closing else cycle_record(facts)
    hottest = record.max_c if record else None
    if hottest is None:
        return "The highest temperature was not recorded."
    return (
        None
        if hottest <= limit
        else (f"The item saw {hottest:g} °C; the material allows {limit:g} °C. It may have warped.")
    )


@guard("load_matches", "state")
def load_matches(facts: Facts) -> str | None:
    if facts.item is None or facts.load is None or not facts.item.load_id:
        return "The load of the item is not known."
    if facts.item.load_id != facts.load.id or facts.item.id not in facts.load.item_ids:
        return "The item is not in this load."
    return None


@guard("cycle_aborted_or_out_of_window", "state")
def cycle_aborted_or_out_of_window(facts: Facts) -> str | None:
    if facts.load is not None and facts.load.state in (LoadState.ABORTED, LoadState.FAILED):
        return None
    return "The load was neither aborted nor failed."


@guard("load_has_items", "data")
def load_has_items(facts: Facts) -> str | None:
    if facts.load is None:
        return "The load is not known."
    if facts.load.purpose == "qualification":
        return None if not facts.load.item_ids else "A qualification load stays empty."
    return None if facts.load.item_ids else "The load is empty."


@guard("aerator_id", "data")
def aerator_id(facts: Facts) -> str | None:
    record = aeration_record(facts)
    return None if record and record.aerator_id else "The aerator is not named."


@guard("temp_ok", "data")
def temp_ok(facts: Facts) -> str | None:
    record, limit = aeration_record(facts), material_limit_c(facts)
    if record is None or record.set_c is None or limit is None:
        return "The aeration temperature, or the limit of the material, is not known."
    if not record.set_c <= limit:
        return f"Aeration at {record.set_c:g} °C is hotter than the material allows ({limit:g} °C)."
    if facts.settings.aeration_hours(record.set_c) is None:
        return f"Aeration at {record.set_c:g} °C is never complete."
    ended = facts.load.cycle.ended_at if facts.load and facts.load.cycle else None
    if record.started_at is None or ended is None or not ended <= record.started_at <= facts.now:
        return "Aeration starts after the cycle has ended, and not in the future."
    return None


@guard("aeration_hours_ok", "data")
def aeration_hours_ok(facts: Facts) -> str | None:
    record = aeration_record(facts)
    if record is None or record.started_at is None or record.ended_at is None or record.min_c is None:
        return "Start, end or lowest temperature of the aeration is missing."
    if record.max_c is None or record.min_c > record.max_c:
        return "The aeration temperatures do not fit each other."
    if not record.started_at <= record.ended_at <= facts.now:
        return "Aeration must end after it starts, and not in the future."
    needed = facts.settings.aeration_hours(record.min_c)
    if needed is None:
        return f"At {record.min_c:g} °C aeration is never complete."
    hours = (record.ended_at - record.started_at).total_seconds() / 3600.0
    if not hours >= needed:
        return f"{hours:.1f} h at no less than {record.min_c:g} °C; the table asks for {needed:g} h."
    return None


# --- release of the load ---------------------------------------------------------------------------------


@guard("cycle_pass", "data")
def cycle_pass(facts: Facts) -> str | None:
    checks = (cycle_record_complete, all_parameters_in_window, no_alarm)
    return next((r for c in checks if (r := c.check(facts)) is not None), None)


@guard("aeration_pass", "data")
def aeration_pass(facts: Facts) -> str | None:
    reason = aeration_hours_ok.check(facts)
    record, limit = aeration_record(facts), material_limit_c(facts)
    if reason is None and (record is None or record.max_c is None or limit is None or record.max_c > limit):
        return "Aeration was hotter than the material allows, or not recorded."
    return reason


def _bi(facts: Facts) -> BiologicalIndicator | None:
    """The indicator, only if it is the one of this very load and run."""
    bi, load = facts.bi, facts.load
    if load is None:
        return bi
    if bi is None or bi.id != load.bi_id or bi.load_id != load.id or bi.cycle_number != load.cycle_number:
        return None
    return bi


@guard("bi_negative", "data")
def bi_negative(facts: Facts) -> str | None:
    bi = _bi(facts)
    if bi is None:
        return "The biological indicator of this load is missing."
    if bi.state is BiState.NEGATIVE and bi.growth is False:
        return None
    return f"The biological indicator is {bi.state}; only a negative one releases."


@guard("control_positive", "data")
def control_positive(facts: Facts) -> str | None:
    bi = _bi(facts)
    grown = bi is not None and bi.control_growth is True
    return None if grown else "The unprocessed control did not grow; the reading proves nothing."


@guard("control_same_lot", "data")
def control_same_lot(facts: Facts) -> str | None:
    bi = _bi(facts)
    same = bi is not None and bool(bi.lot) and bi.control_lot == bi.lot
    return None if same else "The control is not of the same lot as the indicator."


@guard("readout_time_met", "data")
def readout_time_met(facts: Facts) -> str | None:
    bi = _bi(facts)
    spec = facts.settings.indicator(bi.product) if bi else None
    if bi is None or spec is None or bi.incubation_started_at is None or bi.read_at is None:
        return "The incubation times of the indicator are not known."
    hours = (bi.read_at - bi.incubation_started_at).total_seconds() / 3600.0
    if bi.read_at > facts.now or not hours >= spec.hours:
        return f"The indicator was read after {hours:.1f} h; {spec.name} needs {spec.hours:g} h."
    return None


@guard("incubator_temp_ok", "data")
def incubator_temp_ok(facts: Facts) -> str | None:
    bi = _bi(facts)
    spec = facts.settings.indicator(bi.product) if bi else None
    if bi is None or spec is None or not bi.incubator_id:
        return "The incubator of the indicator is not known."
    if spec.low_c is None or spec.high_c is None:
        named = spec.reader and bi.incubator_id.startswith(spec.reader)
        return None if named else f"{spec.name} must be read in a {spec.reader} reader."
    if bi.incubator_min_c is None or bi.incubator_max_c is None:
        return "The incubator temperature was not recorded."
    if not spec.low_c <= bi.incubator_min_c <= bi.incubator_max_c <= spec.high_c:
        return (
            f"The incubator was at {bi.incubator_min_c:g} to {bi.incubator_max_c:g} °C; "
            f"{spec.name} needs {spec.low_c:g} to {spec.high_c:g} °C."
        )
    return None


@guard("pcd_ci_pass", "data")
def pcd_ci_pass(facts: Facts) -> str | None:
    if facts.flag("pcd_ci_pass"):
        return None
    return "The chemical indicator of the challenge device did not pass."


@guard("no_open_recall", "state")
def no_open_recall(facts: Facts) -> str | None:
    if facts.load is None or facts.recalls is None:
        return "It is not known whether a recall is open."
    hit = any(facts.load.id in r.load_ids for r in facts.recalls)
    return "The load is under recall." if hit else None


@guard("releaser_ne_operator", "person")
def releaser_ne_operator(facts: Facts) -> str | None:
    if facts.load is None or not facts.load.operators:
        return "It is not recorded who ran the load."
    if facts.actor in facts.load.operators:
        return "Who ran the load may not release it; a second person must."
    return None


@guard("load_released", "state")
def load_released(facts: Facts) -> str | None:
    if facts.load is None or facts.load.state is not LoadState.RELEASED:
        return "The load is not released."
    return load_matches.check(facts)


@guard("pack_external_ci_pass", "data")
def pack_external_ci_pass(facts: Facts) -> str | None:
    good = facts.flag("external_ci_pass")
    return None if good else "The chemical indicator outside the pack did not pass."
