"""The upload page in a real browser: a zip, a folder, what is refused, a retry, and the case that comes of it."""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from service.store import cases, studies
from service.store.database import reading
from service.workflow import intake
from tests.support_app import PASSWORD, STUDY, Rig, add_people
from tests.support_web import DoorRig, ct_file, served_door, zipped

pytestmark = pytest.mark.e2e

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    api = pytest.importorskip("playwright.sync_api", reason="the package playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("chromium is not installed; the pages are not tried in a browser")
    with api.sync_playwright() as playwright:
        started = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--headless=new", "--no-sandbox", "--disable-gpu"]
        )
        yield started
        started.close()


@pytest.fixture
def served(rig: Rig) -> Iterator[DoorRig]:
    with served_door(rig) as made:
        yield made


@pytest.fixture
def open_page(browser: Any, served: DoorRig) -> Iterator[Callable[..., Any]]:
    contexts: list[Any] = []
    faults: list[str] = []

    def opened(who: str = "planner", path: str = "/upload", *, faults_expected: bool = False) -> Any:
        add_people(served.rig.app, who)
        context = browser.new_context(viewport={"width": 1440, "height": 900})
        contexts.append(context)
        login = {"username": who, "password": PASSWORD}
        assert context.request.post(f"{served.url}/api/v1/login", data=login).ok
        page = context.new_page()
        page.set_default_timeout(60_000)
        page.on("pageerror", lambda e: faults.append(str(e)))
        if not faults_expected:
            page.on("console", lambda m: faults.append(m.text) if m.type == "error" else None)
        page.goto(served.url + path)
        return page

    yield opened
    for context in contexts:
        context.close()
    assert faults == []


def disc(folder: Path, images: int = 12) -> Path:
    """A folder as it comes on a disc: images without endings, a table of contents, a text and a viewer."""
    for index in range(images):
        ct_file(folder / "DICOM" / "ST1", index, size=128, seed=1)
    (folder / "README.TXT").write_text("Open VIEWER.EXE", "ascii")
    (folder / "VIEWER.EXE").write_bytes(b"MZ" + b"\0" * 4000)
    return folder


def text(page: Any, selector: str) -> str:
    return str(page.locator(selector).inner_text())


def test_a_folder_becomes_a_case_with_a_link(
    tmp_path: Path, served: DoorRig, open_page: Callable[..., Any]
) -> None:
    page = open_page("planner", "/")
    page.click("text=Upload images")
    page.set_input_files("#folder", disc(tmp_path / "DISC"))
    page.wait_for_selector("text=Everything was taken in.")
    counts = text(page, "#counts")
    assert re.search(r"12\s+stored", counts)
    assert "README.TXT" in counts and "VIEWER.EXE" in counts and re.search(r"2\s+not DICOM", counts)
    page.wait_for_selector("#studies a.button")
    with reading(served.rig.app.engine) as connection:
        case = cases.by_study(connection, STUDY)
    assert case is not None
    assert text(page, "#studies a.button") == f"Case {case.code}"
    page.click("text=Complete now")
    page.click("#confirm-yes")
    page.wait_for_function("!document.querySelector('#confirm').open")
    page.wait_for_timeout(300)
    intake.tick(served.rig.app, {})
    with reading(served.rig.app.engine) as connection:
        assert studies.need(connection, STUDY).state == "COMPLETE"
    page.wait_for_selector("#studies button", state="detached")
    page.click("#studies a.button")
    page.wait_for_url(f"{served.url}/cases/{case.id}")


def test_a_zip_says_what_was_refused_in_words(
    tmp_path: Path, served: DoorRig, open_page: Callable[..., Any]
) -> None:
    image = ct_file(tmp_path / "a", 1)
    damaged = ct_file(tmp_path / "a", 2).read_bytes()[:200]
    files = {
        "IMG1": image.read_bytes(),
        "again": image.read_bytes(),
        "cut": damaged,
        "in.zip": zipped({"x": b"y"}),
    }
    (tmp_path / "export.zip").write_bytes(zipped(files))
    page = open_page()
    page.set_input_files("#files", tmp_path / "export.zip")
    page.wait_for_selector("#words .note")
    counts, words = text(page, "#counts"), text(page, "#words")
    assert re.search(r"1\s+stored", counts) and re.search(r"1\s+already here", counts)
    assert re.search(r"2\s+refused", counts)
    assert "in.zip" in words and "zip inside the zip" in words and "cut" in words and "Next:" in words
    assert len(served.instances(STUDY)) == 1


def test_only_what_failed_is_sent_again(
    tmp_path: Path, served: DoorRig, open_page: Callable[..., Any]
) -> None:
    page = open_page(faults_expected=True)
    sent: list[str] = []
    page.on("request", lambda r: sent.append(r.url) if r.method == "POST" else None)
    files = [ct_file(tmp_path / "a", index) for index in range(6)]
    lost = {"left": 2}

    def drop_two(route: Any) -> None:
        if lost["left"]:
            lost["left"] -= 1
            route.abort("connectionreset")
        else:
            route.continue_()

    page.route("**/api/v1/uploads?*", drop_two)
    page.set_input_files("#files", files)
    page.wait_for_selector("#retry:visible")
    assert text(page, "#retry") == "Send again what failed (2)"
    assert "The service does not answer" in text(page, "#rows")
    assert len(served.instances(STUDY)) == 4
    page.click("#retry")
    page.wait_for_selector("text=Everything was taken in.")
    assert len(sent) == 8
    assert re.search(r"6\s+stored", text(page, "#counts"))
    assert len(served.instances(STUDY)) == 6


def test_cancelling_stops_and_leaves_nothing_half(
    tmp_path: Path, served: DoorRig, open_page: Callable[..., Any]
) -> None:
    from playwright import sync_api

    page = open_page(faults_expected=True)
    files = [ct_file(tmp_path / "a", index) for index in range(30)]

    def slow(route: Any) -> None:
        page.wait_for_timeout(150)
        # a request that the page has cancelled meanwhile can be neither continued nor answered
        with contextlib.suppress(sync_api.Error):
            route.continue_()

    page.route("**/api/v1/uploads?*", slow)
    page.set_input_files("#files", files)
    page.click("#cancel")
    page.wait_for_selector("#retry:visible")
    assert "cancelled" in text(page, "#rows")
    assert len(served.instances(STUDY)) < 30
    page.unroute("**/api/v1/uploads?*")
    page.click("#retry")
    page.wait_for_selector("text=all done")
    assert len(served.instances(STUDY)) == 30


def test_the_page_is_for_those_who_may_bring_images(open_page: Callable[..., Any]) -> None:
    nurse = open_page("theatre-nurse", "/upload", faults_expected=True)
    assert "needs one of these roles" in text(nurse, "main")
    nurse.goto(nurse.url.replace("/upload", "/"))
    assert nurse.locator("text=Upload images").count() == 0
