"""The print's pages in a real browser: predicted print, photographs, inspection, and the queue on the board."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from service.domain.print_job import PrintState
from service.ports import PrinterJob, PrinterState
from service.store import blobs
from service.store.database import reading, transaction
from service.store.tables import cases as cases_table
from service.workflow import identity, person_steps, print_settle
from tests.e2e import pages_world
from tests.e2e.pages_world import World, person
from tests.e2e.test_pages import Opened, browser, open_page, text
from tests.support_photo import photo

__all__ = ["browser", "open_page"]
pytestmark = pytest.mark.e2e


def keep_picture(page: Any, name: str) -> None:
    """For a person to look at, where SPINEPRINT_PICTURES names a folder."""
    if folder := os.environ.get("SPINEPRINT_PICTURES"):
        page.screenshot(path=str(Path(folder) / f"{name}.png"), full_page=True)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return pages_world.open_world(tmp_path_factory.mktemp("print-pages"))


@pytest.fixture(scope="module")
def url(world: World) -> Iterator[str]:
    with pages_world.served(world) as address:
        yield address


def test_the_audit_and_the_predicted_print_stand_on_the_cases_page(world: World, open_page: Opened) -> None:
    case = world.sliced("PREDICTED^PAUL")
    page = open_page(f"/cases/{case.id}", "tom")
    page.wait_for_selector("#print-check figure:nth-of-type(2) img")
    said = text(page, "#print-check")
    assert "2 h 00 min" in said and "29.8 g" in said and "5.83 EUR" in said
    assert "0.11 mm (95th percentile)" in said and "against the bone in the CT" in said and "7.0 %" in said
    assert "0.04 mm (95th percentile)" in said and "3.26 mm" in said and "Not a medical device" in said
    assert page.eval_on_selector(
        "#print-check img", "i => i.complete || new Promise(d => { i.onload = () => d(true); })"
    )
    assert page.eval_on_selector("#print-check img", "i => i.naturalWidth") > 100


def test_a_print_is_started_with_the_prediction_on_the_screen(world: World, open_page: Opened) -> None:
    case = world.sliced("RELEASED^RITA")
    page: Any = open_page(f"/cases/{case.id}", "tom")
    page.wait_for_selector("#prediction:has-text('0.04 mm')")
    assert "0.11 mm" in text(page, "#prediction")
    page.select_option("form select[name=printer]", "um3-left")
    page.check("form input[name=clear]")
    with page.expect_request(lambda r: r.url.endswith("/print")) as asked:
        page.click("details[data-action=start_print] button[type=submit]")
        page.click("dialog button.primary")
    with reading(world.app.engine) as connection:
        gcode = blobs.current(connection, case.id)["gcode"].sha256
    assert asked.value.post_data_json["gcode_sha256"] == gcode
    page.wait_for_selector("#prints:has-text('SP-')")


def test_the_prediction_of_an_earlier_model_is_not_shown(world: World, open_page: Opened) -> None:
    case = world.sliced("AGAIN^ANN")
    with transaction(world.app.engine) as connection:
        connection.execute(update(cases_table).where(cases_table.c.id == case.id).values(state="PLAN_READY"))
    page = open_page(f"/cases/{case.id}", "tom")
    page.wait_for_selector("#actions details")
    assert page.eval_on_selector("#print-check", "n => n.closest('section').hidden")


def test_maintenance_is_noted_on_the_operations_page(world: World, open_page: Opened) -> None:
    page: Any = open_page("/operations", "tom")
    page.wait_for_selector("[data-note='um3-spare']")
    page.select_option("[data-note='um3-spare'] select", "nozzle_changed")
    page.fill("[data-note='um3-spare'] input", "AA 0.4 of the drawer")
    page.click("[data-note='um3-spare'] button")
    page.wait_for_selector("[data-notes='um3-spare'] td:has-text('AA 0.4 of the drawer')")
    assert "0.0 h" in text(page, "[data-notes='um3-spare']")
    board = open_page(f"/board#token={identity.add_token(world.app, 'wall', ['board'], 'test')}")
    board.wait_for_selector(".care:has-text('nozzle or print core changed')")
    assert "drawer" not in board.content()


def test_the_board_shows_what_is_next_to_print(world: World, open_page: Opened) -> None:
    case = world.sliced("QUEUED^QUENTIN")
    token = identity.add_token(world.app, "screen", ["board"], "test")
    page = open_page(f"/board#token={token}")
    page.wait_for_selector(f"#next .tile:has-text('{case.code}')")
    assert "prints 2 h 00 min, 30 g, 5.83 EUR" in text(page, f"#next .tile:has-text('{case.code}')")
    assert "QUEUED" not in page.content()


def test_a_photograph_is_added_and_the_inspection_shown(
    world: World, open_page: Opened, tmp_path: Path
) -> None:
    case = world.printed("PHOTO^PHIL", "um3-spare")
    picture = tmp_path / "part.jpg"
    picture.write_bytes(photo())
    page: Any = open_page(f"/cases/{case.id}", "ada")
    page.wait_for_selector("#prints input[type=file]")
    page.set_input_files("#prints input[type=file]", str(picture))
    page.click("#prints form button[type=submit]")
    page.wait_for_selector("#prints figure figcaption:has-text('Inspection')")
    item = world.pass_qa(case)
    page.wait_for_selector(f"[data-inspection='{item}']")
    said = text(page, f"[data-inspection='{item}']")
    assert "inspected by ada" in said and "29.8 g (29.8 g)" in said and "1 photograph" in said


@pytest.mark.parametrize(
    ("result", "says", "waits"),
    [
        ("Finished", "Finished: take the part off", "has finished"),
        ("Aborted", "Aborted at the panel: clear the plate", "aborted at the printer's panel"),
        ("Failed", "Failed: clear the plate", "has failed"),
        ("", "Ended, outcome unknown: look at the part", "does not say how"),
    ],
)
def test_the_board_says_how_a_print_ended(
    world: World, open_page: Opened, result: str, says: str, waits: str
) -> None:
    case = world.printing("ENDED^EVE", "um3-spare", PrintState.AWAITING_REMOVAL, result=result, progress=1.0)
    job = world.job(case)
    seen = PrinterJob(f"uuid-{job.token}", job.token, "wait_cleanup", result, 1.0, 7200, 7200)
    world.read_printer("um3-spare", PrinterState.AWAITING_REMOVAL, job=seen)
    board = open_page(f"/board#token={identity.add_token(world.app, f'end{result}', ['board'], 'test')}")
    board.wait_for_selector(f"#printers article:has-text('{case.code}')")
    tile = text(board, f"#printers article:has-text('{case.code}')")
    assert says in tile
    assert ("inished" in tile) == (result == "Finished")
    page = open_page(f"/cases/{case.id}", "tom")
    page.wait_for_selector("#prints .badge:has-text('awaiting removal')")
    assert waits in text(page, "#now")
    keep_picture(board, f"board-ended-{result or 'unknown'}")
    world.read_printer("um3-spare", PrinterState.SILENT)
    print_settle.settle(world.app, job.token, "failed", person("tom"), "cleared for the next test")


def test_a_print_in_the_printers_own_queue_says_so_and_can_be_taken_back(
    world: World, open_page: Opened
) -> None:
    why = "Before it begins, the print core is to be changed in slot 1 (AA 0.8 to AA 0.4)."
    case = world.printing("WAITS^WANDA", "um3-spare", PrintState.QUEUED, detail=why)
    seen = PrinterJob("uuid-waits", world.job(case).token, "queued", "", None, None, None, remark=why)
    world.read_printer("um3-spare", PrinterState.BUSY, waiting=(seen,), detail="A job waits.")
    board = open_page(f"/board#token={identity.add_token(world.app, 'waits', ['board'], 'test')}")
    board.wait_for_selector(f"#printers article:has-text('{case.code}')")
    assert "waits in the printer's own queue" in text(board, f"#printers article:has-text('{case.code}')")
    page = open_page(f"/cases/{case.id}", "tom")
    page.wait_for_selector("#prints button:has-text('Take back')")
    assert why in text(page, "#prints") and "Pause" not in text(page, "#prints")
    assert "waits in the printer's own queue" in text(page, "#now")
    world.read_printer("um3-spare", PrinterState.SILENT)
    print_settle.settle(
        world.app, world.job(case).token, "failed", person("tom"), "cleared for the next test"
    )


def test_a_print_on_a_silent_printer_is_settled_on_its_page(world: World, open_page: Opened) -> None:
    case = world.printing("SILENT^SIM", "um3-right", PrintState.PRINTING, progress=0.4)
    world.read_printer("um3-right", PrinterState.SILENT, age_s=600.0)
    page: Any = open_page(f"/cases/{case.id}", "tom")
    page.wait_for_selector("#prints form select[name=outcome]")
    assert "silent since" in text(page, "#prints") and "silent since" in text(page, "#now")
    keep_picture(page, "case-silent")
    board = open_page(f"/board#token={identity.add_token(world.app, 'silent', ['board'], 'test')}")
    board.wait_for_selector("#printers article:has-text('Silent since')")
    keep_picture(board, "board-silent")
    page.select_option("#prints select[name=outcome]", "failed")
    page.fill("#prints textarea[name=note]", "its board is dead, the part is scrap")
    page.click("#prints form:has(select[name=outcome]) button[type=submit]")
    page.click("dialog button.primary")
    page.wait_for_selector("#prints .badge:has-text('failed')")
    assert world.job(case).state is PrintState.FAILED


def test_the_board_says_which_printers_it_counts_on_and_what_is_overdue(
    world: World, open_page: Opened
) -> None:
    soon, passed = world.sliced("SOON^SUE"), world.sliced("PASSED^PAT")
    now = world.app.clock.now()
    person_steps.set_surgery_time(world.app, soon.id, person("ada"), now + timedelta(days=1))
    person_steps.set_surgery_time(world.app, passed.id, person("ada"), now - timedelta(days=1))
    world.read_printer("um3-left", PrinterState.ERROR)
    world.read_printer("um3-right", PrinterState.SILENT, age_s=600.0)
    world.read_printer("um3-spare", PrinterState.ERROR)
    board = open_page(f"/board#token={identity.add_token(world.app, 'counted', ['board'], 'test')}")
    board.wait_for_selector("#next .tile:has-text('No printer can be counted on')")
    assert "ready" not in text(board, "#next")
    late = text(board, f"#next .tile:has-text('{passed.code}')")
    assert "PASSED" in late and "start the print on the case's page" in late
    world.read_printer("um3-spare", PrinterState.IDLE)
    board.wait_for_selector("#next .tile:has-text('on um3-spare, ready')")
    assert "um3-right does not answer" in text(board, "#next")
    keep_picture(board, "board-next")
