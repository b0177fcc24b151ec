"""A steriliser's own record of a cycle, read from CSV or JSON into the data of the load's step `finish_cycle`.

The file must name the steriliser, the cycle number and the programme; a record of another run is refused. CSV: lines
`# steriliser: Z1`, `# cycle_number: 7`, `# program: GS5_COOL`, then a table with the columns `time` (ISO 8601 with
zone), `phase`, `temperature_c`, `humidity_pct`, `eto_mg_l` and/or `dose_g`, and optionally `alarm`. JSON: the same
three names and `samples`, a list of such rows. What is derived is never kinder than what was recorded.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from typing import Any

from service.domain.sterilisation import Load
from service.domain.sterilisation_settings import CycleSpec
from service.errors import InputRefusedError

LARGEST_CHARS = 2_000_000
_COLUMNS = ("time", "phase", "temperature_c", "humidity_pct")


@dataclass(frozen=True)
class Sample:
    at: datetime
    phase: str
    temperature_c: float
    humidity_pct: float | None
    eto_mg_l: float | None
    dose_g: float | None
    alarm: str


def read_cycle_record(text: str, load: Load, cycle: CycleSpec | None, *, gap_min: float) -> dict[str, object]:
    """Data of `finish_cycle` for this load; `gap_min` is the longest silence allowed in the exposure (minutes).

    Highest temperature: of the whole cycle, since the material sees all of it. Lowest temperature and humidity: of
    the exposure. Concentration or dose: the sample of the exposure farthest from the nominal value of `cycle`.
    Exposure: from its first to its last sample. Every alarm of the cycle counts.

    Raises
    ------
    InputRefusedError : `cycle.format` (cannot be read), `cycle.other_run` (of another steriliser, cycle or programme),
        `cycle.incomplete` (no exposure, a gap in it, times out of order). All say the row.
    """
    if len(text) > LARGEST_CHARS:
        raise _refused("cycle.format", f"it is longer than {LARGEST_CHARS} characters")
    head, rows = _json(text) if text.lstrip().startswith("{") else _csv(text)
    _check_run(head, load)
    samples = [_sample(row, number) for number, row in enumerate(rows, 1)]
    for number, (a, b) in enumerate(pairwise(samples), 2):
        if not a.at < b.at:
            raise _refused("cycle.incomplete", f"the time of row {number} is not after the row before")
    exposure = _exposure(samples, gap_min)
    return _derived(samples, exposure, cycle)


def stated_cycle(text: str) -> str | None:
    """The cycle number a record names, or None when it names none or cannot be read."""
    try:
        head, _rows = _json(text) if text.lstrip().startswith("{") else _csv(text)
    except InputRefusedError:
        return None
    return head.get("cycle_number")


def _derived(
    samples: Sequence[Sample], exposure: Sequence[Sample], cycle: CycleSpec | None
) -> dict[str, object]:
    humidity = [s.humidity_pct for s in exposure if s.humidity_pct is not None]
    if len(humidity) != len(exposure):
        raise _refused("cycle.incomplete", "the humidity is missing in a row of the exposure")
    data: dict[str, object] = {
        "started_at": samples[0].at.isoformat(),
        "ended_at": samples[-1].at.isoformat(),
        "exposure_min": round((exposure[-1].at - exposure[0].at).total_seconds() / 60.0, 3),
        "min_c": min(s.temperature_c for s in exposure),
        "max_c": max(s.temperature_c for s in samples),
        "min_humidity_pct": min(humidity),
        "max_humidity_pct": max(humidity),
        "alarms": list(dict.fromkeys(s.alarm for s in samples if s.alarm)),
    }
    for name in ("eto_mg_l", "dose_g"):
        values = [v for s in exposure if (v := getattr(s, name)) is not None]
        if values and len(values) != len(exposure):
            raise _refused("cycle.incomplete", f"{name} is missing in a row of the exposure")
        if values:
            nominal = getattr(cycle, name) if cycle else None
            data[name] = min(values) if nominal is None else max(values, key=lambda v: abs(v - nominal))
    return data


def _exposure(samples: Sequence[Sample], gap_min: float) -> Sequence[Sample]:
    inside = [i for i, s in enumerate(samples) if s.phase == "exposure"]
    if len(inside) < 2:
        raise _refused("cycle.incomplete", "it has no two rows with the phase 'exposure'")
    if inside[-1] - inside[0] + 1 != len(inside):
        raise _refused("cycle.incomplete", f"the exposure is interrupted after row {inside[0] + 1}")
    found = samples[inside[0] : inside[-1] + 1]
    for offset, (a, b) in enumerate(pairwise(found)):
        gap = (b.at - a.at).total_seconds() / 60.0
        if gap > gap_min:
            row = inside[0] + offset + 2
            raise _refused(
                "cycle.incomplete",
                f"nothing was recorded for {gap:.0f} min of the exposure, before row {row}",
            )
    return found


def _csv(text: str) -> tuple[dict[str, str], list[Mapping[str, Any]]]:
    head: dict[str, str] = {}
    body: list[str] = []
    for line in text.lstrip("\ufeff").splitlines():
        if line.startswith("#"):
            name, _, value = line[1:].partition(":")
            head[name.strip()] = value.strip()
        elif line.strip():
            body.append(line)
    try:
        rows = list(csv.DictReader(io.StringIO("\n".join(body)), strict=True))
    except csv.Error as exc:
        raise _refused("cycle.format", f"it is not CSV ({exc})") from exc
    return head, [dict(row) for row in rows]


def _json(text: str) -> tuple[dict[str, str], list[Mapping[str, Any]]]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as exc:
        raise _refused("cycle.format", "it is not JSON") from exc
    rows = value.get("samples")
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise _refused("cycle.format", "it has no list of samples")
    return {k: str(v) for k, v in value.items() if k != "samples"}, rows


def _check_run(head: Mapping[str, str], load: Load) -> None:
    wanted = {
        "steriliser": load.steriliser_id,
        "cycle_number": str(load.cycle_number),
        "program": load.cycle_name,
    }
    wrong = [
        f"{n} is {head.get(n, 'not stated')!r}, not {v!r}" for n, v in wanted.items() if head.get(n) != v
    ]
    if wrong:
        raise InputRefusedError(
            "The cycle record is not of this load: " + "; ".join(wrong) + ".",
            next_step="Export the record of this very cycle from the steriliser and import it again.",
            code="cycle.other_run",
        )


def _sample(row: Mapping[str, Any], number: int) -> Sample:
    missing = [c for c in _COLUMNS if c not in row]
    if missing or None in row:
        raise _refused("cycle.format", f"row {number} has not the columns {', '.join(_COLUMNS)}")
    at = _time(str(row["time"]).strip())
    if at is None:
        raise _refused("cycle.format", f"the time of row {number} is not ISO 8601 with a zone")
    temperature = _number(row["temperature_c"], "temperature_c", number)
    if temperature is None:
        raise _refused("cycle.incomplete", f"the temperature is missing in row {number}")
    return Sample(
        at,
        str(row["phase"] or "").strip().lower(),
        temperature,
        _number(row["humidity_pct"], "humidity_pct", number),
        _number(row.get("eto_mg_l"), "eto_mg_l", number),
        _number(row.get("dose_g"), "dose_g", number),
        str(row.get("alarm") or "").strip(),
    )


def _time(text: str) -> datetime | None:
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        return None
    return at if at.tzinfo is not None else None


def _number(raw: object, name: str, row: int) -> float | None:
    if raw is None or raw == "":
        return None
    try:
        value = float(raw) if isinstance(raw, str | int | float) and not isinstance(raw, bool) else math.nan
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise _refused("cycle.format", f"{name} of row {row} is no number")
    return value


def _refused(code: str, why: str) -> InputRefusedError:
    return InputRefusedError(
        f"The cycle record cannot be used: {why}.",
        next_step="Export it from the steriliser again, or enter the values of the printout by hand.",
        code=code,
    )
