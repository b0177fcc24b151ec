"""The pages in a real browser, served over real cases: what people see and what they can do."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from service.domain.case import CaseState
from service.domain.edits import edits_from_document
from service.domain.print_job import PrintState
from service.domain.sterilisation import Steriliser
from service.ports import PrinterState
from service.store import sterile, studies
from service.store.database import reading
from service.workflow import build, identity, print_pictures, sterilise
from tests.e2e import pages_world
from tests.e2e.pages_world import CENTRE, PASSWORD, World, person
from tests.support_photo import photo

pytestmark = pytest.mark.e2e

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
_ARGUMENTS = [
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--use-gl=angle",
    "--use-angle=swiftshader", "--enable-unsafe-swiftshader",
]  # fmt: skip


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return pages_world.open_world(tmp_path_factory.mktemp("pages"))


@pytest.fixture(scope="module")
def url(world: World) -> Iterator[str]:
    with pages_world.served(world) as address:
        yield address


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    api = pytest.importorskip("playwright.sync_api", reason="the package playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("chromium is not installed; the pages are not tried in a browser")
    with api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=_ARGUMENTS)
        yield started
        started.close()


Opened = Callable[..., Any]


@pytest.fixture
def open_page(browser: Any, url: str) -> Iterator[Opened]:
    """open_page(path, who): a page of a fresh browser context, logged in; console errors fail the test."""
    faults: list[str] = []
    contexts = []

    def opened(
        path: str, who: str = "", *, faults_expected: bool = False, size: tuple[int, int] = (1280, 800)
    ) -> Any:
        context = browser.new_context(viewport={"width": size[0], "height": size[1]})
        contexts.append(context)
        if who:
            answer = context.request.post(f"{url}/api/v1/login", data={"username": who, "password": PASSWORD})
            assert answer.ok
        page = context.new_page()
        page.set_default_timeout(60_000)
        if not faults_expected:
            page.on("console", lambda m: faults.append(m.text) if m.type == "error" else None)
        page.on("pageerror", lambda e: faults.append(str(e)))
        # Everything must come from the service itself: a hospital's network has no internet.
        page.on(
            "request", lambda r: None if r.url.startswith((url, "blob:", "data:")) else faults.append(r.url)
        )
        page.goto(url + path)
        return page

    yield opened
    for context in contexts:
        context.close()
    assert faults == []


def text(page: Any, selector: str = "body") -> str:
    return str(page.locator(selector).inner_text())


# --- people -------------------------------------------------------------------------------------------------


def test_a_person_logs_in_and_is_led_back_but_only_within_the_service(open_page: Opened, url: str) -> None:
    page = open_page("/cssd", faults_expected=True)
    assert page.url == f"{url}/login?next=/cssd"
    page.fill("[name=username]", "sue")
    page.fill("[name=password]", "not the password")
    page.click("text=Log in >> nth=-1")
    page.wait_for_selector(".problem")
    assert "Next:" in text(page, ".problem")
    page.fill("[name=password]", PASSWORD)
    page.press("[name=password]", "Enter")
    page.wait_for_url(f"{url}/cssd")
    assert "Sue Example" in text(page, "header") and "cssd supervisor" in text(page, "header")
    page.click("#logout")
    page.wait_for_url(f"{url}/login")
    for elsewhere in ("//evil.example/x", "/\\evil.example"):
        page.goto(f"{url}/login?next={elsewhere}")
        page.fill("[name=username]", "sue")
        page.fill("[name=password]", PASSWORD)
        page.press("[name=password]", "Enter")
        page.wait_for_selector("#logout")
        assert page.url.startswith(url)
        page.click("#logout")
        page.wait_for_selector("#login")


def test_cases_show_attention_first_and_the_live_line(world: World, open_page: Opened) -> None:
    parked = world.attention("ATTEND^ANN")
    world.receiving("ARRIVE^ART", slices=7)
    page = open_page("/", "ada")
    page.wait_for_selector("tr.attend")
    first = text(page, "#cases tbody tr >> nth=0")
    assert parked.code in first and "The worker lost its disk." in first and "Next: Resume the case." in first
    page.wait_for_selector("#receiving .strip")
    assert re.search(r"7 slices, last \d+ s ago, closes in \d+ min", text(page, "#receiving"))
    page.click(f"tr.attend:has-text('{parked.code}') button:has-text('Resume')")
    page.wait_for_selector(f"tr:not(.attend):has-text('{parked.code}')")
    assert world.case(parked.id).state.value == "BUILDING"


def test_a_set_aside_scan_of_another_patient_is_refused_with_the_next_step(
    world: World, open_page: Opened
) -> None:
    case, other = world.sliced("OWN^OLA"), world.sliced("OTHER^OLE")
    study_uid = world.oarm_study(other, "UNMATCHED")
    page = open_page("/", "lin", faults_expected=True)
    page.wait_for_selector("#aside .strip select")
    page.select_option("#aside select", case.id)
    page.click("#aside button:has-text('Assign')")
    page.wait_for_selector("#aside .problem")
    assert "Next:" in text(page, "#aside .problem")
    with reading(world.app.engine) as connection:
        assert studies.need(connection, study_uid).state == "UNMATCHED"


def test_a_planner_places_the_points_by_clicking_on_slices(world: World, open_page: Opened) -> None:
    case = world.received("CLICK^CARL")
    page = open_page(f"/cases/{case.id}/plan", "ada")
    axial = page.locator("[data-plane=axial] canvas")
    page.wait_for_selector("[data-plane=axial][data-at]")
    grid = page.request.get(
        f"{page.url.removesuffix('/plan').replace('/cases/', '/api/v1/cases/')}/slices"
    ).json()
    plane = grid["planes"]["axial"]
    box = axial.bounding_box()
    wanted = (6.0, 4.0)
    share = [(w - plane["origin"][i]) / plane["mm_per_pixel"] + 0.5 for i, w in enumerate(wanted)]
    axial.click(
        position={
            "x": share[0] / plane["columns"] * box["width"],
            "y": share[1] / plane["rows"] * box["height"],
        }
    )
    values = [float(page.input_value(f"[data-point=target] input[type=number] >> nth={i}")) for i in range(3)]
    assert values[:2] == pytest.approx(wanted, abs=0.5)
    assert values[2] == pytest.approx(grid["centre"][2], abs=0.1)
    page.select_option("#viewer-tools select >> nth=0", "60 mm")
    page.wait_for_selector("[data-plane=axial][data-at]")
    # The box is centred on the cross-hair, so its middle is the point just placed.
    axial.click()
    zoomed = [float(page.input_value(f"[data-point=target] input[type=number] >> nth={i}")) for i in range(3)]
    assert zoomed == pytest.approx(values, abs=0.5)
    values = zoomed
    page.select_option("#inputs select[name=level]", "L1")
    page.click("text=Build the model")
    page.wait_for_url(re.compile(rf"/cases/{case.id}$"))
    after = world.case(case.id)
    assert (after.state.value, after.level, after.planned_by) == ("BUILDING", "L1", "ada")
    assert after.inputs["target"] == pytest.approx(values)


def test_a_point_may_be_typed_coordinate_by_coordinate(world: World, open_page: Opened) -> None:
    case = world.received("TYPED^TINA")
    page = open_page(f"/cases/{case.id}/plan", "ada")
    page.wait_for_selector("[data-plane=axial][data-at]")
    fields = page.locator("[data-point=target] input[type=number]")
    fields.nth(0).click()
    for n, number in enumerate(("1.5", "-2", "-200")):
        page.keyboard.type(number)
        assert fields.nth(n).input_value() == number
        if n == 1:
            page.select_option("#inputs select[name=level]", "L1")
            page.click("text=Build the model")
            assert "Target: a coordinate is missing." in text(page, "#inputs .problem")
            fields.nth(1).click()
        page.keyboard.press("Tab")
    page.wait_for_selector("[data-point=target] >> text=placed")
    fields.nth(1).fill("")
    page.keyboard.press("Tab")
    assert [fields.nth(n).input_value() for n in (0, 1)] == ["1.5", ""]
    fields.nth(1).fill("-3")
    page.click("text=Build the model")
    page.wait_for_url(re.compile(rf"/cases/{case.id}$"))
    assert world.case(case.id).inputs["target"] == [1.5, -3.0, -200.0]


def test_surface_points_are_added_dragged_and_taken_away_on_the_slices(
    world: World, open_page: Opened
) -> None:
    case = world.received("SURFACE^SUE")
    page = open_page(f"/cases/{case.id}/plan", "ada")
    page.wait_for_selector("[data-plane=axial][data-at]")
    page.locator("[data-plane=axial] canvas").click()  # the target: the middle of the scan
    page.check("[data-point=surface] input[type=radio]")
    rows = page.locator(".surface-list li")
    box = page.locator("[data-plane=axial] canvas").bounding_box()
    middle = (box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    for by in (20.0, 30.0, 40.0):
        page.mouse.move(middle[0] + by, middle[1])
        page.mouse.down()
        page.mouse.move(middle[0] + by, middle[1] + 5.0, steps=4)  # still the same point
        page.mouse.up()
    page.wait_for_selector("[data-point=surface] >> text=3 placed")
    shown = [[float(v) for v in row.split(",")] for row in rows.locator(".at").all_inner_texts()]
    assert len({tuple(p) for p in shown}) == 3 and shown[0][0] < shown[1][0] < shown[2][0]
    target = [float(page.input_value(f"[data-point=target] input[type=number] >> nth={i}")) for i in range(3)]
    assert shown[0][1] > target[1], "dragged down the axial slice, to the back"
    page.click("[aria-label='Take surface point 2 away']")
    page.wait_for_selector("[data-point=surface] >> text=2 placed")
    page.click("[aria-label='Show surface point 1']")
    page.click("text=Add at the cross-hair")
    wanted = [shown[0], shown[2], shown[0]]
    page.select_option("#inputs select[name=level]", "L1")
    page.click("text=Build the model")
    page.wait_for_url(re.compile(rf"/cases/{case.id}$"))
    assert np.allclose(world.case(case.id).inputs["surface_points"], wanted)


def test_the_endplates_of_a_fractured_body_are_marked_on_the_sagittal_slice(
    world: World, open_page: Opened
) -> None:
    case = world.received("PLATES^PAT")
    page = open_page(f"/cases/{case.id}/plan", "ada")
    page.wait_for_selector("[data-plane=sagittal][data-at]")
    page.locator("[data-plane=axial] canvas").click()  # the target: the middle of the scan
    target = [float(page.input_value(f"[data-point=target] input[type=number] >> nth={i}")) for i in range(3)]
    page.check("[data-point=plates] input[type=radio]")
    sagittal = page.locator("[data-plane=sagittal] canvas")

    def click(right: float, down: float) -> None:
        sagittal.scroll_into_view_if_needed()
        box = sagittal.bounding_box()
        x, y = box["x"] + box["width"] / 2 + right, box["y"] + box["height"] / 2 + down
        page.mouse.move(x, y)
        page.mouse.down()
        page.mouse.move(x + 1.0, y, steps=2)  # still the same point
        page.mouse.up()

    for right, down in ((-20.0, -12.0), (20.0, -16.0), (-20.0, 12.0)):
        click(right, down)
    page.select_option("#inputs select[name=level]", "L1")
    page.click("text=Build the model")
    assert "Endplate points are missing: Lower back." in text(page, "#inputs .problem")
    click(20.0, 16.0)
    page.wait_for_selector("[data-point=plates] >> text=4 of 4 placed")
    click(0.0, 40.0)  # all are placed: this one looks only
    shown = page.locator(".plate-list .where")
    before = shown.all_inner_texts()
    page.click("[aria-label='Clear upper back']")
    page.wait_for_selector("[data-point=plates] >> text=3 of 4 placed")
    click(24.0, -14.0)
    after = shown.all_inner_texts()
    assert [a == b for a, b in zip(after, before, strict=True)] == [True, False, True, True]
    page.click("text=Build the model")
    page.wait_for_url(re.compile(rf"/cases/{case.id}$"))
    upper_front, upper_back, lower_front, lower_back = world.case(case.id).inputs["endplates"]
    assert upper_front[1] < upper_back[1] and lower_front[1] < lower_back[1], "the back is to the back"
    assert upper_front[2] > lower_front[2] and upper_back[2] > lower_back[2], "the upper ones are higher"
    assert all(p[0] == pytest.approx(target[0], abs=0.2) for p in world.case(case.id).inputs["endplates"])


def test_what_was_given_before_is_shown_again_and_sent_on(world: World, open_page: Opened) -> None:
    case = world.received("AGAIN^ANN")
    points = ((1.0, 2.0, -3.5), (4.0, 5.0, 6.0))
    plates = tuple((float(n), 0.0, 0.0) for n in range(4))
    erase = {"kind": "erase", "centre": [1.0, 2.0, 3.0], "radius_mm": 3.0}
    given = build.ModelInputs(
        "L1", CENTRE, endplates=plates, surface_points=points, edits=edits_from_document([erase])
    )
    build.give_inputs(world.app, case.id, given, person("ada"))
    build.build(world.app, world.case(case.id), f"build-{case.id}")
    page = open_page(f"/cases/{case.id}/plan", "ada")
    page.wait_for_selector("[data-point=surface] >> text=2 placed")
    page.wait_for_selector("[data-point=plates] >> text=4 of 4 placed")
    page.uncheck("input[name=keep_edits]")
    page.click("[aria-label='Take surface point 1 away']")
    page.click("text=Build the model")
    page.wait_for_url(re.compile(rf"/cases/{case.id}$"))
    inputs = world.case(case.id).inputs
    assert inputs["surface_points"] == [list(points[1])]
    assert inputs["endplates"] == [list(p) for p in plates] and inputs["edits"] == []


_PAINTED = """() => {
  const source = document.querySelector('#model canvas');
  const copy = document.createElement('canvas'); copy.width = source.width; copy.height = source.height;
  const context = copy.getContext('2d'); context.drawImage(source, 0, 0);
  const { data } = context.getImageData(0, 0, copy.width, copy.height);
  let painted = 0; const tones = new Set();
  for (let i = 0; i < data.length; i += 4) if (data[i + 3] > 200) { painted += 1; tones.add(data[i] >> 3); }
  return { share: painted / (data.length / 4), tones: tones.size };
}"""


def test_a_surgeon_sees_the_model_and_approves_exactly_these_bytes(world: World, open_page: Opened) -> None:
    case = world.plan_ready("REVIEW^RITA")
    page = open_page(f"/cases/{case.id}/review", "lin")
    page.wait_for_selector("#model[data-drawn], #model img")
    if page.locator("#model canvas").count():
        painted = page.evaluate(_PAINTED)
        assert painted["share"] > 0.03 and painted["tones"] > 5
        page.select_option("[aria-label='Cutting plane']", "anterior")
        page.wait_for_timeout(300)
        assert page.evaluate(_PAINTED) != painted
    page.wait_for_selector("[data-plane=axial][data-at]")
    assert "L1" in text(page, "#identity") and "left and right" in text(page, "#identity")
    assert "2.4" in text(page, "#paths") and "16.7°" in text(page, "#paths")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), (
        "nothing sticks out at 1280 x 800"
    )
    button = page.locator("#approve button")
    page.fill("#approve [name=password]", PASSWORD)
    assert button.is_disabled()
    for box in page.locator("[name=ack]").all():
        assert button.is_disabled()
        box.check()
    shown = [text(page, "#plan-hash"), text(page, "#mesh-hash")]
    button.click()
    page.click("#confirm-yes")
    page.wait_for_url(re.compile(rf"/cases/{case.id}$"))
    assert world.case(case.id).state.value == "APPROVED"
    page.wait_for_selector("#timeline li:has-text('approved and signed')")
    assert "lin" in text(page, "#timeline li >> nth=0") and shown[0][:12] in text(
        page, "#timeline li >> nth=0"
    )


def test_without_3d_drawing_the_pictures_of_the_model_are_shown(world: World, open_page: Opened) -> None:
    case = world.plan_ready("NOWEBGL^NEIL")
    page = open_page("/cssd", "lin")
    page.add_init_script("HTMLCanvasElement.prototype.getContext = ((real) => function (kind, ...rest) {"
                         " return kind.startsWith('webgl') ? null : real.call(this, kind, ...rest); })"
                         "(HTMLCanvasElement.prototype.getContext)")  # fmt: skip
    page.goto(page.url.replace("/cssd", f"/cases/{case.id}/review"))
    page.wait_for_selector("#model img")
    assert page.evaluate("document.querySelector('#model img').decode().then(() => true)")
    assert "no 3-D drawing" in text(page, "#model-tools")


def test_a_wrong_signature_is_told_and_changes_nothing(world: World, open_page: Opened) -> None:
    case = world.plan_ready("WRONG^WIM")
    page = open_page(f"/cases/{case.id}/review", "lin", faults_expected=True)
    page.wait_for_selector("[name=ack] >> nth=1")
    for box in page.locator("[name=ack]").all():
        box.check()
    page.fill("#approve [name=password]", "not the password")
    page.click("#approve button")
    page.click("#confirm-yes")
    page.wait_for_selector("#approve .problem")
    assert "signature" in text(page, "#approve .problem") and "Next:" in text(page, "#approve .problem")
    assert world.case(case.id).state.value == "PLAN_READY"
    planner = open_page(f"/cases/{case.id}/review", "ada")
    planner.wait_for_selector("#why .note")
    assert "A surgeon approves" in text(planner, "#why") and planner.locator("#approve button").is_disabled()


def test_a_technician_confirms_the_clear_plate_and_starts_the_print(world: World, open_page: Opened) -> None:
    case = world.sliced("START^STAN")
    page = open_page(f"/cases/{case.id}", "tom")
    page.wait_for_selector("[data-action=start_print] option[value=um3-left]", state="attached")
    page.select_option("[name=printer]", "um3-left")
    page.click("[data-action=start_print] button")
    assert world.case(case.id).state.value == "SLICED", "the plate was not confirmed"
    page.check("[name=clear]")
    page.click("[data-action=start_print] button")
    page.click("#confirm-yes")
    page.wait_for_selector("#prints >> text=SP-")
    assert world.case(case.id).state.value == "PRINTING"


# --- screens ------------------------------------------------------------------------------------------------


def test_the_board_takes_its_token_out_of_the_address_and_names_no_patient(
    world: World, open_page: Opened
) -> None:
    case = world.printing(
        "SECRET^NAME", "um3-right", PrintState.PRINTING, progress=0.4, time_elapsed_s=7500, time_total_s=7200
    )
    world.read_printer("um3-right", PrinterState.BUSY, nozzle_c=210.0, bed_c=60.0)
    token = identity.add_token(world.app, "board-1", ["board"], "test")
    page = open_page(f"/board?token={token}", size=(1920, 1080))
    seen: list[str] = []
    page.on("response", lambda r: seen.append(r.text()) if "/api/" in r.url and r.status == 200 else None)
    page.wait_for_selector(f"#printers >> text={case.code}")
    page.reload()
    page.wait_for_selector(f"#printers >> text={case.code}")
    assert token not in page.url and token not in page.content()
    tile = text(page, "#printers article:has-text('um3-right')")
    assert "read" in tile and "ago" in tile and "5 min over the estimate" in tile
    with reading(world.app.engine) as connection:
        names = {s.patient_name.split("^")[0] for s in studies.listed(connection)}
    told = page.content() + "".join(seen)
    assert seen and "SECRET" in names and not [n for n in names if n and n in told]
    assert page.locator("button:visible, input:visible").count() == 0


def test_a_screen_without_answer_says_so(world: World, open_page: Opened) -> None:
    case = world.sliced("STALE^STEF")
    page = open_page("/login", "nia", faults_expected=True)
    page.clock.install()
    page.goto(page.url.replace("/login", f"/or/{case.id}"))
    page.wait_for_selector("[data-status=none]")
    assert not page.locator("#stale").is_visible()
    page.context.set_offline(True)
    page.clock.run_for(14_000)
    page.wait_for_selector("#stale:visible")
    assert "out of date" in text(page, "#stale")


_STATES: dict[str, tuple[str, dict[str, Any], list[str]]] = {
    "none": ("", {}, ["NO SCAN YET"]),
    "receiving": ("", {}, ["RECEIVING", "192 images"]),
    "computing": ("COMPUTING", {"stage": "registering", "fraction": 0.6}, ["MEASURING", "registering"]),
    "ready": (
        "READY",
        {"report": pages_world.verification("reposition", advice="Scan again.")},
        ["REPOSITION", "1.2 mm ± 0.6", "2.1 ° ± 0.9", "Breach grade", "Scan again."],
    ),
    "not_measurable": (
        "NOT_MEASURABLE",
        {"report": pages_world.verification("review", measured=False)},
        ["NOT MEASURABLE", "No needle was found", "Next:"],
    ),
    "failed": (
        "FAILED",
        {"error": {"message": "The measurement stopped.", "next_step": "Resume the case."}},
        ["FAILED", "The measurement stopped.", "Resume the case."],
    ),
}


def test_the_operating_room_shows_each_of_the_six_states(world: World, open_page: Opened) -> None:
    token = identity.add_token(world.app, "or-1", ["or_terminal"], "test")
    page = None
    for status, (scan_state, values, words) in _STATES.items():
        case = world.sliced(f"ORROOM^{status.upper()}")
        if status == "receiving":
            world.oarm_study(case, "RECEIVING")
        elif scan_state:
            world.scan(case, scan_state, **values)
        if page is None:
            page = open_page(f"/or/{case.id}?token={token}", size=(1920, 1080))
            origin = page.url.split("/or/")[0]
        else:
            page.goto(f"{origin}/or/{case.id}")
        page.wait_for_selector(f"[data-status={status}]")
        assert token not in page.url
        content = text(page)
        assert [w for w in words if w not in content] == [], status
        assert case.code in content and "Not a medical device" in content and "ORROOM" not in page.content()
        if status != "none":
            assert re.search(r"\d+ s ago", text(page, "#status"))


@pytest.mark.parametrize("verdict", ["accurate", "reposition", "review"])
def test_a_verdict_is_word_shape_and_colour(world: World, open_page: Opened, verdict: str) -> None:
    case = world.sliced(f"VERDICT^{verdict.upper()}")
    both = {"needles": [pages_world.NEEDLE, pages_world.NEEDLE | {"pedicle": "right"}]}
    world.scan(case, "READY", report=pages_world.verification(verdict) | both)
    page = open_page(f"/or/{case.id}", "nia", size=(1920, 1080))
    page.wait_for_selector(f".verdict.{verdict} svg")
    assert verdict.upper() in text(page, ".verdict")
    shape = {
        "accurate": "circle",
        "reposition": "path[d='M50 5L97 92H3z']",
        "review": "path[d='M50 3l47 47-47 47L3 50z']",
    }
    assert page.locator(f".verdict svg {shape[verdict]}").count() == 1
    assert page.evaluate("document.documentElement.scrollHeight <= innerHeight"), (
        "a wall screen does not scroll"
    )


def test_the_cement_step_is_signed_for_at_the_rooms_screen(world: World, open_page: Opened) -> None:
    case = world.sliced("CEMENT^CARLA")
    both = {"needles": [pages_world.NEEDLE, pages_world.NEEDLE | {"pedicle": "right"}]}
    report = pages_world.verification("reposition") | both
    scan = world.scan(case, "READY", report=report)
    world.put_to(case, CaseState.VERIFIED)
    world.ask_pictures(scan)
    token = identity.add_token(world.app, "or-cement", ["or_terminal"], "test")
    page = open_page(f"/or/{case.id}?token={token}", size=(1920, 1080), faults_expected=True)
    form = "form[data-cement=locked]"
    page.wait_for_selector(form)
    pictures_come_and_a_point_is_pointed_at(world, page, scan, report)
    assert page.evaluate("document.documentElement.scrollHeight <= innerHeight"), (
        "a wall screen does not scroll"
    )
    page.fill(f"{form} [name=username]", "lin")
    page.fill(f"{form} [name=password]", "wrong")
    page.fill(f"{form} [name=note]", "the fracture is reached from here")
    page.click(f"{form} button")
    page.wait_for_selector(f"{form} .problem")
    assert page.input_value(f"{form} [name=password]") == "", "no password stays on the screen"
    page.fill(f"{form} [name=password]", PASSWORD)
    if folder := os.environ.get("SPINEPRINT_PICTURES"):
        page.screenshot(path=f"{folder}/or-cement.png")
    page.click(f"{form} button")
    page.wait_for_selector("[data-cement=acknowledged]")
    assert "acknowledged by lin" in text(page, "#cement")
    # a newer scan locks again, also while somebody is typing
    world.scan(case, "READY", report=pages_world.verification("accurate"))
    page.wait_for_selector(form)
    page.focus(f"{form} [name=username]")
    world.scan(case, "COMPUTING", stage="registering", fraction=0.2)
    page.wait_for_selector("[data-status=computing]")
    assert page.locator(form).count() == 0


_VERIFICATION = """() => fetch(`/api/v1/cases/${document.body.dataset.case}/verification`, {
  headers: { Authorization: `Bearer ${sessionStorage.getItem('spineprint-screen-token')}` },
}).then((r) => r.json())"""


def pictures_come_and_a_point_is_pointed_at(
    world: World, page: Any, scan: str, report: dict[str, Any]
) -> None:
    """Beside the verdict the pictures are told to be made, fail, and come; then the tip is set by pointing at it."""
    page.wait_for_selector("#pictures[data-state=making]")
    assert "being drawn" in text(page, "#pictures")
    world.lose_pictures(scan, "The scan cannot be read.")
    page.wait_for_selector("#pictures[data-state=failed]")
    assert "The scan cannot be read." in text(page, "#pictures") and "figures stand" in text(
        page, "#pictures"
    )
    page.click("#pictures button:has-text('Draw them again')")
    page.wait_for_selector("#pictures[data-state=making]")
    world.pictures(scan, report)
    page.wait_for_selector("[data-picture=left-sagittal][data-loaded=yes]")
    page.wait_for_selector("[data-picture=left-axial][data-loaded=yes]")
    for part in (".verdict", ".or-tile >> nth=1"):
        box = page.locator(part).bounding_box()
        assert box["y"] >= 0 and box["y"] + box["height"] <= 1080, (
            "verdict and slices are whole on the screen"
        )
    assert page.locator("[data-picture=left-axial]").bounding_box()["width"] > 500
    page.click("[role=tab]:has-text('Right needle')")
    page.wait_for_selector("[data-picture=right-axial][data-loaded=yes]")
    page.click("[data-picture=right-axial]")
    page.wait_for_selector(".or-full [data-loaded=yes] img")
    assert "REPOSITION" in text(page, ".or-full") and "Right needle" in text(page, ".or-full-bar")
    page.keyboard.press("Escape")
    assert page.locator(".or-full").count() == 0
    page.click(".or-correct summary")
    page.click("button:has-text('Point on the slices')")
    wanted = point_at(page, "left-sagittal", report["needles"][0]["tip"], 2.0, -3.0)
    assert "moved 3.6 mm" in text(page, ".or-readout") and "as measured" in text(page, ".or-readout")
    page.click("[data-take]")
    would = text(page, ".or-would")
    found = re.search(r"Tip to be set: ([LR]) ([\d.]+)\s+([PA]) ([\d.]+)\s+([SI]) ([\d.]+) mm", would)
    assert found, would
    told = [float(found[n + 1]) * (1 if found[n] in "LPS" else -1) for n in (1, 3, 5)]
    assert told == pytest.approx(list(wanted), abs=0.25)
    if folder := os.environ.get("SPINEPRINT_PICTURES"):
        page.screenshot(path=f"{folder}/or-point.png")
    page.click(".or-correct summary")


def point_at(page: Any, name: str, start: Any, right_mm: float, down_mm: float) -> Any:
    """Click on a slice this far from where `start` is shown; the point of the planning CT that this is."""
    slice_ = page.locator(f"[data-slice={name}]")
    page.wait_for_function(f"document.querySelector('[data-slice={name}] img').naturalWidth > 0")
    shown = page.evaluate(_VERIFICATION)
    plane = next(i["plane"] for i in shown["pictures"]["items"] if i["name"] == name)
    right, down = (np.array(plane[v]) for v in ("right", "down"))
    wanted = np.array(start) + right_mm * right + down_mm * down
    column, row = ((wanted - plane["origin"]) @ v / plane["mm_per_pixel"] for v in (right, down))
    box = slice_.bounding_box()
    scale = box["width"] / (plane["x"] + plane["columns"])
    slice_.click(position={"x": (plane["x"] + column) * scale, "y": (plane["y"] + row) * scale})
    return wanted


def test_a_needle_that_was_not_found_is_pointed_at_on_the_slices(world: World, open_page: Opened) -> None:
    case = world.sliced("POINT^PETRA")
    report = pages_world.verification("review", measured=False)
    scan = world.scan(case, "NOT_MEASURABLE", report=report)
    world.put_to(case, CaseState.USED)
    world.ask_pictures(scan)
    world.pictures(scan, report)
    token = identity.add_token(world.app, "or-point", ["or_terminal"], "test")
    page = open_page(f"/or/{case.id}?token={token}", size=(1920, 1080), faults_expected=True)
    page.wait_for_selector("[data-status=not_measurable]")
    page.click(".or-correct summary")
    assert "The vertebra was found in this scan, but no needle." in text(page, ".or-correct")
    page.fill(".or-correct [name=username]", "lin")
    page.fill(".or-correct [name=reason]", "a faint rod is seen")
    page.fill(".or-correct [name=password]", PASSWORD)
    page.click(".or-correct button[value=set]")
    page.wait_for_selector(".or-correct .problem")
    assert "No point was given." in text(page, ".or-correct .problem"), "the plan is no point that was seen"
    page.click("button:has-text('Point on the slices')")
    plan = json.loads((world.model / "plan.json").read_text("utf-8"))["trajectories"][0]
    assert text(page, ".or-readout").count("as planned: point at it") == 2
    tip = point_at(page, "left-sagittal", plan["target"], 2.0, -3.0)
    page.click("[data-which=entry]")
    point_at(page, "left-sagittal", plan["entry"], 1.0, 2.0)
    assert "as planned" not in text(page, ".or-readout")
    page.click("[data-take]")
    page.fill(".or-correct [name=password]", PASSWORD)
    if folder := os.environ.get("SPINEPRINT_PICTURES"):
        page.screenshot(path=f"{folder}/or-not-found.png")
    page.click(".or-correct button[value=set]")
    page.wait_for_selector("[data-status=ready]")
    assert "set by hand" in text(page, "#status") and "REVIEW" in text(page, ".verdict")
    needle = page.evaluate(_VERIFICATION)["report"]["needles"][0]
    assert needle["tip"] == pytest.approx(list(tip), abs=0.25)
    assert world.case(case.id).state is CaseState.VERIFIED
    page.wait_for_selector("form[data-cement=locked]")


# --- sterile services ---------------------------------------------------------------------------------------


def test_sterile_services_offers_only_a_roles_steps_and_shows_refusals_in_full(
    world: World, open_page: Opened
) -> None:
    case = world.printed("STERILE^SVEN", "um3-spare")
    with reading(world.app.engine) as connection:
        item = sterile.items_of_case(connection, case.id)[0]
    tech = open_page("/cssd", "cem")
    tech.wait_for_selector(f"[data-id='{item.id}']")
    assert tech.locator(f"[data-id='{item.id}'] [data-event]").count() == 0
    page = open_page("/cssd", "ada", faults_expected=True)
    form = f"[data-id='{item.id}'] [data-event=pass_qa]"
    page.wait_for_selector(form)
    page.click(f"{form} summary")
    good = {"material": "PLA", "layer_mm": "0.2", "nozzle_c": "210", "bed_c": "60", "speed_mm_s": "50",
            "measured_x_mm": "36", "measured_y_mm": "58", "measured_z_mm": "22",
            "weight_g": "29.8", "engraved_id": case.code}  # fmt: skip
    for name, value in good.items():
        page.fill(f"{form} [name={name}]", value)
    for name in ("vents_clear", "gauge_go", "gauge_no_go"):
        page.select_option(f"{form} [name={name}]", "true")
    page.fill(f"{form} [name=password]", PASSWORD)
    page.click(f"{form} button[type=submit]")
    page.wait_for_selector(f"{form} .problem")
    refusal = text(page, f"{form} .problem")
    assert "Next:" in refusal and "mm" in refusal and "no photograph of the part" in refusal
    print_pictures.add_photo(world.app, item.id, photo(), person("ada"))
    assert page.input_value(f"{form} [name=material]") == "PLA", "what was typed stays"
    assert page.input_value(f"{form} [name=password]") == "", "the signature does not stay"
    page.fill(f"{form} [name=measured_y_mm]", "55")
    page.fill(f"{form} [name=password]", PASSWORD)
    page.click(f"{form} button[type=submit]")
    page.wait_for_selector(f"[data-id='{item.id}'] .badge:has-text('inspected')")
    assert world.case(case.id).state.value == "QA_PASSED"
    tech.reload()
    form = f"[data-id='{item.id}'] [data-event=pack]"
    tech.wait_for_selector(form, state="attached")
    tech.click(f"{form} summary")
    for name in ("clean", "dry", "external_ci_present"):
        tech.select_option(f"{form} [name={name}]", "true")
    for name, value in {"pack_id": "PK-1", "pouch_material": "tyvek", "pouch_lot": "L7", "label_case_id": case.code,
                        "label_level": "L1", "pouch_expires_at": "2099-01-01T00:00",
                        "expires_at": "2099-01-01T00:00"}.items():  # fmt: skip
        tech.fill(f"{form} [name={name}]", value)
    tech.click(f"{form} button[type=submit]")
    tech.wait_for_selector(f"[data-id='{item.id}'] .badge:has-text('packed')")


def test_aeration_counts_down(world: World, open_page: Opened) -> None:
    supervisor, technician = pages_world.person("sue"), pages_world.person("cem")
    device = Steriliser("STER-9", "GS5", (("GS5_COOL", "vertebra-model"),))
    sterilise.register_steriliser(world.app, device, supervisor)
    load = sterilise.open_load(
        world.app, load_id="LOAD-9", steriliser_id="STER-9", cycle_name="GS5_COOL", planned_aeration_c=37.0,
        purpose="routine", actor=technician,
    )  # fmt: skip
    assert load.state == "OPEN"
    page = open_page("/cssd#load", "cem")
    page.wait_for_selector("[data-id=LOAD-9] [data-event=add_item]")
    document = json.loads(
        page.request.get(f"{page.url.split('/cssd')[0]}/api/v1/sterilisation/loads/LOAD-9").text()
    )
    now = page.evaluate("new Date(Date.now() - 6 * 3600000).toISOString()")
    aerating = document | {"state": "AERATING", "version": 9,
                           "aeration": {"aerator_id": "A", "set_c": 37.0, "started_at": now}}  # fmt: skip
    page.route("**/sterilisation/loads", lambda r: r.fulfill(json=[aerating], headers={"Retry-After": "5"}))
    page.reload()
    page.wait_for_selector("[data-id=LOAD-9] .countdown:has-text('left')")
    assert "Aeration, 36 h at 37 °C: 30 h 00 min left" in text(page, "[data-id=LOAD-9] .countdown") or (
        "29 h 59 min left" in text(page, "[data-id=LOAD-9] .countdown")
    )
