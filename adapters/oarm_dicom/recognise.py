"""Is this series a scan from the operating room (O-arm), a planning CT, or not to be told?

What is configured decides first: the role of the AE title that sent it. Only without a role do header hints
count, and only as hints: makers rename products, PACS rewrite headers, and there is no O-arm private dictionary.
No string is compared exactly.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from service.domain.series import SeriesInfo

_XRAY_3D_ANGIOGRAPHIC = "1.2.840.10008.5.1.4.1.1.13.1.1"


class ScanKind(enum.StrEnum):
    PLANNING_CT = "planning_ct"
    INTRAOPERATIVE = "intraoperative"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Recognition:
    """`reasons` are sentences for people; `configured` is True when a role decided."""

    kind: ScanKind
    configured: bool
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class HintSettings:
    """Words (compared without case, blanks and punctuation) and the scores needed for a decision."""

    oarm_words: tuple[str, ...] = ("oarm", "breakawayimaging")
    maker_words: tuple[str, ...] = ("medtronic", "breakawayimaging")
    cone_beam_words: tuple[str, ...] = ("conebeam", "cbct", "intraop", "rotationalangio")
    intraoperative_from: int = 3
    planning_up_to: int = -2


def recognise(
    info: SeriesInfo, *, caller_roles: Sequence[str] = (), settings: HintSettings | None = None
) -> Recognition:
    """Classify one series.

    Parameters
    ----------
    caller_roles : roles of the calling AE as configured ("planning_ct", "oarm", "pacs"). A caller that is only
        an O-arm or only a planning CT decides; a PACS forwards both, so hints decide.
    """
    roles = {role.strip().lower() for role in caller_roles}
    if "oarm" in roles and "planning_ct" not in roles:
        return Recognition(ScanKind.INTRAOPERATIVE, True, ("It was sent by an AE configured as O-arm.",))
    if "planning_ct" in roles and "oarm" not in roles:
        return Recognition(ScanKind.PLANNING_CT, True, ("It was sent by an AE configured for planning CT.",))
    settings = settings or HintSettings()
    hints = list(_hints(info, settings))
    score = sum(weight for weight, _ in hints)
    reasons = tuple(sentence for _, sentence in hints)
    if score >= settings.intraoperative_from:
        return Recognition(ScanKind.INTRAOPERATIVE, False, reasons)
    if score <= settings.planning_up_to:
        return Recognition(ScanKind.PLANNING_CT, False, reasons)
    return Recognition(
        ScanKind.UNKNOWN,
        False,
        (*reasons, "Neither the sender's configuration nor the header tells what kind of scan this is."),
    )


def _hints(info: SeriesInfo, settings: HintSettings) -> Iterator[tuple[int, str]]:
    """Weights: above zero speaks for the operating room, below for a diagnostic CT."""
    product = _squeezed(info.manufacturer, info.model)
    if _has(product, settings.oarm_words):
        yield 3, "The header names an O-arm."
    elif _has(product, settings.maker_words):
        yield 2, "The header names a maker of intra-operative scanners."
    if _has(
        _squeezed(info.description, info.protocol, *info.image_type, *info.kernel), settings.cone_beam_words
    ):
        yield 2, "The header speaks of a cone-beam or intra-operative scan."
    if _has(_squeezed(info.description, info.protocol), settings.oarm_words):
        yield 2, "The series or protocol is named after an O-arm."
    if info.sop_class_uid == _XRAY_3D_ANGIOGRAPHIC:
        yield 3, "It is an X-ray 3D reconstruction."
    if info.rescale_type is not None and info.rescale_type.upper() != "HU":
        yield 1, "Its values are not Hounsfield units."
    field = info.field_of_view_mm
    if field is not None and field <= 215 and _thin_near_isotropic(info):
        yield 1, f"It is a near-isotropic volume with a field of view of {field:.0f} mm."
    if info.tube_current_ma is not None and info.tube_current_ma >= 80:
        yield -1, f"A tube current of {info.tube_current_ma:.0f} mA is that of a diagnostic scanner."
    if field is not None and field > 260:
        yield -2, f"A field of view of {field:.0f} mm is larger than an O-arm's."
    if "AXIAL" in (word.upper() for word in info.image_type) and info.kernel and product:
        yield -1, "Image type, kernel and maker are those of a diagnostic CT."


def _thin_near_isotropic(info: SeriesInfo) -> bool:
    """Slices of about 0.83 mm, and pixels of 20 cm over 512 (0.39 mm) or 256 (0.78 mm)."""
    if info.pixel_spacing_mm is None or info.slice_thickness_mm is None:
        return False
    ratio = info.slice_thickness_mm / max(info.pixel_spacing_mm[0], 1e-6)
    return 0.7 <= info.slice_thickness_mm <= 0.95 and 0.5 <= ratio <= 2.3


def _squeezed(*words: str | None) -> str:
    return re.sub(r"[^a-z0-9]", "", " ".join(word for word in words if word).lower())


def _has(text: str, words: Sequence[str]) -> bool:
    return any(word in text for word in words)
