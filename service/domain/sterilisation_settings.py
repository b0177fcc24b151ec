"""Numbers of ethylene-oxide (EtO) sterilisation, each with the mark of where it comes from.

Marks follow the clinical facts sheet (sections 1 and 2): H official or primary source, M secondary source,
P our proposal, U unverified; S is the site's own evidence. P and U values must be confirmed by the site before
clinical use; a value that is None was not stated by any source and must be supplied by the site: the guards refuse
until it is. Every number can be set under [sterilisation] in the configuration (`service/config_sterilisation.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from types import MappingProxyType
from typing import Literal, TypeVar

T = TypeVar("T")
Mark = Literal["H", "M", "P", "U", "S"]

#: Functions of the transition tables -> login roles that may act in them. `system` is the service itself.
#: Nobody holds a function by being admin (facts sheet, section 2: no guard bypass by any role).
ROLE_HOLDERS: Mapping[str, frozenset[str]] = MappingProxyType(
    {
        "qa_reviewer": frozenset({"qa_reviewer", "technician", "planner"}),
        "cssd_tech": frozenset({"cssd_tech", "cssd_technician", "cssd_supervisor"}),
        "cssd_supervisor": frozenset({"cssd_supervisor"}),
        "theatre_nurse": frozenset({"theatre_nurse"}),
        "system": frozenset({"system"}),
    }
)


@dataclass(frozen=True)
class CycleSpec:
    """One validated EtO cycle of a device.

    `low_c`..`high_c` is the set point (equal) or the labelled range; `tolerance_c` is the deviation allowed on
    top. Exactly one of `eto_mg_l` and `dose_g` states the sterilant, with `sterilant_tolerance_pct`.
    """

    name: str
    low_c: float
    high_c: float
    exposure_min: float
    mark: Mark
    source: str
    tolerance_c: float | None = None
    tolerance_mark: Mark = "P"
    eto_mg_l: float | None = None
    dose_g: float | None = None
    sterilant_tolerance_pct: float | None = None
    sterilant_tolerance_mark: Mark = "P"
    humidity_pct: tuple[float, float] | None = None
    max_lumens: int | None = None

    @property
    def hottest_c(self) -> float | None:
        """Highest temperature the cycle may reach, or None while the site has not stated a tolerance."""
        return None if self.tolerance_c is None else self.high_c + self.tolerance_c

    @property
    def coldest_c(self) -> float | None:
        return None if self.tolerance_c is None else self.low_c - self.tolerance_c


@dataclass(frozen=True)
class AerationRow:
    """At no less than `from_c` throughout, `hours` are enough."""

    from_c: float
    hours: float
    mark: Mark
    source: str


@dataclass(frozen=True)
class IndicatorSpec:
    """A biological indicator product: incubation between `low_c` and `high_c` for `hours`.

    A reader with its own block temperature has both temperatures None; then `reader` must be named.
    """

    name: str
    hours: float
    mark: Mark
    source: str
    low_c: float | None = None
    high_c: float | None = None
    reader: str = ""


@dataclass(frozen=True)
class MaterialLimit:
    """Highest temperature the printed material may see in exposure and in aeration."""

    name: str
    max_process_c: float
    mark: Mark
    source: str


_K142034 = "510(k) K142034 (Steri-Vac GS5/GS8)"
_K192978 = "510(k) K192978 (EOGas 4)"

# Tolerances of the GS cycles are not in the public summary. The proposals (P) borrow the +-3 C of K192978 and
# take 10 % on the concentration, so that the defaults can run; the site replaces them by its validation.
DEFAULT_CYCLES = (
    CycleSpec("GS5_COOL", 38, 38, 270, "H", _K142034, 3.0, "P", 736, None, 10, "P", (40, 80), 20),
    CycleSpec("GS8_COOL", 38, 38, 270, "H", _K142034, 3.0, "P", 759, None, 10, "P", (40, 80), 20),
    CycleSpec("GS5_WARM", 55, 55, 60, "H", _K142034, 3.0, "P", 736, None, 10, "P", (40, 80)),
    CycleSpec("GS8_WARM", 55, 55, 60, "H", _K142034, 3.0, "P", 759, None, 10, "P", (40, 80)),
    CycleSpec("EOGAS4_3H", 50, 50, 180, "H", _K192978, 3.0, "H", None, 17.6, 5, "H", (35, 70)),
    CycleSpec("EOGAS4_6H", 50, 50, 360, "H", _K192978, 3.0, "H", None, 17.6, 5, "H", (35, 70)),
    # No lumen claim, no public dose or humidity window: refused until the site completes the entry.
    CycleSpec("AN75_12H", 20, 29, 720, "H", "510(k) K170432 (Anprolene AN75)", 0.0, "H"),
)

DEFAULT_AERATION = (
    AerationRow(60, 8, "M", "our split of CDC's 8-12 h at 50-60 °C"),
    AerationRow(50, 12, "M", "our split of CDC's 8-12 h at 50-60 °C"),
    AerationRow(37, 36, "U", "32-36 h at 37-38 °C is common practice; the site must confirm it"),
    AerationRow(20, 168, "M", "CDC: ambient, 7 days at 20 °C"),
)

DEFAULT_INDICATORS = (
    IndicatorSpec("EZTEST", 48, "H", "EZTest EO instructions", 30, 35),
    IndicatorSpec("BT10", 48, "M", "BT10, 37 +- 2 C", 35, 39),
    IndicatorSpec("ATTEST_1294", 4, "H", "Attest 1294 in reader 390G, 240 min", reader="390G"),
)

DEFAULT_MATERIALS = (MaterialLimit("PLA", 45.0, "P", "below PLA heat deflection 51-58 C and Tg 58-65 C"),)


@dataclass(frozen=True)
class Constant:
    """Where a single number comes from; `unit` is empty for counts, ratios and names."""

    unit: str
    meaning: str
    mark: Mark
    source: str


def _constant(value: T, unit: str, meaning: str, mark: Mark, source: str) -> T:
    found: T = field(default=value, metadata={"constant": Constant(unit, meaning, mark, source)})
    return found


@dataclass(frozen=True)
class SterilisationSettings:
    """Everything a site may set. `constant` in a field's metadata is its `Constant`: meaning, mark and source.

    Durations of people and of the chamber (`..._h`) serve the schedule only, no guard rests on them. `stated` holds
    mark and source of the values the site has set itself.
    """

    cycles: tuple[CycleSpec, ...] = DEFAULT_CYCLES
    aeration: tuple[AerationRow, ...] = DEFAULT_AERATION
    indicators: tuple[IndicatorSpec, ...] = DEFAULT_INDICATORS
    materials: tuple[MaterialLimit, ...] = DEFAULT_MATERIALS
    role_holders: Mapping[str, frozenset[str]] = field(default_factory=lambda: ROLE_HOLDERS)
    stated: Mapping[str, tuple[Mark, str]] = field(default_factory=dict)
    pouch_materials: tuple[str, ...] = _constant(
        ("tyvek",), "", "pouch materials that let EtO through", "U", "Tyvek, not foil or nylon"
    )
    min_openings_per_cavity: int = _constant(2, "", "openings each cavity needs", "P", "facts sheet, vents")
    min_opening_mm: float = _constant(
        3.0, "mm", "narrowest opening of a cavity", "P", "from CDC Table 11 (3 mm lumens)"
    )
    max_path_mm: float = _constant(
        400.0, "mm", "longest way of the gas", "P", "from CDC Table 11 (lumens of 40 cm)"
    )
    channel_mm: tuple[float, float] = _constant(
        (2.5, 4.0),
        "mm",
        "validated width of needle channels on the mesh",
        "P",
        "13 G needle of 2.413 mm must pass; CDC Table 11 has lumens of 1, 2 and 3 mm",
    )
    channel_free_min_mm: float = _constant(
        2.0,
        "mm",
        "least free width of a channel between the printed lines",
        "P",
        "from CDC Table 11 (2 mm lumens)",
    )
    walls_solid_ratio: tuple[float, float] = _constant(
        (0.92, 1.08),
        "",
        "plastic of the part over that of a solid part",
        "P",
        "limits of the G-code audit; solid parts measured 1.02 to 1.03",
    )
    walls_layer_off_max: float = _constant(
        0.06,
        "",
        "how far one layer's plastic may be from a solid layer, as a share",
        "P",
        "limit of the G-code audit",
    )
    dimension_tolerance_mm: float = _constant(
        0.5, "mm", "measured size against the design", "P", "facts sheet, R12"
    )
    weight_tolerance_pct: float = _constant(
        5.0,
        "%",
        "weight of the part against that of its G-code",
        "P",
        "our proposal: spool, drops, rests of supports",
    )
    gauge_go_mm: float = _constant(
        2.41, "mm", "go gauge of the needle channels", "P", "13 G needle of the paper, 2.41 mm"
    )
    gauge_no_go_mm: float = _constant(
        3.1,
        "mm",
        "no-go gauge of the needle channels",
        "P",
        "our proposal: 0.3 mm above the channel's 2.8 mm",
    )
    print_tolerance_c: float = _constant(
        2.0, "°C", "set points of nozzle and bed against the plan", "P", "our proposal"
    )
    resterilisation_limit: int = _constant(
        0, "", "exposures allowed before another run", "P", "PLA after EtO is not studied"
    )
    ct_max_age_days: float = _constant(
        28.0,
        "days",
        "age of the planning CT at issue",
        "P",
        "an osteoporotic fracture changes shape within weeks",
    )
    return_to_service_cycles: int = _constant(
        3,
        "",
        "consecutive negative empty-chamber cycles before a return to service",
        "M",
        "written for steam",
    )
    record_gap_min: float = _constant(
        10.0,
        "min",
        "longest silence in the exposure of a cycle record",
        "P",
        "longer proves nothing about the time between",
    )
    residual_eo_mg_24h: float = _constant(4.0, "mg", "EO in 24 h, limited contact", "M", "ISO 10993-7:2008")
    residual_ech_mg_24h: float = _constant(9.0, "mg", "ECH in 24 h, limited contact", "M", "ISO 10993-7:2008")
    residual_eo_ug_cm2: float = _constant(10.0, "µg/cm²", "EO contact limit", "M", "ISO 10993-7:2008")
    plan_cycle: str = _constant(
        "GS5_COOL", "", "cycle the schedule counts with", "P", "a cycle PLA withstands"
    )
    plan_aeration_c: float = _constant(
        38.0, "°C", "aeration the schedule counts with", "P", "in the chamber after a cool cycle"
    )
    plan_indicator: str = _constant(
        "EZTEST", "", "indicator the schedule counts with", "P", "the slowest of the catalogue"
    )
    print_h: float = _constant(8.0, "h", "printing, until the sliced file says it", "P", "our proposal")
    inspect_and_pack_h: float = _constant(
        2.0, "h", "inspection, cleaning, drying, packing", "P", "our proposal"
    )
    chamber_h: float = _constant(
        1.5,
        "h",
        "conditioning before and evacuation after the exposure",
        "P",
        "about 2.5 h with CDC's stages, exposure apart",
    )
    release_h: float = _constant(1.0, "h", "reading, release", "P", "our proposal")
    issue_h: float = _constant(
        2.0, "h", "way to the operating room before the operation", "P", "our proposal"
    )
    overdue_after_h: float = _constant(
        4.0, "h", "a step people could take stays untaken this long: they are told", "P", "our proposal"
    )

    def cycle(self, name: str) -> CycleSpec | None:
        return next((c for c in self.cycles if c.name == name), None)

    def indicator(self, name: str) -> IndicatorSpec | None:
        return next((i for i in self.indicators if i.name == name), None)

    def material(self, name: str) -> MaterialLimit | None:
        return next((m for m in self.materials if m.name.lower() == name.lower()), None)

    def aeration_hours(self, coldest_c: float) -> float | None:
        """Hours needed when the temperature never fell below `coldest_c`; None = never complete.

        The colder row counts; there is no interpolation between rows.
        """
        rows = [r for r in self.aeration if r.from_c <= coldest_c]
        return max(rows, key=lambda r: r.from_c).hours if rows else None

    def holds(self, role: str, functions: tuple[str, ...]) -> bool:
        """Whether the login role may act in one of the table's functions."""
        return any(role in self.role_holders.get(f, frozenset()) for f in functions)

    def constants(self) -> dict[str, Constant]:
        """The single numbers by name, with the site's own mark and source where it has stated them."""
        found = {f.name: f.metadata["constant"] for f in fields(self) if "constant" in f.metadata}
        for name, (mark, source) in self.stated.items():
            found[name] = replace(found[name], mark=mark, source=source)
        return found
