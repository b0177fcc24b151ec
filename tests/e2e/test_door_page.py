"""The scan at the door in a real browser: STOP fills the screen, and only a clean scan issues the pack."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from service.results.label_code import write_code
from service.workflow import door
from tests.e2e.test_pages import browser
from tests.support_app import PASSWORD, Rig
from tests.support_sterile import NURSE, PATIENT_ID, TECH, Room, make_room
from tests.support_web import served_door

__all__ = ["browser"]
pytestmark = pytest.mark.e2e
SIZE = {"width": 1280, "height": 800}


@pytest.fixture
def room(rig: Rig) -> Room:
    return make_room(rig).to_released()


@pytest.fixture
def opened(room: Room, browser: Any) -> Iterator[Any]:
    """opened(path, who): a page, logged in; faults in the console fail the test."""
    faults: list[str] = []
    with served_door(room.rig) as served:
        contexts = []

        def page_of(path: str, who: str) -> Any:
            room.client(who)  # makes the user
            context = browser.new_context(viewport=SIZE)
            contexts.append(context)
            answer = context.request.post(
                f"{served.url}/api/v1/login", data={"username": who, "password": PASSWORD}
            )
            assert answer.ok
            page = context.new_page()
            page.set_default_timeout(60_000)
            page.on("pageerror", lambda e: faults.append(str(e)))
            page.goto(served.url + path)
            return page

        yield page_of
        for context in contexts:
            context.close()
    assert faults == []


def picture(page: Any, name: str) -> None:
    """Kept only when somebody wants to look: SPINEPRINT_PICTURES names the folder."""
    folder = os.environ.get("SPINEPRINT_PICTURES")
    if folder:
        page.screenshot(path=str(Path(folder) / f"{name}.png"))


def scan(page: Any, code: str, wristband: str, *, dry: str = "true") -> None:
    page.fill("[name=pack_code]", code)
    page.press("[name=pack_code]", "Enter")  # as a scanner ends its line
    page.keyboard.type(wristband)
    page.select_option("[name=pack_intact]", "true")
    page.select_option("[name=pack_dry]", dry)
    page.click("button[type=submit]")


def fills_the_screen(page: Any, box: str) -> bool:
    found = page.locator(box).bounding_box()
    return bool((found["x"], found["y"]) == (0, 0) and found["width"] == 1280 and found["height"] == 800)


def test_stop_fills_the_screen_until_the_pack_is_right(room: Room, opened: Any) -> None:
    code = write_code(door.label_data(room.rig.app, room.item_id).code)
    page = opened("/door", NURSE)
    for wristband, dry, words in (
        ("SOMEBODY", "true", "wrong patient"),
        (PATIENT_ID, "false", "intact and dry"),
    ):
        scan(page, code, wristband, dry=dry)
        page.wait_for_selector("#stop:not([hidden])")
        assert fills_the_screen(page, "#stop")
        assert words in page.locator("#stop-reasons").inner_text()
        picture(page, f"door-stop-{dry}")
        assert page.input_value("[name=wristband]") == ""
        page.click("#stop-close")
    assert room.item["state"] == "RELEASED"
    scan(page, "no label of ours", PATIENT_ID)
    page.wait_for_selector("#stop:not([hidden])")
    assert "not that of a spineprint pack" in page.locator("#stop").inner_text()
    page.click("#stop-close")
    picture(page, "door")
    page.context.set_offline(True)
    scan(page, code, PATIENT_ID)
    page.wait_for_selector("#stop:not([hidden])")
    assert "does not answer" in page.locator("#stop").inner_text()
    page.click("#stop-close")
    page.context.set_offline(False)
    scan(page, code, PATIENT_ID)
    page.wait_for_selector("#go:not([hidden])")
    assert fills_the_screen(page, "#go")
    picture(page, "door-go")
    assert room.item["state"] == "ISSUED"


def test_a_card_says_why_it_waits_and_offers_its_papers(room: Room, opened: Any) -> None:
    page = opened("/cssd", TECH)
    card = f"[data-id='{room.item_id}']"
    page.wait_for_selector(f"{card} [data-wait]")
    assert "waits to be issued" in page.locator(f"{card} [data-wait]").inner_text()
    links = page.locator(f"{card} .papers a")
    assert links.count() == 4
    for index in range(4):
        answer = page.request.get(page.url.split("/cssd")[0] + links.nth(index).get_attribute("href"))
        assert answer.ok
    summary = page.locator("#summary a")
    assert summary.count() == 2
    for index in range(2):
        assert page.request.get(page.url.split("/cssd")[0] + summary.nth(index).get_attribute("href")).ok
    picture(page, "cssd")
