"""Sterile services in a real browser: a posted record is signed for, tokens are made and revoked, numbers are shown."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

from service.workflow import identity, person_steps
from tests.contract.test_cycle_record import as_csv, rows
from tests.e2e.test_door_page import browser, opened, picture
from tests.support_app import PASSWORD, PLANNER, Rig
from tests.support_sterile import BASE, DEVICE, LOAD, TECH, Room, make_room

__all__ = ["browser", "opened"]
pytestmark = pytest.mark.e2e


@pytest.fixture
def room(rig: Rig) -> Iterator[Room]:
    made = make_room(rig).to_loaded()
    made.does(f"loads/{LOAD}", "start")
    yield made


def test_the_operator_signs_for_what_the_steriliser_posted(room: Room, opened: Any) -> None:
    raw = as_csv(rows(room.rig.clock.now())).encode()
    room.wait(6)
    token = identity.add_token(room.rig.app, "z1", ["steriliser"], "test", steriliser=DEVICE)
    page = opened("/cssd#load", TECH)
    card = f"[data-id='{LOAD}']"
    page.wait_for_selector(card)
    posted = page.request.post(
        page.url.split("/cssd")[0] + f"{BASE}/sterilisers/{DEVICE}/cycle-record?name=run-1.csv",
        data=raw, headers={"Authorization": f"Bearer {token}", "Cookie": ""},
    )  # fmt: skip
    assert posted.status == 201, posted.text()
    page.wait_for_selector(f"{card} .received:has-text('run-1.csv')")  # by itself, while the page is open
    assert "within the window" in page.locator(f"{card} .received").inner_text()
    page.fill(f"{card} .received [name=password]", PASSWORD)
    picture(page, "cssd-received")
    page.click(f"{card} .received button[type=submit]")
    page.wait_for_selector(f"{card} .badge:has-text('exposed')")
    with page.expect_download() as download:
        page.click(f"{card} .received a")
    assert download.value.path().read_bytes() == raw


def test_an_administrator_makes_and_revokes_the_token_of_a_steriliser(room: Room, opened: Any) -> None:
    page = opened("/operations", "admin")
    page.click("#tokens details summary")
    page.fill("#tokens [name=name]", "z1")
    page.wait_for_selector(f"#tokens [name=steriliser] option[value={DEVICE}]", state="attached")
    page.select_option("#tokens [name=steriliser]", DEVICE)
    page.click("#tokens button[type=submit]")
    page.wait_for_selector("#tokens [data-token=z1]")
    secret = page.locator("#tokens code").inner_text()
    assert identity.token_of(room.rig.app, secret) is not None
    picture(page, "operations-tokens")
    page.click("#tokens [data-token=z1] button")
    page.click("dialog button:has-text('Revoke')")
    page.wait_for_selector("#tokens [data-token=z1]:has-text('revoked')")
    assert identity.token_of(room.rig.app, secret) is None


def test_numbers_and_too_late_are_said_in_words(room: Room, opened: Any) -> None:
    page = opened("/cssd/settings", TECH)
    assert "38 °C, 270 min" in page.locator("tr[data-name=GS5_COOL]").inner_text()
    picture(page, "cssd-settings")
    soon = room.rig.clock.now() + timedelta(hours=5)
    person_steps.set_surgery_time(room.rig.app, room.case_id, PLANNER, soon)
    page.goto(page.url.replace("/cssd/settings", "/"))
    page.wait_for_selector("#cases .badge:has-text('too late')")
    page.goto(page.url + "board")
    page.wait_for_selector(".plan-line:has-text('Too late')")
    picture(page, "board-late")
