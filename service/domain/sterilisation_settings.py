"""Numbers of ethylene-oxide (EtO) sterilisation, each with the mark of where it comes from.

Marks follow the clinical facts sheet (sections 1 and 2): H official or primary source, M secondary source,
P our proposal, U unverified. P and U values must be confirmed by the site before clinical use; a value that is
None was not stated by any source and must be supplied by the site: the guards refuse until it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

Mark = Literal["H", "M", "P", "U"]

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
    AerationRow(60, 8, "M"),
    AerationRow(50, 12, "M"),
    AerationRow(37, 36, "U"),
    AerationRow(20, 168, "M"),
)

DEFAULT_INDICATORS = (
    IndicatorSpec("EZTEST", 48, "H", "EZTest EO instructions", 30, 35),
    IndicatorSpec("BT10", 48, "M", "BT10, 37 +- 2 C", 35, 39),
    IndicatorSpec("ATTEST_1294", 4, "H", "Attest 1294 in reader 390G, 240 min", reader="390G"),
)

DEFAULT_MATERIALS = (MaterialLimit("PLA", 45.0, "P", "below PLA heat deflection 51-58 C and Tg 58-65 C"),)


@dataclass(frozen=True)
class SterilisationSettings:
    """Everything a site may set. The mark of each default stands beside it."""

    cycles: tuple[CycleSpec, ...] = DEFAULT_CYCLES
    aeration: tuple[AerationRow, ...] = DEFAULT_AERATION
    indicators: tuple[IndicatorSpec, ...] = DEFAULT_INDICATORS
    materials: tuple[MaterialLimit, ...] = DEFAULT_MATERIALS
    role_holders: Mapping[str, frozenset[str]] = field(default_factory=lambda: ROLE_HOLDERS)
    pouch_materials: tuple[str, ...] = ("tyvek",)  # U: Tyvek, not foil or nylon
    min_openings_per_cavity: int = 2  # P
    min_opening_mm: float = 3.0  # P
    max_path_mm: float = 400.0  # P, from CDC Table 11 (3 mm lumens)
    dimension_tolerance_mm: float = 0.5  # P
    print_tolerance_c: float = 2.0  # P: set points must agree within this
    resterilisation_limit: int = 0  # P
    ct_max_age_days: float = 28.0  # P: an osteoporotic fracture changes shape within weeks
    return_to_service_cycles: int = 3  # M: consecutive negative cycles, empty chamber
    residual_eo_mg_24h: float = 4.0  # M: ISO 10993-7 limited contact
    residual_ech_mg_24h: float = 9.0  # M
    residual_eo_ug_cm2: float = 10.0  # M

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
