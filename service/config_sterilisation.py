"""`[sterilisation]`: every number of sterile services with its value, the mark of its provenance, and its source.

    ct_max_age_days = { value = 21.0, mark = "S", source = "fracture board, minutes of 12 May" }

Marks: H official or primary source, M secondary source, P proposal of this software, U unverified, S the site's own
evidence. Without a key the built-in value holds. A listed cycle, indicator or material replaces the built-in one of the
same name or is added; the rows of `aeration` replace the whole table, since half a table would be nobody's.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Annotated, Any, TypeVar

from pydantic import Field, FiniteFloat, StringConstraints, model_validator

from service.config_base import Section
from service.domain import sterilisation_settings as site
from service.domain.sterilisation_settings import Mark, SterilisationSettings
from service.domain.sterilisation_settings_check import faults

Words = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200)]
_BUILT_IN = SterilisationSettings()


class Stated(Section):
    mark: Mark
    source: Words


class Number(Stated):
    value: Annotated[FiniteFloat, Field(ge=0)]


class Count(Stated):
    value: Annotated[int, Field(ge=0)]


class Name(Stated):
    value: Words


class Names(Stated):
    value: Annotated[tuple[Words, ...], Field(min_length=1)]


class Span(Stated):
    """Lowest and highest value allowed."""

    value: tuple[FiniteFloat, FiniteFloat]


class CycleEntry(Section):
    """A validated cycle of a steriliser; what is left out was not stated, and is refused where it is needed."""

    name: Words
    low_c: FiniteFloat
    high_c: FiniteFloat
    exposure_min: FiniteFloat
    mark: Mark
    source: Words
    tolerance_c: FiniteFloat | None = None
    tolerance_mark: Mark = "P"
    eto_mg_l: FiniteFloat | None = None
    dose_g: FiniteFloat | None = None
    sterilant_tolerance_pct: FiniteFloat | None = None
    sterilant_tolerance_mark: Mark = "P"
    humidity_pct: tuple[FiniteFloat, FiniteFloat] | None = None
    max_lumens: int | None = None


class AerationEntry(Section):
    from_c: FiniteFloat
    hours: FiniteFloat
    mark: Mark
    source: Words


class IndicatorEntry(Section):
    name: Words
    hours: FiniteFloat
    mark: Mark
    source: Words
    low_c: FiniteFloat | None = None
    high_c: FiniteFloat | None = None
    reader: str = ""


class MaterialEntry(Section):
    name: Words
    max_process_c: FiniteFloat
    mark: Mark
    source: Words


S = TypeVar("S", bound=Stated)


def _built_in(kind: type[S], name: str) -> S:
    constant = _BUILT_IN.constants()[name]
    return kind.model_validate(
        {"value": getattr(_BUILT_IN, name), "mark": constant.mark, "source": constant.source}
    )


class SterilisationConfig(Section):
    pouch_materials: Names = _built_in(Names, "pouch_materials")
    min_openings_per_cavity: Count = _built_in(Count, "min_openings_per_cavity")
    min_opening_mm: Number = _built_in(Number, "min_opening_mm")
    max_path_mm: Number = _built_in(Number, "max_path_mm")
    channel_mm: Span = _built_in(Span, "channel_mm")
    channel_free_min_mm: Number = _built_in(Number, "channel_free_min_mm")
    walls_solid_ratio: Span = _built_in(Span, "walls_solid_ratio")
    walls_layer_off_max: Number = _built_in(Number, "walls_layer_off_max")
    dimension_tolerance_mm: Number = _built_in(Number, "dimension_tolerance_mm")
    weight_tolerance_pct: Number = _built_in(Number, "weight_tolerance_pct")
    gauge_go_mm: Number = _built_in(Number, "gauge_go_mm")
    gauge_no_go_mm: Number = _built_in(Number, "gauge_no_go_mm")
    print_tolerance_c: Number = _built_in(Number, "print_tolerance_c")
    resterilisation_limit: Count = _built_in(Count, "resterilisation_limit")
    ct_max_age_days: Number = _built_in(Number, "ct_max_age_days")
    return_to_service_cycles: Count = _built_in(Count, "return_to_service_cycles")
    record_gap_min: Number = _built_in(Number, "record_gap_min")
    residual_eo_mg_24h: Number = _built_in(Number, "residual_eo_mg_24h")
    residual_ech_mg_24h: Number = _built_in(Number, "residual_ech_mg_24h")
    residual_eo_ug_cm2: Number = _built_in(Number, "residual_eo_ug_cm2")
    plan_cycle: Name = _built_in(Name, "plan_cycle")
    plan_aeration_c: Number = _built_in(Number, "plan_aeration_c")
    plan_indicator: Name = _built_in(Name, "plan_indicator")
    print_h: Number = _built_in(Number, "print_h")
    inspect_and_pack_h: Number = _built_in(Number, "inspect_and_pack_h")
    chamber_h: Number = _built_in(Number, "chamber_h")
    release_h: Number = _built_in(Number, "release_h")
    issue_h: Number = _built_in(Number, "issue_h")
    overdue_after_h: Number = _built_in(Number, "overdue_after_h")
    cycles: tuple[CycleEntry, ...] = ()
    aeration: tuple[AerationEntry, ...] = ()
    indicators: tuple[IndicatorEntry, ...] = ()
    materials: tuple[MaterialEntry, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _tables_as_json(cls, given: Any) -> Any:
        """The environment has no tables: there a value is the same table written as JSON."""
        if not isinstance(given, dict):
            return given
        return {key: _from_json(key, value) for key, value in given.items()}

    @model_validator(mode="after")
    def _fits_together(self) -> SterilisationConfig:
        for key in ("cycles", "indicators", "materials"):
            names = [entry.name.lower() for entry in getattr(self, key)]
            if len(names) != len(set(names)):
                raise ValueError(f"{key}: a name is listed twice")
        found = faults(self.settings())
        if self.return_to_service_cycles.value < 1:
            found.append("return_to_service_cycles: a return to service needs at least one negative cycle")
        if found:
            raise ValueError("; ".join(found))
        return self

    def settings(self) -> SterilisationSettings:
        """The rules' own form of these numbers."""
        names = list(_BUILT_IN.constants())
        stated: dict[str, Stated] = {name: getattr(self, name) for name in names}
        return SterilisationSettings(
            cycles=_merged(_BUILT_IN.cycles, (site.CycleSpec(**c.model_dump()) for c in self.cycles)),
            aeration=tuple(site.AerationRow(**r.model_dump()) for r in self.aeration) or _BUILT_IN.aeration,
            indicators=_merged(
                _BUILT_IN.indicators, (site.IndicatorSpec(**i.model_dump()) for i in self.indicators)
            ),
            materials=_merged(
                _BUILT_IN.materials, (site.MaterialLimit(**m.model_dump()) for m in self.materials)
            ),
            stated={name: (entry.mark, entry.source) for name, entry in stated.items()},
            **{name: getattr(self, name).value for name in names},
        )


N = TypeVar("N", site.CycleSpec, site.IndicatorSpec, site.MaterialLimit)


def _merged(built_in: tuple[N, ...], given: Iterable[N]) -> tuple[N, ...]:
    own = tuple(given)
    names = {entry.name.lower() for entry in own}
    return tuple(entry for entry in built_in if entry.name.lower() not in names) + own


def _from_json(key: str, value: Any) -> Any:
    if not isinstance(value, str) or value.lstrip()[:1] not in ("{", "["):
        return value
    try:
        return json.loads(value)
    except ValueError as exc:
        raise ValueError(f"{key}: not a table in JSON ({exc})") from exc
