"""The pages about receiving in a real browser: the line that counts, late images, operations."""

from __future__ import annotations

import re
import time
from datetime import timedelta
from typing import Any

import pytest

from service.domain.case import CaseState
from service.ports import NodeEvent
from service.store import deliveries, studies
from service.store.cases import Case
from service.store.database import reading, transaction
from service.workflow import intake
from tests.e2e import pages_world
from tests.e2e.pages_world import World
from tests.e2e.test_pages import Opened, browser, open_page, text, url  # fixtures are found by name
from tests.support_dicom import ct_slice, save

__all__ = ["browser", "open_page", "url"]
pytestmark = pytest.mark.e2e

DICOM = {
    "quiet_s": 600,
    "require_known_peers": True,
    "peers": [
        {"ae_title": "CT1", "host": "127.0.0.1", "port": 1, "roles": ["planning_ct"]},
        {"ae_title": "OARM", "host": "10.1.9.0/24", "port": 0, "roles": ["oarm"]},
    ],
}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return pages_world.open_world(tmp_path_factory.mktemp("pages"), dicom=DICOM)


def _late(world: World, case: Case, images: int, *, complete: bool = True) -> None:
    """Images of the case's own series, after it was complete."""
    with reading(world.app.engine) as connection:
        study = studies.need(connection, case.study_uid)
    for index in range(images):
        ds = ct_slice(100 + index, size=64, study=case.study_uid, series=f"{case.study_uid}.2",
                      patient_id=study.patient_id, patient_name=study.patient_name)  # fmt: skip
        world.hand_over(save(ds, world.folder / f"late-{time.monotonic_ns()}.dcm"), "CT2")
    if complete:
        with reading(world.app.engine) as connection:
            study = studies.need(connection, case.study_uid)
        intake.complete(world.app, study)


def _seconds(page: Any, selector: str, pattern: str) -> int:
    found = re.search(pattern, text(page, selector))
    assert found, text(page, selector)
    return int(found.group(1))


def test_the_line_counts_by_itself_between_two_answers(world: World, open_page: Opened, url: str) -> None:
    world.receiving("COUNT^CORA", slices=5)
    page = open_page("/", "ada")
    row = "#receiving .strip:has-text('COUNT')"
    page.wait_for_selector(f"{row} >> text=closes in")
    assert re.search(r"5 slices, last \d+ s ago, closes in \d+ min", text(page, row))
    bodies: list[int] = []
    page.on("response", lambda r: bodies.append(r.status) if r.url == f"{url}/api/v1/studies" else None)
    before, started = _seconds(page, row, r"last (\d+) s ago"), time.monotonic()
    page.wait_for_timeout(4500)
    # a busy machine draws late: no second may be made up, and the line must have gone on
    while (counted := _seconds(page, row, r"last (\d+) s ago") - before) < 4:
        assert time.monotonic() - started < 30, "the line stands still"
        page.wait_for_timeout(200)
    assert counted <= time.monotonic() - started + 1
    assert bodies and set(bodies) == {304}, "an age alone must not be a new answer"


def test_the_line_says_who_holds_a_study_open_and_a_person_need_not_wait(
    world: World, open_page: Opened
) -> None:
    study_uid = world.receiving("HELD^HELEN", slices=3)
    world.node.open = {"a1": "CT1"}
    try:
        page = open_page("/", "ada")
        row = "#cases tr:has-text('HELD')"
        page.wait_for_selector(f"{row} >> text=held open by CT1")
        page.click(f"{row} a.code")
        page.wait_for_selector("#now >> text=held open by CT1")
        page.click("#now >> text=Use now")
        page.click("#confirm-yes")
        page.wait_for_selector("#now >> text=closing now")
        with reading(world.app.engine) as connection:
            assert studies.need(connection, study_uid).use_now
    finally:
        world.node.open = {}


def test_late_images_ask_for_a_decision_and_keeping_the_model_is_signed_with_a_name(
    world: World, open_page: Opened
) -> None:
    case = world.plan_ready("LATE^LARS")
    _late(world, case, 3)
    page = open_page(f"/cases/{case.id}", "ada")
    page.wait_for_selector("#now .note")
    shown = text(page, "#now")
    assert "3 images arrived after the study was complete." in shown
    assert "Revision 2: 3 images in 1 series from CT2" in shown
    assert "The model was built from revision 1 (24 images)." in shown
    assert "must decide about the images" in shown
    page.click("#now >> text=Keep the model")
    page.click("#confirm-yes")
    page.wait_for_selector("#now .note.calm")
    assert "ada decided" in text(page, "#now")
    page.wait_for_selector("#timeline >> text=Later images left out")
    kept = world.case(case.id)
    assert (kept.state, kept.newer_images) == (CaseState.PLAN_READY, False)


def test_looking_at_new_images_tells_the_surgeon_that_the_approval_ends(
    world: World, open_page: Opened
) -> None:
    case = world.sliced("SIGNED^SUE")
    _late(world, case, 1)
    planner = open_page(f"/cases/{case.id}", "ada", faults_expected=True)
    planner.click("#now >> text=Look at the new images")
    planner.click("#confirm-yes")
    planner.wait_for_selector("#now .problem >> text=only a surgeon")
    assert world.case(case.id).state is CaseState.SLICED
    page = open_page(f"/cases/{case.id}", "lin")
    page.wait_for_selector("#now .note >> text=approved by lin")
    page.click("#now >> text=Look at the new images")
    assert "The approval by lin ends." in text(page, "#confirm-text")
    page.click("#confirm-yes")
    page.wait_for_selector("#timeline >> text=New images are looked at")
    assert "the approval ended" in text(page, "#timeline")
    assert world.case(case.id).state is CaseState.RECEIVING


