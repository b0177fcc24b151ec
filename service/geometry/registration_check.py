"""Whether a registration may be used: gates over what `register` measured, each with its sentence.

A wrong pose can look good by one measure. All of these must hold; the first that fails is the reason given.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from service.geometry.registration import Registration


@dataclass(frozen=True)
class GateSettings:
    """Bars between 'measured' and 'not measurable'. Provenance: simulated scans of this project."""

    min_usable: float = 0.6
    """Share of the vertebra inside the field and away from metal."""
    min_ncc: float = 0.72
    max_surface_rms_mm: float = 0.60
    min_fingerprint: float = 0.40
    """Simulated scans of the same bone reach 0.7 to 0.9, of another patient's at most 0.3."""
    min_matched: float = 0.75
    max_agreement_mm: float = 0.8
    max_agreement_deg: float = 0.8
    min_lead: float = 0.05
    """The best place must beat every other place of the field by this much correlation."""


@dataclass(frozen=True)
class Gate:
    code: str
    fails: Callable[[Registration, GateSettings], bool]
    reason: str


GATES: tuple[Gate, ...] = (
    Gate(
        "no_match",
        lambda r, s: (
            r.intensity.ncc < s.min_ncc
            or r.surface.rms_mm > s.max_surface_rms_mm
            or r.surface.matched < s.min_matched
        ),
        "The surfaces do not match: this is a scan of another patient or level, the vertebra is outside the "
        "field, or the patient moved during the scan.",
    ),
    Gate(
        "another_bone",
        lambda r, s: r.fingerprint is not None and r.fingerprint < s.min_fingerprint,
        "The shape fits but the texture inside the bone is not that of the planned vertebra: this is a scan of "
        "another patient or of another level, or the patient moved during the scan.",
    ),
    # After those above: what is seen of it must be the planned vertebra before one can say that it is cut.
    Gate(
        "partly_outside",
        lambda r, s: r.intensity.usable < s.min_usable,
        "The vertebra lies partly outside the scanned field. Centre the O-arm on the level and scan again.",
    ),
    Gate(
        "texture_hidden",
        lambda r, s: r.fingerprint is None,
        "The shape fits, but cement or metal covers so much of the bone that nothing shows whether this is the planned "
        "vertebra: its position cannot be stood behind. Look at the images.",
    ),
    Gate(
        "level_ambiguous",
        lambda r, s: r.intensity.ncc - r.rival_ncc < s.min_lead,
        "The level is ambiguous: the vertebra fits at two places of the scan about equally well.",
    ),
    Gate(
        "methods_disagree",
        lambda r, s: r.agreement_mm > s.max_agreement_mm or r.agreement_deg > s.max_agreement_deg,
        "Two independent registrations disagree, so the position cannot be stood behind. Scan again without "
        "motion.",
    ),
)


def refusal(registration: Registration | None, settings: GateSettings | None = None) -> Gate | None:
    """The first gate that fails, or None when the registration may be used."""
    if registration is None:
        return Gate(
            "not_found",
            lambda _r, _s: True,
            "The planned vertebra was not found: it is outside the scanned field, or this is a scan of another "
            "patient.",
        )
    bars = settings or GateSettings()
    return next((gate for gate in GATES if gate.fails(registration, bars)), None)
