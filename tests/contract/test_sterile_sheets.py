"""The papers of sterile services say what the books say, as PDF and as CSV, and name no patient."""

from __future__ import annotations

import csv
import io

import pytest
from pypdf import PdfReader

from service.results.sheet import Section, Sheet, sheet_csv, sheet_pdf
from tests.support_app import Rig
from tests.support_sterile import BASE, BI, BOSS, LOAD, NURSE, PATIENT_ID, TECH, Room, make_room


@pytest.fixture
def room(rig: Rig) -> Room:
    return make_room(rig)


def read(room: Room, path: str) -> tuple[str, dict[str, list[str]]]:
    """The text of the PDF, and the rows of the CSV by their first cell."""
    pdf = room.client(TECH).get(f"{BASE}/{path}.pdf")
    assert pdf.status_code == 200, pdf.text
    pages = PdfReader(io.BytesIO(pdf.content)).pages
    text = " ".join(" ".join(page.extract_text() for page in pages).split())
    plain = room.client(TECH).get(f"{BASE}/{path}.csv").content.decode("utf-8-sig")
    for written in (text, plain):
        assert PATIENT_ID not in written
    assert "Not a medical device" in text
    return text, {row[0]: row[1:] for row in csv.reader(io.StringIO(plain)) if row}


def test_load_record_and_passport_of_a_used_item(room: Room) -> None:
    room.to_released()
    room.does(room.at_item, "issue", NURSE, **room.scanned())
    room.use()
    room.does(room.at_item, "discard", NURSE, reason="single use")
    text, rows = read(room, f"loads/{LOAD}/record")
    assert rows["exposure, min"] == ["275", "at least 270"]
    assert rows["temperature, °C"] == ["37 to 39.5", "35 to 41"]
    assert rows["aeration temperature, °C"][0] == "37.4 to 39"
    assert rows["hours"] == ["36.5", "at least 36 by the table"]
    assert rows["result"] == ["NEGATIVE"]
    assert rows[room.item_id][3] == "DISCARDED"
    assert f"release AERATED RELEASED {BOSS}" in text
    text, rows = read(room, f"items/{room.item_id}/passport")
    assert len(rows["planning CT (all images)"][0]) == 64
    assert rows["mesh"][0] == rows["mesh inspected against"][0]
    assert all(line["event"] in text for line in room.item["history"])
    assert "single use" in text
    assert "approve" in text


def test_the_recall_sheet_lists_the_case_and_what_to_do(room: Room) -> None:
    room.to_released()
    assert (
        room.client(TECH).get(f"{BASE}/indicators/{BI}/recall.pdf").json()["code"]
        == "sterilisation.no_recall"
    )
    room.does(room.at_item, "issue", NURSE, **room.scanned())
    room.use()
    room.does(f"indicators/{BI}", "late_positive", reason="growth")
    text, rows = read(room, f"indicators/{BI}/recall")
    assert "RECALL: do not use any pack listed here." in text
    assert rows["Still growing"][0].startswith("yes")
    assert rows["Steriliser"] == ["Z1, OUT_OF_SERVICE"]
    assert rows[room.item_id][0] == room.rig.case(room.case_id).code
    assert rows[room.item_id][5] == "USED: tell infection control and the surgeon"


def test_the_summary_counts_the_month_and_no_other(room: Room) -> None:
    room.to_released()
    month = room.rig.clock.now().strftime("%Y-%m")
    _, rows = read(room, f"summary/{month}")
    counted = {k: rows[k] for k in ("cycles started", "loads released", "packs released", "packs issued")}
    assert counted == {
        "cycles started": ["1"], "loads released": ["1"], "packs released": ["1"], "packs issued": ["0"],
    }  # fmt: skip
    assert rows["indicators read negative"] == ["1"]
    assert rows[LOAD][0] == "Z1"
    _, before = read(room, "summary/2025-12")
    assert before["cycles started"] == ["0"]
    assert LOAD not in before
    assert room.client(TECH).get(f"{BASE}/summary/2026-13.csv").json()["code"] == "report.month"
    assert room.client(TECH).get(f"{BASE}/summary/{month}.doc").status_code == 422


def test_cells_never_become_formulas_and_sheets_are_the_same_twice() -> None:
    sheet = Sheet(
        "=1+1", (("@a", "-b"),), (Section("s", ("c", "d"), (("+x", "ok"), ("<b>&", "\ttab"))),), ("S",), "W"
    )
    cells = [c for row in csv.reader(io.StringIO(sheet_csv(sheet).decode("utf-8-sig"))) for c in row]
    assert cells == ["'=1+1", "'@a", "'-b", "s", "c", "d", "'+x", "ok", "<b>&", "'\ttab"]
    assert sheet_pdf(sheet) == sheet_pdf(sheet)