def test_nobody_decides_while_images_are_arriving(world: World, open_page: Opened) -> None:
    case = world.plan_ready("STILL^STAN")
    _late(world, case, 2, complete=False)
    page = open_page(f"/cases/{case.id}", "lin")
    page.wait_for_selector("#now .note >> text=Images are still arriving")
    assert page.locator("#now >> text=Keep the model").count() == 0
    assert "revision 2: 2 images arrived after completion" in text(page, "#now")


def test_an_administrator_sees_who_was_turned_away_and_what_to_add(world: World, open_page: Opened) -> None:
    now = world.app.clock.now()
    world.node.events = [
        NodeEvent(now, "rejected_calling_ae", "NEWPACS", "SPINEPRINT", "10.1.4.7", "not configured"),
        NodeEvent(now, "rejected_calling_ae", "NEWPACS", "SPINEPRINT", "10.1.4.7", "not configured"),
        NodeEvent(now, "rejected_called_ae", "CT7<b>", "SPINE", "10.1.5.5", "it called SPINE"),
    ]
    world.node.open = {"z1": "CT1"}
    world.node.counts = {"received": 512, "rejected_calling_ae": 2, "rejected_called_ae": 1}
    page = open_page("/operations", "tom")
    page.wait_for_selector("#events >> text=NEWPACS")
    row = text(page, "#events tr:has-text('NEWPACS')")
    assert "2 times" in row and "10.1.4.7" in row
    assert '[[dicom.peers]]\nae_title = "NEWPACS"\nhost = "10.1.4.7"' in row
    assert "CT7<b>" in text(page, "#events")
    assert "SPINEPRINT" in text(page, "#nodes") and "port 11112" in text(page, "#nodes")
    assert re.search(r"CT1\s+\d+ s\s+0\s+none yet", text(page, "#nodes table"))
    page.click("#nodes summary")
    assert re.search(r"associations rejected\s+3", text(page, "#nodes"))
    world.node.open = {}
    page.wait_for_selector("#nodes >> text=No association is open.")
    assert page.locator("#nodes details[open]").count() == 1, "what a person unfolded stays open"


def test_an_echo_that_is_not_answered_says_what_to_check(open_page: Opened) -> None:
    page = open_page("/operations", "tom")
    page.wait_for_selector("#peers tr:has-text('OARM') >> text=only calls us")
    page.click("[aria-label='Echo CT1']")
    page.wait_for_selector("#peers >> text=no answer")
    assert "Check that CT1 runs" in text(page, "#peers")


def test_copies_set_aside_and_unreadable_files_are_listed(world: World, open_page: Opened) -> None:
    case = world.received("COPY^CODY")
    ds = ct_slice(0, size=64, study=case.study_uid, series=f"{case.study_uid}.2", patient_id=f"P{world.made}")
    ds.PixelData = b"\1\0" * (64 * 64)
    world.hand_over(save(ds, world.folder / "other.dcm"), "CT2")
    bad = world.folder / "bad.dcm"
    bad.write_bytes(b"\0" * 128 + b"DICM\x02\x00")
    world.hand_over(bad, "CT9")
    page = open_page("/operations", "tom")
    page.wait_for_selector("#aside table")
    row = text(page, "#aside tbody")
    assert "other content under the same UID" in row and "CT1" in row and "CT2" in row and case.code in row
    assert "bad.dcm" in text(page, "#unreadable") and "CT9" in text(page, "#unreadable")


def test_results_that_did_not_get_through_are_listed_and_sent_again_in_one_step(
    world: World, open_page: Opened
) -> None:
    case = world.received("DEAD^DORA")
    now = world.app.clock.now()
    with transaction(world.app.engine) as connection:
        for n in range(3):
            deliveries.add(connection, case_id=case.id, destination="PACS7", sop_uid=f"1.2.3.{n}", kind="sr",
                           path=world.folder / "x.dcm", now=now)  # fmt: skip
        one, two, _three = deliveries.claim(
            connection, "PACS7", by="w", now=now, lease=timedelta(minutes=5), most=3
        )
        deliveries.given_up(connection, one, now, "no connection")
        deliveries.refused(connection, two, now, "A900 <no>")
    page = open_page("/operations", "tom")
    page.wait_for_selector("#stuck table")
    rows = text(page, "#stuck tbody")
    assert case.code in rows and "given up" in rows and "A900 <no>" in rows and "DORA" not in rows
    assert page.locator("#stuck tbody tr").count() == 2
    page.click("#stuck >> text=Send all to PACS7 again")
    page.click("#confirm-yes")
    page.wait_for_selector("#stuck >> text=Nothing:")


def test_the_operations_are_not_for_everybody(open_page: Opened) -> None:
    page = open_page("/operations", "lin", faults_expected=True)
    assert "for technicians and administrators" in text(page)
    assert page.locator("nav >> text=Operations").count() == 0
