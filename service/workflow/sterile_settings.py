"""The numbers of sterile services in force, as rows for people; and a line in the books whenever they change."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Any

from service.domain.sterilisation_settings import CycleSpec, SterilisationSettings
from service.domain.sterilisation_settings_check import remarks
from service.store import audit
from service.store.database import transaction
from service.workflow.app import App

_SUBJECT = "settings:sterilisation"
MARKS = {
    "H": "official or primary source",
    "M": "secondary source",
    "P": "proposal of this software, to be confirmed by the site",
    "U": "unverified, to be confirmed by the site",
    "S": "the site's own evidence",
}


@dataclass(frozen=True)
class Row:
    """One number: `group` is the table it stands in; `remark` is what to know beside it."""

    group: str
    name: str
    value: str
    meaning: str
    mark: str
    source: str
    remark: str = ""


def rows(site: SterilisationSettings) -> list[Row]:
    """Every number with the mark of its provenance and its source."""
    found = [
        Row("numbers", name, _value(getattr(site, name), c.unit), c.meaning, c.mark, c.source)
        for name, c in site.constants().items()
    ]
    for m in site.materials:
        found.append(
            Row(
                "materials",
                m.name,
                f"{m.max_process_c:g} °C",
                "highest temperature allowed",
                m.mark,
                m.source,
            )
        )
    found += [row for cycle in site.cycles for row in _cycle(cycle)]
    for r in sorted(site.aeration, key=lambda r: -r.from_c):
        found.append(
            Row(
                "aeration",
                f"from {r.from_c:g} °C",
                f"{r.hours:g} h",
                "never colder than this",
                r.mark,
                r.source,
            )
        )
    for i in site.indicators:
        where = (
            f"{i.low_c:g} to {i.high_c:g} °C" if i.low_c is not None and i.high_c is not None else i.reader
        )
        found.append(Row("indicators", i.name, f"{i.hours:g} h, {where}", "incubation", i.mark, i.source))
    return found


def note_settings(app: App) -> bool:
    """Write the numbers into the audit chain when they are not those written last; whether they were written."""
    site = app.sterile_settings
    document: dict[str, Any] = {"rows": [asdict(row) for row in rows(site)]}
    digest = hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()
    with transaction(app.engine) as connection:
        known = audit.history(connection, _SUBJECT)
        if known and known[-1].data.get("sha256") == digest:
            return False
        audit.append(
            connection, at=app.clock.now(), actor="system:configuration", subject=_SUBJECT, event="in_force",
            data={"sha256": digest, **document},
        )  # fmt: skip
    return True


def _cycle(cycle: CycleSpec) -> list[Row]:
    low = f"{cycle.low_c:g}" if cycle.low_c == cycle.high_c else f"{cycle.low_c:g} to {cycle.high_c:g}"
    humidity = "not stated" if cycle.humidity_pct is None else "{:g} to {:g} %".format(*cycle.humidity_pct)
    lumens = "not limited" if cycle.max_lumens is None else f"at most {cycle.max_lumens} lumens"
    value = f"{low} °C, {cycle.exposure_min:g} min, {humidity}, {lumens}"
    sterilant = (
        f"{cycle.eto_mg_l:g} mg/L" if cycle.eto_mg_l is not None
        else f"{cycle.dose_g:g} g" if cycle.dose_g is not None else "not stated"
    )  # fmt: skip
    tolerance = "not stated" if cycle.tolerance_c is None else f"± {cycle.tolerance_c:g} °C"
    span = "" if cycle.sterilant_tolerance_pct is None else f" ± {cycle.sterilant_tolerance_pct:g} %"
    name, source, dosed = cycle.name, cycle.source, cycle.sterilant_tolerance_mark
    return [
        Row("cycles", name, value, "set point and exposure", cycle.mark, source, "; ".join(remarks(cycle))),
        Row("cycles", f"{name}, tolerance", tolerance, "of the temperature", cycle.tolerance_mark, source),
        Row("cycles", f"{name}, sterilant", f"{sterilant}{span}", "ethylene oxide", dosed, source),
    ]  # fmt: skip


def _value(value: object, unit: str) -> str:
    if isinstance(value, tuple):
        numbers = [f"{v:g}" if isinstance(v, float | int) else str(v) for v in value]
        joined = (
            " to ".join(numbers)
            if len(numbers) == 2 and not isinstance(value[0], str)
            else ", ".join(numbers)
        )
        return f"{joined} {unit}".strip()
    return f"{value:g} {unit}".strip() if isinstance(value, int | float) else str(value)
