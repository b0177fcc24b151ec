"""Two small machines: the biological indicator (BI) and the steriliser (facts sheet, section 2)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta

from service.domain import sterilisation_guards
from service.domain.sterilisation_load_guards import incubator_temp_ok
from service.domain.sterilisation_model import (
    BiologicalIndicator,
    BiState,
    Steriliser,
    SteriliserState,
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

B = BiState
V = SteriliserState
_REASON = FieldSpec("reason", "text", "why, in words")
_NOTE = FieldSpec("reason", "text", "remark", required=False)

BI_TRANSITIONS: tuple[Transition, ...] = (
    Transition(
        (B.PENDING,),
        "start_incubation",
        B.PENDING,
        ("cssd_tech",),
        ("not_incubating", "started_not_in_future", "control_named"),
        (
            FieldSpec("incubator_id", "text", "incubator or reader, e.g. 390G-1"),
            FieldSpec("started_at", "time", "start of incubation"),
            FieldSpec("control_lot", "text", "lot of the unprocessed control incubated alongside"),
            _NOTE,
        ),
    ),
    Transition(
        (B.PENDING,),
        "read",
        "",
        ("cssd_tech",),
        ("incubation_started", "not_read_too_early"),
        (
            FieldSpec("growth", "flag", "growth in the processed indicator"),
            FieldSpec("control_growth", "flag", "growth in the control"),
            FieldSpec("read_at", "time", "time of the reading"),
            FieldSpec(
                "incubator_min_c", "number", "lowest incubator temperature, °C (not for readers)", False
            ),
            FieldSpec(
                "incubator_max_c", "number", "highest incubator temperature, °C (not for readers)", False
            ),
            _NOTE,
        ),
        "Growth is POSITIVE; no growth is NEGATIVE only with a grown control of the same lot, full time and "
        "temperature, else INVALID.",
    ),
    Transition((B.PENDING,), "mark_invalid", B.INVALID, ("cssd_tech",), ("reason",), (_REASON,)),
    Transition(
        (B.NEGATIVE, B.INVALID),
        "late_positive",
        B.POSITIVE,
        ("cssd_tech",),
        ("reason",),
        (_REASON,),
        "Growth seen after the reading. There is no way from INVALID or POSITIVE to NEGATIVE.",
    ),
)

STERILISER_TRANSITIONS: tuple[Transition, ...] = (
    Transition(
        (V.IN_SERVICE,),
        "take_out_of_service",
        V.OUT_OF_SERVICE,
        ("cssd_supervisor", "system"),
        ("reason",),
        (
            _REASON,
            FieldSpec("last_cycle", "integer", "number of the last cycle run", required=False),
        ),
    ),
    Transition(
        (V.OUT_OF_SERVICE,),
        "return_to_service",
        V.IN_SERVICE,
        ("cssd_supervisor",),
        ("repair_documented", "empty_cycles_negative"),
        (
            FieldSpec("repair_reference", "text", "repair or maintenance record"),
            FieldSpec("bi_ids", "texts", "indicators of the consecutive empty-chamber cycles"),
            _NOTE,
        ),
        signed=True,
    ),
)


@guard("not_incubating", "data")
def not_incubating(facts: Facts) -> str | None:
    started = facts.bi is None or facts.bi.incubation_started_at is not None
    return "Incubation was started already." if started else None


@guard("started_not_in_future", "data")
def started_not_in_future(facts: Facts) -> str | None:
    started = facts.time("started_at")
    fine = started is not None and started <= facts.now
    return None if fine else "Incubation cannot start in the future."


@guard("control_named", "data")
def control_named(facts: Facts) -> str | None:
    return None if facts.text("control_lot") else "An unprocessed control must be incubated alongside."


@guard("incubation_started", "data")
def incubation_started(facts: Facts) -> str | None:
    started = facts.bi is not None and facts.bi.incubation_started_at is not None
    return None if started else "The indicator was not put into the incubator; mark it invalid."


@guard("not_read_too_early", "data")
def not_read_too_early(facts: Facts) -> str | None:
    """Growth counts at any time; 'no growth' only after the full readout time."""
    spec = facts.settings.indicator(facts.bi.product) if facts.bi else None
    read_at = facts.time("read_at")
    if facts.bi is None or spec is None or read_at is None or facts.bi.incubation_started_at is None:
        return "The incubation times of the indicator are not known."
    if not facts.bi.incubation_started_at <= read_at <= facts.now:
        return "The reading lies before the incubation or in the future."
    due = facts.bi.incubation_started_at + timedelta(hours=spec.hours)
    if facts.data.get("growth") is False and read_at < due:
        return f"No growth counts only after {spec.hours:g} h; read again after {due:%Y-%m-%d %H:%M} UTC."
    return None


@guard("repair_documented", "data")
def repair_documented(facts: Facts) -> str | None:
    return None if facts.text("repair_reference") else "The repair must be documented."


@guard("empty_cycles_negative", "data")
def empty_cycles_negative(facts: Facts) -> str | None:
    """Consecutive negative indicators of this device, all run after it went out of service."""
    needed, device = facts.settings.return_to_service_cycles, facts.steriliser
    ids = facts.texts("bi_ids")
    if device is None or device.out_of_service_since is None or ids is None:
        return "The outage or the indicators are not recorded."
    found = [b for b in facts.bis if b.id in ids]
    since = device.out_of_service_since
    good = [
        b
        for b in found
        if b.steriliser_id == device.id
        and b.state is BiState.NEGATIVE
        and b.incubation_started_at is not None
        and b.incubation_started_at >= since
        and (device.last_cycle_before_outage is None or b.cycle_number > device.last_cycle_before_outage)
    ]
    cycles = sorted(b.cycle_number for b in good)
    consecutive = cycles == list(range(cycles[0], cycles[0] + len(cycles))) if cycles else False
    if len(good) != len(set(ids)) or len(cycles) < needed or not consecutive:
        return f"{needed} consecutive negative indicators of empty cycles after the outage are needed."
    return None


def apply_bi(
    bi: BiologicalIndicator,
    event: str,
    data: Mapping[str, object],
    actor: str,
    role: str,
    now: datetime,
    settings: SterilisationSettings,
) -> BiologicalIndicator:
    """The indicator after one signed event. Parameters and errors as `sterilisation_item.apply_item`."""
    transition, values = admit(BI_TRANSITIONS, bi.state, event, data, actor, role, now, settings)
    facts = Facts(event, values, actor, role, now, settings, bi=bi)
    check_guards(transition, facts)
    changed, target = bi, transition.target
    if event == "start_incubation":
        changed = replace(
            bi,
            incubator_id=facts.text("incubator_id"),
            incubation_started_at=facts.time("started_at"),
            control_lot=facts.text("control_lot"),
        )
    elif event == "read":
        changed = replace(
            bi,
            read_at=facts.time("read_at"),
            incubator_min_c=facts.number("incubator_min_c"),
            incubator_max_c=facts.number("incubator_max_c"),
            growth=facts.flag("growth"),
            control_growth=facts.flag("control_growth"),
        )
        target = _result(changed, replace(facts, bi=changed))
    elif event == "late_positive":
        changed = replace(bi, growth=True)
    line = entry(event, bi.state, target, actor, role, now, values)
    return replace(changed, state=BiState(target), history=(*bi.history, line), version=bi.version + 1)


def _result(bi: BiologicalIndicator, facts: Facts) -> BiState:
    if bi.growth:
        return BiState.POSITIVE
    same_lot = bool(bi.lot) and bi.lot == bi.control_lot
    in_date = bi.incubation_started_at is not None and bi.incubation_started_at < bi.expires_at
    sound = bi.control_growth and same_lot and in_date and incubator_temp_ok.check(facts) is None
    return BiState.NEGATIVE if sound else BiState.INVALID


def apply_steriliser(
    steriliser: Steriliser,
    event: str,
    data: Mapping[str, object],
    actor: str,
    role: str,
    now: datetime,
    settings: SterilisationSettings,
    *,
    bis: tuple[BiologicalIndicator, ...] = (),
) -> Steriliser:
    """The steriliser after one signed event; `bis` are its indicators (for `return_to_service`)."""
    transition, values = admit(
        STERILISER_TRANSITIONS, steriliser.state, event, data, actor, role, now, settings
    )
    facts = Facts(event, values, actor, role, now, settings, steriliser=steriliser, bis=bis)
    check_guards(transition, facts)
    last = values.get("last_cycle")
    out = event == "take_out_of_service"
    line = entry(event, steriliser.state, transition.target, actor, role, now, values)
    return replace(
        steriliser,
        state=SteriliserState(transition.target),
        out_of_service_since=now if out else None,
        last_cycle_before_outage=last if out and isinstance(last, int) else None,
        history=(*steriliser.history, line),
        version=steriliser.version + 1,
    )
