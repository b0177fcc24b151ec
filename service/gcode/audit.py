"""Prove a G-code file before it may go to a printer.

Reads the file itself, trusts nothing the slicer said, and compares it with the order, the mesh and the
planned channels. A file with a fault is never sent.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from service.gcode import checks
from service.gcode.cavity import check_cavity
from service.gcode.channel import Beads, Channel, Openness, Point, beads, openness
from service.gcode.expected import (
    AuditReport,
    ExpectedPrint,
    Finding,
    Mesh,
    PartSize,
    mesh_corners,
    part_size,
)
from service.gcode.header import Header, parse_header
from service.gcode.layer_area import layer_areas
from service.gcode.motion import check_motion
from service.gcode.mouth import Rim, rim_of
from service.gcode.places import check_heaps
from service.gcode.reader import FloatArray, Gcode, read_gcode
from service.gcode.vents import VentHole, judge_vents, vent_openness

_MOST_OF_ONE_KIND = 5
_WALLED_LEAST = 0.5

__all__ = ["AuditReport", "Channel", "ExpectedPrint", "Finding", "VentHole", "audit_gcode", "audit_read"]


def audit_gcode(
    path: Path,
    *,
    expected: ExpectedPrint,
    part_mesh: Mesh | Path,
    filler_mesh: Mesh | Path | None = None,
    channels: Sequence[Channel | tuple[Point, Point, float]] = (),
    vents: Sequence[VentHole] = (),
    forbidden_words: Sequence[str] = (),
) -> AuditReport:
    """Audit one `.gcode` or `.gcode.gz` file; see `audit_read`. Raises InputRefusedError when it cannot be opened."""
    return audit_read(
        read_gcode(path),
        expected=expected,
        corners=mesh_corners(part_mesh),
        filler=None if filler_mesh is None else mesh_corners(filler_mesh),
        channels=channels,
        vents=vents,
        forbidden_words=forbidden_words,
    )


def audit_read(
    gcode: Gcode,
    *,
    expected: ExpectedPrint,
    corners: FloatArray,
    filler: FloatArray | None = None,
    channels: Sequence[Channel | tuple[Point, Point, float]] = (),
    vents: Sequence[VentHole] = (),
    forbidden_words: Sequence[str] = (),
) -> AuditReport:
    """Audit a file that was read.

    Parameters
    ----------
    expected : what was ordered; how the head moves goes by the engine that the header names.
    corners : triangles (F, 3, 3) of the mesh it was sliced from, in print coordinates: mm, z up, resting on
        z = 0, the plate's centre at x = y = 0.
    filler : triangles of the body of the cavity, when one was filled; without it any filler is a fault.
    channels : planned channels as (mouth, blind end, radius) in the same coordinates.
    vents : openings of the gas path in the same coordinates.
    forbidden_words : names, identifiers and the like that must not occur anywhere in the file's text.

    Returns a report; raises GeometryError when the mesh is no closed body.
    """
    part = part_size(corners)
    areas = layer_areas(corners, expected.layer_mm)
    header = parse_header(gcode.header)
    expected = expected.of_engine(header.values.get("GENERATOR.VERSION", ""))
    lines = beads(
        gcode,
        bed_from_print_mm=expected.bed_from_print_mm,
        layer_mm=expected.layer_mm,
        filament_mm2=expected.filament_mm2,
    )
    wanted = [c if isinstance(c, Channel) else Channel(*c) for c in channels]
    measured = [openness(channel, lines) for channel in wanted]
    vented = [vent_openness(vent, lines, _rim(vent, corners)) for vent in vents]
    found: list[Finding] = [
        *checks.check_header(header, expected),
        *checks.check_comments(gcode, forbidden_words),
        *checks.check_commands(gcode, expected),
        *checks.check_layers(gcode, header, expected, part),
        *check_motion(gcode, expected),
        *checks.check_extents(gcode, header, expected, part),
        *checks.check_extrusion(gcode, header, expected, part),
        *checks.check_layer_plastic(gcode, expected, areas),
        *check_heaps(gcode, expected),
        *check_cavity(gcode, expected, filler),
    ]
    for number, (channel, result) in enumerate(zip(wanted, measured, strict=True), start=1):
        found += _judge_channel(number, channel, result, expected)
    found += judge_vents(vents, vented, expected)
    return AuditReport(
        findings=tuple(_not_too_many(found)),
        measures={
            **_measures(gcode, header, expected, part, lines, measured),
            "first_layer_s": checks.first_layer_s(gcode),
            "layer_off_most": _layer_off_most(gcode, expected, areas),
            "vents": [
                {"free_radius_mm": _finite(v.free_radius), "walled_fraction": round(v.walled_fraction, 3)}
                for v in vented
            ],
        },
    )


def _rim(vent: VentHole, corners: FloatArray) -> Rim:
    return rim_of(np.asarray(vent.mouth, float), np.asarray(vent.outward, float), vent.radius_mm, corners)


def _judge_channel(
    number: int, channel: Channel, result: Openness, expected: ExpectedPrint
) -> Iterator[Finding]:
    least = expected.channel_share * channel.radius_mm
    if result.free_radius < least:
        yield Finding(
            "channel.blocked",
            f"Channel {number} has a free radius of {result.free_radius:.2f} mm at line {result.blocked_line}; "
            f"at least {least:.2f} mm is needed.",
        )
    elif result.free_radius < expected.needle_radius_mm:
        yield Finding(
            "channel.tight",
            f"Channel {number} has a free radius of {result.free_radius:.2f} mm at its tightest step, less than "
            f"the needle's {expected.needle_radius_mm:.2f} mm; it may want reaming.",
            "note",
        )
    if result.nearest_support < channel.radius_mm:
        yield Finding("channel.support", f"Channel {number} has support inside it.")
    if result.walled_fraction < _WALLED_LEAST:
        yield Finding(
            "channel.absent", f"Channel {number} has no model around it: it is not where it was planned."
        )


def _not_too_many(findings: list[Finding]) -> Iterator[Finding]:
    """At most a few findings of one code, so that a report stays readable."""
    seen: Counter[str] = Counter()
    for finding in findings:
        seen[finding.code] += 1
        if seen[finding.code] <= _MOST_OF_ONE_KIND:
            yield finding


def _measures(
    gcode: Gcode,
    header: Header,
    expected: ExpectedPrint,
    part: PartSize,
    lines: Beads,
    measured: Sequence[Openness],
) -> dict[str, object]:
    printed = gcode.is_printed_line
    area = expected.filament_mm2
    by_kind = np.bincount(gcode.kind[printed], gcode.extruded[printed] * area, minlength=len(gcode.kinds))
    plastic = float(gcode.extruded[checks.part_lines(gcode)].sum()) * area
    filler = float(gcode.extruded[printed & gcode.of_mesh(checks.FILLER_MESH)].sum()) * area
    # only names of the profile: a report is kept, and any other text of the file may be a person's name
    known = [name if name in expected.speed_shares else "unknown" for name in gcode.kinds]
    speeds = {
        name: round(float(np.nanmax(gcode.feed[chosen])), 2)
        for index, name in enumerate(known)
        if (chosen := printed & (gcode.kind == index)).any()
    }
    return {
        "lines": gcode.line_count,
        "printed_lines": int(printed.sum()),
        "layers": len(np.unique(gcode.layer[printed])),
        "print_time_s": _finite(header.number("PRINT.TIME")),
        "material_mm3": round(float(by_kind.sum()), 1),
        "material_by_type_mm3": {
            name: round(float(volume), 1) for name, volume in zip(known, by_kind, strict=True) if volume > 0
        },
        "part_mm3": round(plastic, 1),
        "filler_mm3": round(filler, 1),
        "support_mm3": round(
            float(gcode.extruded[printed & gcode.of_kind(*checks.SUPPORT_KINDS)].sum()) * area, 1
        ),
        "mesh_mm3": round(part.volume_mm3, 1),
        "part_over_mesh": round(plastic / part.volume_mm3, 4),
        "fastest_mm_s": speeds,
        "widest_line_mm": round(float(lines.width.max()), 3) if lines.width.size else None,
        "channels": [
            {
                "free_radius_mm": _finite(result.free_radius),
                "nearest_model_mm": _finite(result.nearest_model),
                "nearest_support_mm": _finite(result.nearest_support),
                "walled_fraction": round(result.walled_fraction, 3),
            }
            for result in measured
        ],
    }


def _layer_off_most(gcode: Gcode, expected: ExpectedPrint, areas: FloatArray) -> float:
    """Largest difference of a layer's plastic from the cross-section, beyond the fixed allowance, as a share."""
    off = np.abs(checks.layer_plastic(gcode, expected, areas.size)[: areas.size] - areas)
    beyond = np.maximum(off - expected.layer_area_mm2, 0.0)
    return round(float((beyond / np.maximum(areas, 1.0)).max(initial=0.0)), 4)


def _finite(value: float) -> float | None:
    """JSON has no infinity: none near is null."""
    return round(value, 3) if np.isfinite(value) else None
