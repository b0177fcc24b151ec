"""The papers of sterile services: load record, item passport, recall sheet, monthly summary.

They repeat what the books say, with who signed it and when; no patient is named, only the case's code and the
reference that stands on the label.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection

from service.domain.sterilisation import (
    BiologicalIndicator,
    BiState,
    GcodeProof,
    HistoryEntry,
    Item,
    ItemDesign,
    ItemState,
    Load,
    SterilisationSettings,
    Steriliser,
    recall_set,
)
from service.errors import ConflictError, InputRefusedError
from service.results.sheet import Section, Sheet
from service.store import audit, blobs, cases, cycle_files, print_pictures, prints, sterile, studies
from service.store.cycle_files import CycleFile
from service.store.database import reading
from service.workflow.app import App

_HISTORY = ("when (UTC)", "step", "from", "to", "signed by", "role", "reason")
_WIDE = (2.7, 2.5, 2.2, 2.2, 2.8, 2.5, 2.6)


def load_record(app: App, load_id: str) -> Sheet:
    """Everything one run rests on: cycle against its window, aeration, indicator, items, signatures."""
    with reading(app.engine) as connection:
        load = sterile.get(connection, Load, load_id)
        bi = sterile.maybe(connection, BiologicalIndicator, load.bi_id) if load.bi_id else None
        items = [sterile.get(connection, Item, i) for i in load.item_ids]
        files = cycle_files.listed(connection, load_id)
        signed = _signed(connection, f"load:{load_id}")
    facts = (
        ("Load", load.id), ("State", load.state.value), ("Steriliser", load.steriliser_id),
        ("Cycle number", str(load.cycle_number)), ("Programme", load.cycle_name), ("Purpose", load.purpose),
        ("Operators", ", ".join(load.operators)), ("Challenge device", load.pcd_id or "none"),
        ("Written", _time(app.clock.now())),
    )  # fmt: skip
    sections = (
        Section("Cycle", ("parameter", "recorded", "allowed"), _cycle_rows(load, app.sterile_settings)),
        Section(
            "Records received from the steriliser", ("file", "received (UTC), from", "SHA-256", "verdict"),
            _file_rows(files), (1.2, 1.6, 3.6, 1.6),
        ),
        Section("Aeration", ("parameter", "recorded", "needed"), _aeration_rows(load, app.sterile_settings)),
        Section("Biological indicator", ("fact", "value"), _bi_rows(bi)),
        Section("Items", ("item", "case", "level", "pack", "state"), _item_rows(items), (2, 1, 0.8, 2, 1.5)),
        Section("History of the load", _HISTORY, _history(load.history, signed), _WIDE),
    )  # fmt: skip
    return Sheet(f"Load record {load.id}", facts, sections, ("Supervisor",))


def item_passport(app: App, item_id: str) -> Sheet:
    """One part from the hash of its CT to its end: what it was made from, and every signed step."""
    with reading(app.engine) as connection:
        item = sterile.get(connection, Item, item_id)
        case = cases.get(connection, item.design.case_id)
        current = blobs.current(connection, case.id)
        ct = _study_hash(connection, case.study_uid)
        signed = _signed(connection, f"item:{item_id}")
        steps = [r for r in audit.history(connection, case.subject) if not r.event.startswith("item_")]
        job = prints.maybe(connection, item_id)
        pictures = print_pictures.listed(connection, item_id)
    design = item.design
    facts = (
        ("Item", item.id), ("State", item.state.value), ("Case", design.engraved_id), ("Level", design.level),
        ("Patient reference", design.patient_reference), ("Printed by", item.printed_by),
        ("Filament lot", (job.filament_lot if job else "") or "not recorded"),
        ("Recalled after use", "YES" if item.recalled_after_use else "no"), ("Written", _time(app.clock.now())),
    )  # fmt: skip
    hashes = [("planning CT (all images)", ct), ("mesh inspected against", design.stl_sha256)]
    hashes += [(kind, artifact.sha256) for kind, artifact in sorted(current.items())]
    hashes += [(f"picture, {p.kind.replace('_', ' ')}, {p.taken_by}", p.sha256) for p in pictures]
    sections = (
        Section("What was proven before loading", ("proof", "measured"), _proof_rows(design), (1.4, 3)),
        Section("Inspection", ("measure", "measured", "expected"), _inspection_rows(item), (1.4, 1.5, 1.5)),
        Section("What it was made from, SHA-256", ("thing", "hash"), tuple(hashes), (1, 3)),
        Section(
            "Steps of the case", ("when (UTC)", "step", "signed by"),
            tuple((_time(r.at), r.event, r.actor) for r in steps), (1, 1, 1),
        ),
        Section("Steps of the item", _HISTORY, _history(item.history, signed), _WIDE),
    )  # fmt: skip
    return Sheet(f"Item passport {design.engraved_id}", facts, sections)


def recall_sheet(app: App, bi_id: str) -> Sheet:
    """What a positive indicator calls back, where each item is, and who must be told. Raises ConflictError."""
    with reading(app.engine) as connection:
        bi = sterile.get(connection, BiologicalIndicator, bi_id)
        if bi.state is not BiState.POSITIVE:
            raise ConflictError(
                f"The indicator is {bi.state.value}; only a positive one has a recall.",
                next_step="See the list of indicators.",
                code="sterilisation.no_recall",
            )
        loads = sterile.listed(connection, Load)
        found = recall_set(
            bi.steriliser_id, bi.cycle_number, loads, sterile.listed(connection, BiologicalIndicator)
        )
        items = [sterile.get(connection, Item, i) for i in found.item_ids]
        device = sterile.get(connection, Steriliser, bi.steriliser_id)
    rows = tuple(
        (i.id, i.design.engraved_id, i.design.level, i.design.patient_reference, i.pack.pack_id if i.pack else "",
         i.state.value, _action(i), "")
        for i in items
    )  # fmt: skip
    growing = (
        "yes: no satisfactory indicator since" if found.growing else f"no, ends before {found.before_cycle}"
    )
    facts = (
        ("Positive indicator", f"{bi.id} ({bi.product}, lot {bi.lot})"),
        ("Steriliser", f"{device.id}, {device.state.value}"),
        ("Cycle", str(bi.cycle_number)),
        ("After satisfactory cycle", "none known" if found.after_cycle is None else str(found.after_cycle)),
        ("Still growing", growing),
        ("Loads", ", ".join(found.load_ids)),
        ("Items", str(len(rows))),
        ("Written", _time(app.clock.now())),
    )
    columns = ("item", "case", "level", "patient ref.", "pack", "state", "what to do", "done (initials)")
    sections = (Section("Items in question", columns, rows, (2.6, 1.1, 0.7, 2.4, 1.9, 1.8, 2.4, 1.2)),)
    warning = "RECALL: do not use any pack listed here."
    return Sheet(
        f"Recall sheet {bi.id}",
        facts,
        sections,
        ("Supervisor of sterile services", "Infection control"),
        warning,
    )


def monthly_summary(app: App, month: str) -> Sheet:
    """Loads, indicators, releases and refusals of one month ("2026-01", UTC). Raises InputRefusedError."""
    start, end = _month(month)
    with reading(app.engine) as connection:
        loads, items = sterile.listed(connection, Load), sterile.listed(connection, Item)
        bis = sterile.listed(connection, BiologicalIndicator)

    def steps(records: Iterable[Any]) -> Counter[str]:
        return Counter(h.event for r in records for h in r.history if start <= h.at < end)

    def happened(record: Any) -> bool:
        return any(start <= h.at < end for h in record.history)

    run = [load for load in loads if happened(load)]
    by_load, by_item = steps(loads), steps(items)
    read = Counter(b.state.value for b in bis if b.read_at is not None and start <= b.read_at < end)
    figures = (
        ("cycles started", by_load["start"]), ("cycles in their window", by_load["finish_cycle"]),
        ("loads aborted", by_load["abort"]), ("loads failed", by_load["fail"]),
        ("loads released", by_load["release"]), ("indicators read negative", read["NEGATIVE"]),
        ("indicators read positive", read["POSITIVE"]), ("indicators invalid", read["INVALID"]),
        ("packs released", by_item["release"]), ("packs issued", by_item["issue"]), ("packs used", by_item["use"]),
        ("items recalled", by_item["recall"]), ("packs withdrawn", by_item["withdraw"]),
        ("items discarded", by_item["discard"]),
    )  # fmt: skip
    table = tuple(
        (x.id, x.steriliser_id, str(x.cycle_number), x.cycle_name, x.state.value, str(len(x.item_ids)))
        for x in run
    )
    sections = (
        Section("Figures", ("what", "number"), tuple((k, str(v)) for k, v in figures)),
        Section("Loads", ("load", "steriliser", "cycle", "programme", "state now", "items"), table),
    )
    facts = (("Month", month), ("Written", _time(app.clock.now())))
    return Sheet(f"Sterile services {month}", facts, sections)


# --- parts -----------------------------------------------------------------------------------------------


def _cycle_rows(load: Load, site: SterilisationSettings) -> tuple[tuple[str, ...], ...]:
    record, spec = load.cycle, site.cycle(load.cycle_name)
    if record is None or spec is None:
        return ()
    humidity = "{:g} to {:g}".format(*spec.humidity_pct) if spec.humidity_pct else "not stated"
    temperature = f"{_said(spec.coldest_c)} to {_said(spec.hottest_c)}"
    sterilant = f"{_said(spec.eto_mg_l or spec.dose_g)} ± {_said(spec.sterilant_tolerance_pct)} %"
    return (
        ("start, end (UTC)", f"{_time(record.started_at)}, {_time(record.ended_at)}", ""),
        ("exposure, min", _said(record.exposure_min), f"at least {spec.exposure_min:g}"),
        ("temperature, °C", f"{_said(record.min_c)} to {_said(record.max_c)}", temperature),
        ("humidity, %", f"{_said(record.min_humidity_pct)} to {_said(record.max_humidity_pct)}", humidity),
        ("EtO, mg/L or g", _said(record.eto_mg_l if record.dose_g is None else record.dose_g), sterilant),
        ("alarms", "not recorded" if record.alarms is None else ", ".join(record.alarms) or "none", "none"),
        ("source of the values", record.source or "entered by hand", ""),
    )


def _aeration_rows(load: Load, site: SterilisationSettings) -> tuple[tuple[str, ...], ...]:
    record = load.aeration
    if record is None:
        return ()
    needed = site.aeration_hours(record.min_c if record.min_c is not None else record.set_c or 0.0)
    hours = None
    if record.started_at and record.ended_at:
        hours = (record.ended_at - record.started_at).total_seconds() / 3600.0
    residuals = (
        f"EO {site.residual_eo_mg_24h:g} mg/24 h, ECH {site.residual_ech_mg_24h:g} mg/24 h, "
        f"EO {site.residual_eo_ug_cm2:g} µg/cm²"
    )
    return (
        ("aerator", record.aerator_id, ""),
        ("start, end (UTC)", f"{_time(record.started_at)}, {_time(record.ended_at)}", ""),
        ("hours", _said(hours), "never complete" if needed is None else f"at least {needed:g} by the table"),
        (
            "aeration temperature, °C",
            f"{_said(record.min_c)} to {_said(record.max_c)}",
            "limit of the material",
        ),
        ("residuals (limited contact)", "not measured by this service", residuals),
    )


def _bi_rows(bi: BiologicalIndicator | None) -> tuple[tuple[str, ...], ...]:
    if bi is None:
        return ()
    return (
        ("indicator", f"{bi.id}, {bi.product}, lot {bi.lot}, use by {_time(bi.expires_at)}"),
        ("result", bi.state.value),
        ("control", f"lot {bi.control_lot or 'not recorded'}, growth {_yes(bi.control_growth)}"),
        (
            "incubator",
            f"{bi.incubator_id or 'none'}, {_said(bi.incubator_min_c)} to {_said(bi.incubator_max_c)} °C",
        ),
        ("incubation", f"{_time(bi.incubation_started_at)} to {_time(bi.read_at)}"),
    )


def _item_rows(items: Iterable[Item]) -> tuple[tuple[str, ...], ...]:
    return tuple(
        (i.id, i.design.engraved_id, i.design.level, i.pack.pack_id if i.pack else "", i.state.value)
        for i in items
    )


def _proof_rows(design: ItemDesign) -> tuple[tuple[str, ...], ...]:
    widths = ", ".join(f"{w:g}" for w in design.channels_mm or ()) or "not measured"
    proof = design.gcode
    free = ", ".join(_said(w) for w in proof.channels_free_mm) if proof else ""
    return (
        ("sealed cavities of the mesh", _said(design.sealed_cavities)),
        ("openings of the cavity with the fewest", _said(design.openings_per_cavity)),
        ("narrowest opening, mm", _said(design.narrowest_opening_mm)),
        ("channels on the mesh, mm", widths),
        ("channels free between printed lines, mm", free or "not measured"),
        ("plastic over that of a solid part", _said(proof.part_over_mesh) if proof else "not measured"),
        ("layer farthest from solid, share", _said(proof.layer_off_most) if proof else "not measured"),
        ("audit of the printed G-code", _audit_words(proof)),
    )


def _inspection_rows(item: Item) -> tuple[tuple[str, ...], ...]:
    qa, design = item.qa, item.design
    if qa is None:
        return (("not inspected yet", "", ""),)
    sizes = tuple(
        (f"{name}, mm", f"{got:g}", f"{wanted:.2f}")
        for name, got, wanted in zip(("width", "depth", "height"), qa.size_mm, design.size_mm, strict=True)
    )
    return (
        *sizes,
        ("weight, g", _said(qa.weight_g), _said(design.part_weight_g)),
        ("photographs", str(len(qa.photos)), "at least one"),
        ("inspected by", qa.reviewer, _time(qa.at)),
    )


def _audit_words(proof: GcodeProof | None) -> str:
    if proof is None:
        return "none is stored"
    return f"{'passed' if proof.passed else 'NOT PASSED'}, SHA-256 {proof.report_sha256}"


def _history(
    history: Iterable[HistoryEntry], signed: set[tuple[str, datetime]]
) -> tuple[tuple[str, ...], ...]:
    """`signed` are the steps whose person gave the password again."""
    return tuple(
        (_time(h.at), h.event, h.from_state, h.to_state,
         f"{h.actor} (password)" if (h.event, h.at) in signed else h.actor, h.role, h.reason)
        for h in history
    )  # fmt: skip


def _signed(connection: Connection, subject: str) -> set[tuple[str, datetime]]:
    return {(r.event, r.at) for r in audit.history(connection, subject) if r.data.get("signed")}


def _file_rows(files: Iterable[CycleFile]) -> tuple[tuple[str, ...], ...]:
    return tuple(
        (f.name, f"{_time(f.received_at)}, {f.received_from}", f.sha256, f.verdict or "within the window")
        for f in files
    )


def _action(item: Item) -> str:
    if item.recalled_after_use:
        return "USED: tell infection control and the surgeon"
    if item.state is ItemState.RECALLED:
        return "bring back to sterile services"
    return "keep out of use" if item.state is not ItemState.DISCARDED else "discarded"


def _study_hash(connection: Connection, study_uid: str) -> str:
    """One hash over the hashes of all images, in the order of the hashes."""
    found = sorted(i.sha256 for i in studies.instances_of(connection, study_uid))
    return hashlib.sha256("".join(found).encode()).hexdigest() if found else "no images"


def _month(month: str) -> tuple[datetime, datetime]:
    try:
        start = datetime.strptime(month, "%Y-%m").replace(tzinfo=UTC)
    except ValueError as exc:
        raise InputRefusedError(
            f"{month!r} is not a month.", next_step="Write it like 2026-01.", code="report.month"
        ) from exc
    after = (start.year + start.month // 12, start.month % 12 + 1)
    return start, datetime(*after, 1, tzinfo=UTC)


def _time(at: datetime | None) -> str:
    return "not recorded" if at is None else at.astimezone(UTC).strftime("%Y-%m-%d %H:%M")


def _said(value: float | None) -> str:
    return "not stated" if value is None else f"{value:g}"


def _yes(value: bool | None) -> str:
    return "not recorded" if value is None else "yes" if value else "no"
