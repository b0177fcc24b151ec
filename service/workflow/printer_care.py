"""Care of the printers: maintenance a person notes, hours printed since, and printers found on the network."""

from __future__ import annotations

import secrets
from dataclasses import asdict
from typing import Any

from sqlalchemy import Connection

from service.domain.people import Actor
from service.domain.printer_notes import (
    NOTE_TEXT,
    NoteKind,
    PrinterNote,
    PrintTime,
    checked_words,
    newest_of_each,
    printed_h_since,
)
from service.errors import NotFoundError, ToolMissingError
from service.store import audit, printer_notes
from service.store.database import transaction
from service.workflow.app import App


def add_note(app: App, printer: str, kind: NoteKind, text: str, actor: Actor) -> dict[str, Any]:
    """Note what was done to a printer; it is in the audit chain and stays.

    Raises
    ------
    NotFoundError : no such printer. InputRefusedError : see `checked_words`.
    """
    if printer not in app.printers:
        raise NotFoundError(
            f"There is no printer '{printer}'.",
            next_step="Choose one of the configured printers.",
            code="printer.not_found",
        )
    now = app.clock.now()
    note = PrinterNote(secrets.token_hex(16), printer, kind, checked_words(kind, text), actor.name, now)
    with transaction(app.engine) as connection:
        printer_notes.add(connection, note)
        audit.append(
            connection,
            at=now,
            actor=actor.name,
            subject=f"printer:{printer}",
            event="printer_maintained",
            data={"note_id": note.id, "kind": kind.value, "note": note.note},
        )
        return _view(note, printer_notes.print_times(connection, printer))


def discover(app: App, seconds: float) -> list[dict[str, Any]]:
    """Printers that announce themselves on the network, each with our name for it where its address is configured.

    Raises
    ------
    ToolMissingError, DeviceError, ConflictError : see `service.ports.PrinterDiscovery`.
    """
    if app.discovery is None:
        raise ToolMissingError(
            "This process does not look for printers.", next_step="Ask the process with the web role.",
            code="tool.no_discovery",
        )  # fmt: skip
    names = {entry.url.rstrip("/"): entry.name for entry in app.config.printers}
    return [asdict(p) | {"configured_as": names.get(p.url)} for p in app.discovery.discover(seconds)]


def log_of(connection: Connection, printer: str) -> list[dict[str, Any]]:
    """All notes of a printer, newest first, with the hours printed since each."""
    prints = printer_notes.print_times(connection, printer)
    return [_view(note, prints) for note in printer_notes.listed(connection, printer)]


def summary_of(connection: Connection, printer: str) -> dict[str, Any]:
    """Hours printed in all, and the newest note of each kind; without words and names, for the screens."""
    prints = printer_notes.print_times(connection, printer)
    newest = newest_of_each(printer_notes.listed(connection, printer))
    return {
        "printed_h": round(sum(p.elapsed_s for p in prints) / 3600.0, 2),
        "newest": [
            {k: v for k, v in _view(note, prints).items() if k not in ("id", "note", "noted_by")}
            for note in newest
        ],
    }


def _view(note: PrinterNote, prints: list[PrintTime]) -> dict[str, Any]:
    return {
        "id": note.id,
        "kind": note.kind.value,
        "text": NOTE_TEXT[note.kind],
        "note": note.note or None,
        "noted_by": note.noted_by,
        "noted_at": note.noted_at,
        "printed_h_since": printed_h_since(note.noted_at, prints),
    }
