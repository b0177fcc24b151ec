"""Maintenance notes of printers: what may be noted, hours printed since, audit, and who sees what."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import update

from service.domain.case import CaseState
from service.domain.printer_notes import (
    MOST_LETTERS,
    NEEDS_WORDS,
    NOTE_TEXT,
    NoteKind,
    PrinterNote,
    PrintTime,
    checked_words,
    newest_of_each,
    printed_h_since,
)
from service.errors import InputRefusedError, NotFoundError
from service.store import audit, prints, times
from service.store.database import reading, transaction
from service.store.tables import print_jobs
from service.workflow import identity, print_run, printer_care
from tests.support_api import web_over
from tests.support_app import PASSWORD, TECHNICIAN, Rig, add_people, bring, make_rig

AT = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    made = make_rig(tmp_path).with_printers({"um3": None, "um3-b": None})  # type: ignore[dict-item]
    yield made
    made.app.engine.dispose()


@pytest.fixture
def client(rig: Rig) -> Callable[[str], TestClient]:
    def logged_in(username: str) -> TestClient:
        add_people(rig.app, username)
        secret, _, _ = identity.log_in(rig.app, username, PASSWORD)
        return TestClient(web_over(rig.app), headers={"Authorization": f"Bearer {secret}"})

    return logged_in


def printed(rig: Rig, printer: str, elapsed_s: int | None) -> None:
    """A print of the past on this printer, as the polls leave it."""
    number = len(rig.queue.jobs)
    case = bring(rig, CaseState.SLICED, study=f"1.2.3.{number}", series=f"1.2.3.{number}.1")
    job = print_run.start_print(rig.app, case.id, printer, TECHNICIAN, bed_clear=True)
    with transaction(rig.app.engine) as connection:
        prints.release(connection, printer, job.token)
        connection.execute(
            update(print_jobs)
            .where(print_jobs.c.token == job.token)
            .values(accepted_at=times.to_text(rig.clock.now()), time_elapsed_s=elapsed_s)
        )


# --- rules -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", NoteKind)
def test_every_kind_has_words_and_knows_whether_it_needs_more(kind: NoteKind) -> None:
    assert NOTE_TEXT[kind]
    if kind in NEEDS_WORDS:
        with pytest.raises(InputRefusedError):
            checked_words(kind, "  ")
    else:
        assert checked_words(kind, " ") == ""
    assert checked_words(kind, " 0.4  mm\n core ") == "0.4 mm core"


@pytest.mark.parametrize("text", ["x" * (MOST_LETTERS + 1), "bell\x07"])
def test_words_that_cannot_be_shown_are_refused(text: str) -> None:
    with pytest.raises(InputRefusedError) as caught:
        checked_words(NoteKind.OTHER, text)
    assert caught.value.code == "printer.note"


def test_only_what_began_after_the_note_counts_as_printed_since() -> None:
    hour = timedelta(hours=1)
    since = [PrintTime(AT - hour, 36_000.0), PrintTime(AT, 1800.0), PrintTime(AT + hour, 5400.0)]
    assert printed_h_since(AT, since) == 2.0
    assert printed_h_since(AT, []) == 0.0


def test_the_last_note_of_each_kind_newest_first() -> None:
    def note(number: int, kind: NoteKind) -> PrinterNote:
        return PrinterNote(str(number), "um3", kind, "", "tom", AT + timedelta(hours=number))

    levelled, nozzle = NoteKind.BED_LEVELLED, NoteKind.NOZZLE_CHANGED
    notes = [note(3, nozzle), note(1, levelled), note(2, nozzle), note(4, levelled)]
    assert [(n.id, n.kind) for n in newest_of_each(notes)] == [("4", levelled), ("3", nozzle)]


# --- use ---------------------------------------------------------------------------------------------------------


def test_hours_printed_since_a_note_grow_with_every_print_of_that_printer(rig: Rig) -> None:
    printed(rig, "um3", 7200)
    rig.clock.advance(hours=1)
    printer_care.add_note(rig.app, "um3", NoteKind.NOZZLE_CHANGED, "AA 0.4", TECHNICIAN)
    rig.clock.advance(hours=1)
    printed(rig, "um3", 3600)
    printed(rig, "um3-b", 36_000)
    printed(rig, "um3", None)  # never started
    with reading(rig.app.engine) as connection:
        (note,) = printer_care.log_of(connection, "um3")
        assert note["printed_h_since"] == 1.0
        assert printer_care.summary_of(connection, "um3")["printed_h"] == 3.0
        assert printer_care.log_of(connection, "um3-b") == []


def test_a_note_stands_in_the_audit_chain(rig: Rig) -> None:
    made = printer_care.add_note(rig.app, "um3", NoteKind.REPAIRED, "new belt", TECHNICIAN)
    with reading(rig.app.engine) as connection:
        (row,) = audit.history(connection, "printer:um3")
    assert (row.actor, row.event) == ("technician", "printer_maintained")
    assert row.data == {"note_id": made["id"], "kind": "repaired", "note": "new belt"}


def test_nothing_is_noted_of_a_printer_that_is_not_there(rig: Rig) -> None:
    with pytest.raises(NotFoundError):
        printer_care.add_note(rig.app, "um9", NoteKind.BED_LEVELLED, "", TECHNICIAN)


def test_a_technician_notes_and_reads_over_http(client: Callable[[str], TestClient]) -> None:
    technician = client("technician")
    body = {"kind": "bed_levelled", "note": "after transport"}
    made = technician.post("/api/v1/printers/um3/notes", json=body)
    assert made.status_code == 201 and made.json()["noted_by"] == "technician"
    assert technician.post("/api/v1/printers/um3/notes", json={"kind": "painted"}).status_code == 422
    assert technician.post("/api/v1/printers/um3/notes", json={"kind": "other"}).status_code == 422
    (note,) = technician.get("/api/v1/printers/um3/notes").json()
    assert (note["text"], note["note"], note["printed_h_since"]) == ("bed levelled", "after transport", 0.0)


def test_others_read_and_do_not_note(client: Callable[[str], TestClient]) -> None:
    surgeon = client("surgeon")
    assert surgeon.post("/api/v1/printers/um3/notes", json={"kind": "bed_levelled"}).status_code == 403
    assert surgeon.get("/api/v1/printers/um3/notes").json() == []


def test_the_board_sees_what_and_when_without_words_or_names(rig: Rig) -> None:
    printer_care.add_note(rig.app, "um3", NoteKind.OTHER, "something personal", TECHNICIAN)
    token = identity.add_token(rig.app, "wall", ["board"], "test")
    board = TestClient(web_over(rig.app), headers={"Authorization": f"Bearer {token}"})
    answer = board.get("/api/v1/printers")
    care: dict[str, Any] = next(p["care"] for p in answer.json() if p["name"] == "um3")
    assert [set(n) for n in care["newest"]] == [{"kind", "text", "noted_at", "printed_h_since"}]
    assert "personal" not in answer.text and '"technician"' not in answer.text
    assert board.get("/api/v1/printers/um3/notes").status_code in (401, 403)
