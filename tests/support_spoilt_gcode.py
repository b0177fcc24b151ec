"""What the ways to spoil a G-code file (`tests.support_spoilt_ways`) are made of, and the audit they are held against.

Engines set accelerations and jerks of their own: what a way writes or looks for goes by the engine in the header.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
