"""Maintenance notes of printers. They are added, never changed."""

from __future__ import annotations

from sqlalchemy import Connection, insert, select

from service.domain.printer_notes import NoteKind, PrinterNote, PrintTime
from service.store import times
from service.store.tables import print_jobs, printer_notes


def add(connection: Connection, note: PrinterNote) -> None:
    connection.execute(
        insert(printer_notes).values(
            id=note.id,
            printer=note.printer,
            kind=note.kind.value,
            note=note.note,
            noted_by=note.noted_by,
            noted_at=times.to_text(note.noted_at),
        )
    )


def listed(connection: Connection, printer: str) -> list[PrinterNote]:
    """Newest first, all of them."""
    rows = connection.execute(
        select(printer_notes)
        .where(printer_notes.c.printer == printer)
        .order_by(printer_notes.c.noted_at.desc(), printer_notes.c.id.desc())
    )
    return [
        PrinterNote(r.id, r.printer, NoteKind(r.kind), r.note, r.noted_by, times.from_text(r.noted_at))
        for r in rows
    ]


def print_times(connection: Connection, printer: str) -> list[PrintTime]:
    """Every print the machine took, with the time it said to have printed."""
    columns = (print_jobs.c.accepted_at, print_jobs.c.requested_at, print_jobs.c.time_elapsed_s)
    rows = connection.execute(
        select(*columns).where(print_jobs.c.printer == printer, print_jobs.c.time_elapsed_s.is_not(None))
    )
    return [
        # a print found running after its answer was lost has no moment of acceptance of its own
        PrintTime(times.from_text(r.accepted_at or r.requested_at), float(r.time_elapsed_s))
        for r in rows
    ]
