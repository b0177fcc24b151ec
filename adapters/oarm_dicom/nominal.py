"""Do the header's acquisition parameters look like the protocol of the source study? Information, never a gate.

Nominal values: O-arm protocol of the source study (120 kV, 25 mA, 0.83 mm, 20 cm field of view, 13 s). A value
that is missing is unknown, never wrong.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from service.domain.series import SeriesInfo


class Verdict(enum.StrEnum):
    AS_EXPECTED = "as_expected"
    DIFFERS = "differs"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Nominal:
    name: str
    expected: float
    tolerance: float
    unit: str


@dataclass(frozen=True)
class NominalProtocol:
    """Tolerances are ours: wide enough for presets of the same mode, narrow enough to notice another mode."""

    tube_voltage: Nominal = Nominal("tube voltage", 120.0, 10.0, "kV")
    tube_current: Nominal = Nominal("tube current", 25.0, 15.0, "mA")
    slice_thickness: Nominal = Nominal("slice thickness", 0.83, 0.05, "mm")
    field_of_view: Nominal = Nominal("field of view", 200.0, 20.0, "mm")
    scan_time: Nominal = Nominal("scan time", 13.0, 3.0, "s")


@dataclass(frozen=True)
class ParameterFinding:
    name: str
    unit: str
    expected: float
    found: float | None
    verdict: Verdict
    sentence: str


def check_nominal(info: SeriesInfo, protocol: NominalProtocol | None = None) -> tuple[ParameterFinding, ...]:
    """One finding for each nominal parameter, always all five."""
    nominal = protocol or NominalProtocol()
    return (
        _compare(nominal.tube_voltage, info.kvp),
        _compare(nominal.tube_current, info.tube_current_ma),
        _compare(nominal.slice_thickness, info.slice_thickness_mm),
        _compare(nominal.field_of_view, info.field_of_view_mm),
        _compare(nominal.scan_time, _scan_time_s(info)),
    )


def _scan_time_s(info: SeriesInfo) -> float | None:
    if info.acquisition_duration_s is not None:
        return info.acquisition_duration_s
    # cone-beam systems write the whole rotation as the exposure time of each slice; a CT's slice takes under 2 s
    if info.exposure_time_ms is not None and info.exposure_time_ms > 2000:
        return info.exposure_time_ms / 1000
    return None


def _compare(nominal: Nominal, found: float | None) -> ParameterFinding:
    expected = f"{nominal.expected:g} {nominal.unit}"
    if found is None or found <= 0:
        verdict, sentence, found = (
            Verdict.UNKNOWN,
            f"The {nominal.name} is unknown (usual: {expected}).",
            None,
        )
    elif abs(found - nominal.expected) <= nominal.tolerance:
        verdict, sentence = Verdict.AS_EXPECTED, f"The {nominal.name} is {found:g} {nominal.unit} as usual."
    else:
        verdict = Verdict.DIFFERS
        sentence = f"The {nominal.name} is {found:g} {nominal.unit}; {expected} is usual."
    return ParameterFinding(nominal.name, nominal.unit, nominal.expected, found, verdict, sentence)
