"""Settings of sterile services that contradict themselves; asked once, at the start of the service."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import pairwise

from service.domain.sterilisation_settings import CycleSpec, IndicatorSpec, SterilisationSettings

#: What PLA may see without the site's own evidence (facts sheet, section 1; mark P).
_PLA_LIMIT_C = 45.0
#: CDC's general operating window of EtO (H). The labelling of a device wins, so outside it is a remark, not a fault.
_WINDOW_C, _WINDOW_MG_L, _WINDOW_MIN = (37.0, 63.0), (450.0, 1200.0), (60.0, 360.0)


def faults(settings: SterilisationSettings) -> list[str]:
    """Every contradiction, each beginning with the key concerned; empty when there is none."""
    return [
        *(f for cycle in settings.cycles for f in _cycle(cycle)),
        *_repeated("cycles", (c.name for c in settings.cycles)),
        *_aeration(settings),
        *(f for spec in settings.indicators for f in _indicator(spec)),
        *_repeated("indicators", (i.name for i in settings.indicators)),
        *_materials(settings),
        *_schedule(settings),
        *(
            f"{name}: the lower end must come first"
            for name in ("channel_mm", "walls_solid_ratio")
            if not 0 < getattr(settings, name)[0] < getattr(settings, name)[1]
        ),
        *_own_sources(settings),
    ]


def remarks(cycle: CycleSpec) -> list[str]:
    """What a supervisor should know about a cycle that is allowed all the same."""
    found = []
    if cycle.tolerance_c is None:
        found.append("no tolerance is stated: refused until the site supplies it")
    if cycle.humidity_pct is None or (cycle.eto_mg_l is None and cycle.dose_g is None):
        found.append("no humidity or sterilant window is stated: refused until the site supplies it")
    outside = (
        not _WINDOW_C[0] <= cycle.low_c <= cycle.high_c <= _WINDOW_C[1]
        or not _WINDOW_MIN[0] <= cycle.exposure_min <= _WINDOW_MIN[1]
        or (cycle.eto_mg_l is not None and not _WINDOW_MG_L[0] <= cycle.eto_mg_l <= _WINDOW_MG_L[1])
    )
    if outside:
        found.append(
            "outside CDC's general window (37-63 °C, 450-1200 mg/L, 1-6 h); the device's labelling wins"
        )
    return found


def _cycle(cycle: CycleSpec) -> Iterator[str]:
    where = f"cycles.{cycle.name}"
    if cycle.low_c > cycle.high_c:
        yield f"{where}: low_c is above high_c"
    if not cycle.exposure_min > 0:
        yield f"{where}: exposure_min must be above 0"
    if cycle.tolerance_c is not None and cycle.tolerance_c < 0:
        yield f"{where}: tolerance_c must not be negative"
    if cycle.eto_mg_l is not None and cycle.dose_g is not None:
        yield f"{where}: give eto_mg_l or dose_g, not both"
    if cycle.humidity_pct is not None and not 0 <= cycle.humidity_pct[0] < cycle.humidity_pct[1] <= 100:
        yield f"{where}: humidity_pct must be two percentages, the lower first"


def _aeration(settings: SterilisationSettings) -> Iterator[str]:
    rows = settings.aeration
    if not rows:
        yield "aeration: at least one row is needed"
    for colder, warmer in pairwise(sorted(rows, key=lambda r: r.from_c)):
        if colder.from_c == warmer.from_c:
            yield f"aeration: two rows from {warmer.from_c:g} °C"
        elif warmer.hours > colder.hours:
            yield f"aeration: {warmer.from_c:g} °C asks for more hours than {colder.from_c:g} °C"
    yield from (f"aeration: hours from {r.from_c:g} °C must be above 0" for r in rows if not r.hours > 0)


def _indicator(spec: IndicatorSpec) -> Iterator[str]:
    where = f"indicators.{spec.name}"
    if not spec.hours > 0:
        yield f"{where}: hours must be above 0"
    if (spec.low_c is None) != (spec.high_c is None):
        yield f"{where}: low_c and high_c belong together"
    elif spec.low_c is None and not spec.reader:
        yield f"{where}: give the incubation temperatures, or the reader that has its own"
    elif spec.low_c is not None and spec.high_c is not None and spec.low_c >= spec.high_c:
        yield f"{where}: low_c must be below high_c"


def _materials(settings: SterilisationSettings) -> Iterator[str]:
    yield from _repeated("materials", (m.name for m in settings.materials))
    for material in settings.materials:
        if material.name.upper() == "PLA" and material.max_process_c > _PLA_LIMIT_C and material.mark != "S":
            yield (
                f"materials.PLA: above {_PLA_LIMIT_C:g} °C only with the site's own dimensional validation "
                '(mark = "S", and its report as source)'
            )


def _schedule(settings: SterilisationSettings) -> Iterator[str]:
    cycle = settings.cycle(settings.plan_cycle)
    if cycle is None:
        yield f"plan_cycle: {settings.plan_cycle!r} is not among the cycles"
    if settings.indicator(settings.plan_indicator) is None:
        yield f"plan_indicator: {settings.plan_indicator!r} is not among the indicators"
    if settings.aeration_hours(settings.plan_aeration_c) is None:
        yield f"plan_aeration_c: aeration at {settings.plan_aeration_c:g} °C is never complete by the table"
    limit = max((m.max_process_c for m in settings.materials), default=0.0)
    if cycle is not None and cycle.high_c > limit:
        yield f"plan_cycle: {cycle.name} runs at {cycle.high_c:g} °C, no material allows more than {limit:g} °C"
    if settings.plan_aeration_c > limit:
        yield f"plan_aeration_c: no material allows more than {limit:g} °C"


def _own_sources(settings: SterilisationSettings) -> Iterator[str]:
    """A changed number must not go on under the source of the number it replaces."""
    built_in = SterilisationSettings()
    for name, constant in built_in.constants().items():
        _mark, source = settings.stated.get(name, (constant.mark, constant.source))
        if getattr(settings, name) != getattr(built_in, name) and source == constant.source:
            yield f"{name}: the value is changed but the source is that of the built-in one; state your own"


def _repeated(key: str, names: Iterable[str]) -> Iterator[str]:
    listed = [n.lower() for n in names]
    yield from (f"{key}: {n!r} is listed twice" for n in sorted({n for n in listed if listed.count(n) > 1}))
