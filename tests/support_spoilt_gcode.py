"""What the ways to spoil a G-code file (`tests.support_spoilt_ways`) are made of, and the audit they are held against.

Engines set accelerations and jerks of their own: what a way writes or looks for goes by the engine in the header.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from service.gcode.audit import AuditReport, audit_gcode
from service.gcode.expected import ExpectedPrint
from service.ports import SliceSettings
from tests.support_gcode import ENTRY, RADIUS, TARGET, SlicedPart

SECRET = "Mustermann"
EXPECTED = ExpectedPrint.from_settings(SliceSettings())


def audit(sliced: SlicedPart, path: Path | None = None, **changes: Any) -> AuditReport:
    """The audit of the part's own file, or of another at `path`."""
    arguments: dict[str, Any] = {
        "expected": EXPECTED,
        "part_mesh": sliced.part,
        "filler_mesh": sliced.filler,
        "channels": [(ENTRY, TARGET, RADIUS)],
        "forbidden_words": [SECRET],
    }
    return audit_gcode(path or sliced.gcode, **{**arguments, **changes})


def codes(report: AuditReport) -> set[str]:
    return {finding.code for finding in report.findings if finding.severity == "fault"}


Lines = list[str]


@dataclass(frozen=True)
class EngineWords:
    """What an engine writes for a travel and an inner wall, and its accelerations of the outer wall and of infill."""

    travel: tuple[str, str]
    inner: tuple[str, str]
    outer: str
    infill: str


ENGINES = {
    "4": EngineWords(
        ("M204 S5000", "M205 X30 Y30"), ("M204 S1000", "M205 X20 Y20"), "M204 S500", "M204 S4000"
    ),
    "5": EngineWords(
        ("M204 S1500", "M205 X20 Y20"), ("M204 S1500", "M205 X20 Y20"), "M204 S429", "M204 S3500"
    ),
}


def engine_words(lines: Lines) -> EngineWords:
    key = ";GENERATOR.VERSION:"
    return ENGINES[next(t[len(key)] for t in lines if t.startswith(key))]


def replaced(lines: Lines, pattern: str, by: str, count: int = 1) -> Lines:
    """Lines with the first `count` matches changed; the mutation must really change something."""
    done, result = 0, []
    for line in lines:
        hit = done < count and re.search(pattern, line) is not None
        result.append(re.sub(pattern, by, line) if hit else line)
        done += hit
    assert done
    return result


def inserted(lines: Lines, chance: random.Random, *new: str) -> Lines:
    at = chance.randrange(len(lines) // 4, 3 * len(lines) // 4)
    return [*lines[:at], *new, *lines[at:]]


def scaled(lines: Lines, letter: str, factor: float, shift: float = 0.0, only: str = r"^G[01] ") -> Lines:
    def change(match: re.Match[str]) -> str:
        return f"{letter}{float(match.group(1)) * factor + shift:.5f}"

    pattern = re.compile(rf"\b{letter}(-?[\d.]+)")
    stop = lines.index("G91")
    return [pattern.sub(change, t) if i < stop and re.search(only, t) else t for i, t in enumerate(lines)]


def less_plastic(lines, begin, end, share):
    """`share` of what is pushed between two lines; all later counters are moved down by what is saved."""
    saved, before, result = 0.0, None, []
    stop = lines.index("G91")
    for i, line in enumerate(lines):
        match = re.search(r"^G1 .*\bE(-?[\d.]+)", line) if i < stop else None
        if match:
            value = float(match[1])
            pushed = value - before if before is not None else 0.0
            if begin <= i < end and pushed > 0 and "X" in line:
                saved += (1.0 - share) * pushed
            before = value
            result.append(line.replace(f"E{match[1]}", f"E{value - saved:.5f}"))
        else:
            result.append(line)
    assert saved > 0
    return result


def in_layers(lines, first, last, pattern, by):
    """`pattern` replaced within some layers; it must be there."""
    begin = lines.index(f";LAYER:{first}")
    end = lines.index(f";LAYER:{last + 1}") if f";LAYER:{last + 1}" in lines else lines.index("G91")
    return [*lines[:begin], *replaced(lines[begin:end], pattern, by, count=len(lines)), *lines[end:]]


def more_used(lines, mm3):
    """The header knows of so much more plastic."""
    return [re.sub(r"(VOLUME_USED:)(\d+)", lambda m: f"{m[1]}{int(m[2]) + round(mm3)}", t) for t in lines]


def solid_block(lines, low, high, layers, label):
    """Layers of a block without gaps between two corners (print coordinates, mm), each after its layer's last line.

    `label`: the comments it goes by. The counter is set back after it, so that nothing else of the file changes.
    """
    (x0, y0), (x1, y1) = (np.add(corner, EXPECTED.bed_from_print_mm) for corner in (low, high))
    per_mm = 0.4 * EXPECTED.layer_mm / EXPECTED.filament_mm2
    words = engine_words(lines)
    block = [
        *words.travel,
        f"G0 F15000 X{x0:.3f} Y{y0:.3f}",
        words.infill,
        "M205 X20 Y20",
        "G1 F3000",
        *label,
    ]
    block.append("G92 E0")
    pushed, x, before = 0.0, x0, None
    for y in np.arange(y0, y1, 0.4):
        if before is not None:
            pushed += (y - before) * per_mm
            block.append(f"G1 X{x:.3f} Y{y:.3f} E{pushed:.5f}")
        before, x = y, x1 if x == x0 else x0
        pushed += (x1 - x0) * per_mm
        block.append(f"G1 X{x:.3f} Y{y:.3f} E{pushed:.5f}")
    last = {}  # line that each layer prints last
    layer = -1
    for i, line in enumerate(lines):
        if match := re.fullmatch(r";LAYER:(\d+)", line):
            layer = int(match[1])
        if re.match(r"G1 .*X\S+ .*E", line):
            last[layer] = i
    result, done = [], 0
    for layer in layers:
        counter = lines[last[layer]].split("E")[1]
        back = re.sub(r"G1.* (X\S+ Y\S+) .*", r"G0 F15000 \1", lines[last[layer]])
        result += [*lines[done : last[layer] + 1], *block, f"G92 E{counter}", *words.travel, back]
        done = last[layer] + 1
    return more_used([*result, *lines[done:]], len(layers) * pushed * EXPECTED.filament_mm2)
