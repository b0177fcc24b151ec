"""Labels read back by a real decoder from their PDF and from the printer language, and the scan at the door."""

from __future__ import annotations

import io
import re
import shutil
import subprocess
from dataclasses import replace
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zxingcpp
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError
from pypdf import PdfReader
from sqlalchemy import update

from service.config import Config
from service.errors import InputRefusedError
from service.results.label_code import PackCode, read_code, write_code
from service.results.label_symbols import SYMBOLS
from service.results.label_zpl import label_zpl
from service.results.labels import Label, LabelData, label_pdf, lay_out
from service.store import audit
from service.store.database import reading, transaction
from service.store.tables import print_jobs
from tests.support_app import Rig
from tests.support_sterile import BASE, BI, NURSE, PATIENT_ID, TECH, Room, make_room

AT = datetime(2026, 1, 5, 8, tzinfo=UTC)
CODE = PackCode("P-1|^XZ~JA", "0190aa10-7000-8000-9000-000000000001", "T12", "00ff" * 4)
DATA = LabelData(CODE, "AB12-CD", AT, datetime(2026, 7, 4, tzinfo=UTC), "TY-2207", warmest_c=45.0)
RELEASED = replace(DATA, load_id="L-7", released_by="sue", released_at=AT)
WITH_GTIN = replace(RELEASED, code=replace(CODE, pack_id="P-17"), gtin="04012345678901")


def barcodes(image: Image.Image) -> list[zxingcpp.Barcode]:
    grey = np.ascontiguousarray(np.asarray(image.convert("L")))
    return list(zxingcpp.read_barcodes(grey))


def codes(image: Image.Image) -> dict[str, str]:
    """Text of each code found, by its kind."""
    return {found.symbology.name: found.text for found in barcodes(image)}


def printed(zpl: bytes, size: tuple[int, int] = (640, 400)) -> Image.Image:
    """The graphics of a label as a printer lays them on paper (texts are left to its own fonts)."""
    paper = Image.new("1", size, 1)
    graphics = re.findall(r"\^FO(\d+),(\d+)\^GFA,(\d+),(\d+),(\d+),([0-9A-F]+)\^FS", zpl.decode())
    assert graphics
    for x, y, total, count, row_bytes, digits in graphics:
        bits = bytes.fromhex(digits)
        assert int(total) == int(count) == len(bits)
        width, height = int(row_bytes) * 8, len(bits) // int(row_bytes)
        ink = Image.frombytes("1", (width, height), bits)
        assert int(x) + width <= size[0] + 8
        assert int(y) + height <= size[1]
        paper.paste(0, (int(x), int(y)), ink)
    return paper


def page(pdf: bytes, folder: Path, dpi: int = 203) -> Image.Image:
    if shutil.which("pdftoppm") is None:
        pytest.skip("pdftoppm is not installed")
    file = folder / "label.pdf"
    file.write_bytes(pdf)
    subprocess.run(
        ["pdftoppm", "-r", str(dpi), "-png", "-singlefile", str(file), str(folder / "label")], check=True
    )
    return Image.open(folder / "label.png")


@pytest.mark.parametrize("data", [DATA, RELEASED], ids=["packed", "released"])
def test_the_codes_of_both_forms_are_read_by_a_decoder(data: LabelData, tmp_path: Path) -> None:
    label = lay_out(data)
    for image in (page(label_pdf(label), tmp_path), printed(label_zpl(label))):
        # as a scanner sees it: askew, and a little out of focus
        askew = image.convert("L").rotate(7, fillcolor=255, expand=True, resample=Image.Resampling.BICUBIC)
        for seen in (image, askew):
            found = codes(seen)
            assert set(found) == {"QRCode", "DataMatrix"}
            assert {read_code(text) for text in found.values()} == {CODE}


@pytest.mark.parametrize("zpl", [False, True])
def test_with_a_gtin_the_data_matrix_is_a_gs1_element_string(zpl: bool, tmp_path: Path) -> None:
    label = lay_out(WITH_GTIN)
    image = printed(label_zpl(label)) if zpl else page(label_pdf(label), tmp_path)
    (matrix,) = [b for b in barcodes(image) if b.symbology.name == "DataMatrix"]
    assert matrix.content_type == zxingcpp.ContentType.GS1
    assert matrix.text == "(01)04012345678901(17)260704(10)L-7(21)P-17"
    assert read_code(codes(image)["QRCode"]) == replace(CODE, pack_id="P-17")  # the door's code stays
    with pytest.raises(InputRefusedError):
        read_code(matrix.text)  # it names no patient: the door asks for the other one


def test_the_symbol_of_a_device_identifier_stands_only_beside_one() -> None:
    assert "udi" in {s.name for s in lay_out(WITH_GTIN).symbols}
    assert "udi" not in {s.name for s in lay_out(RELEASED).symbols}


def test_no_limit_of_temperature_is_drawn_when_none_is_known() -> None:
    label = lay_out(replace(DATA, warmest_c=None))
    assert "upper_temperature" not in {s.name for s in label.symbols}
    assert "°C" not in words(label)


def test_a_pack_number_gs1_cannot_write_gets_our_own_text() -> None:
    label = lay_out(replace(RELEASED, gtin="04012345678901"))  # the pack number has "|^" in it
    assert label == lay_out(RELEASED)


@pytest.mark.parametrize(
    ("gtin", "good"),
    [
        ("", True),
        ("04012345678901", True),
        ("04012345678902", False),
        ("4012345678901", False),
        ("0401234567890x", False),
    ],
)
def test_only_a_whole_gtin_is_taken(gtin: str, good: bool) -> None:
    if good:
        assert Config.model_validate({"labels": {"gtin": gtin}}).labels.gtin == gtin
    else:
        with pytest.raises(ValidationError, match="gtin"):
            Config.model_validate({"labels": {"gtin": gtin}})


def words(label: Label) -> str:
    return PdfReader(io.BytesIO(label_pdf(label))).pages[0].extract_text()


def test_only_a_released_pack_bears_the_sterile_symbol() -> None:
    before, after = lay_out(DATA), lay_out(RELEASED)
    assert "NOT STERILE\nuntil released by sterile services" in words(before)
    assert "sterile_eo" not in {s.name for s in before.symbols}
    assert "non_sterile" in {s.name for s in before.symbols}
    assert "Released 2026-01-05, load L-7\nby sue" in words(after)
    assert "NOT STERILE" not in words(after)
    assert "sterile_eo" in {s.name for s in after.symbols}
    assert "non_sterile" not in {s.name for s in after.symbols}
    for text in (words(before), words(after)):
        assert "Use by 2026-07-04" in text
        assert "Not a medical device" in text


def test_texts_stay_clear_of_the_symbols_and_the_code() -> None:
    lots = [replace(data, filament_lot="PLA-0815") for data in (DATA, RELEASED, WITH_GTIN)]
    for label in map(lay_out, (DATA, RELEASED, WITH_GTIN, *lots)):
        row = [s for s in label.symbols if s.y == 6.0]
        assert [s.name for s in row if s.name in ("single_barrier", "upper_temperature")] == [
            "upper_temperature", "single_barrier",
        ]  # fmt: skip
        top = max(s.y + s.size for s in row)
        body = [t for t in label.texts if t.y > top]
        (degrees,) = [t for t in label.texts if t.text == "45 °C"]
        (thermometer,) = [s for s in row if s.name == "upper_temperature"]
        assert thermometer.x < degrees.x and degrees.y + degrees.size_mm < top
        assert all(b.x - a.x > a.size * SYMBOLS[a.name].width for a, b in pairwise(row))
        right = max(s.x + s.size * SYMBOLS[s.name].width for s in label.symbols)
        assert right < min(c.x for c in label.codes if c.y < top)
        for symbol in (s for s in label.symbols if s.name in ("use_by", "lot")):
            (beside,) = [t for t in body if t.y <= symbol.y + symbol.size / 2 < t.y + t.size_mm]
            assert beside.text.startswith({"use_by": "Use by", "lot": "Pouch lot"}[symbol.name])
            assert beside.x > symbol.x + symbol.size * SYMBOLS[symbol.name].width
        upper, lower = label.codes
        assert lower.y > 0 and lower.y + lower.side < upper.y
        assert min(t.y for t in body) > top
        assert all(a.y - b.y >= b.size_mm for a, b in pairwise(body))


def test_symbols_stay_in_their_boxes() -> None:
    for name, symbol in SYMBOLS.items():
        points = [p for line in symbol.lines for p in line] + [t.at for t in symbol.letters]
        assert all(0 <= x <= symbol.width and 0 <= y <= 1 for x, y in points), name


def test_nothing_typed_into_a_pack_number_becomes_a_printer_command() -> None:
    zpl = label_zpl(lay_out(DATA)).decode()
    assert zpl.count("^XZ") == zpl.count("^XA") == 1
    assert "~JA" not in zpl


def test_the_same_label_gives_the_same_bytes() -> None:
    assert label_pdf(lay_out(RELEASED)) == label_pdf(lay_out(RELEASED))


@settings(max_examples=100, deadline=None)
@given(st.tuples(*[st.text(min_size=1, max_size=12).filter(str.strip)] * 4))
def test_every_code_reads_back(parts: tuple[str, str, str, str]) -> None:
    code = PackCode(*parts)
    if "\ud800" <= max("".join(parts)) <= "\udfff":
        return  # a lone half of a character is no text a form can send
    assert read_code(write_code(code)) == code


@pytest.mark.parametrize("text", ["", "X|1|2|3|4", "SPINEPRINT/1|a|b|c", "SPINEPRINT/1|a||c|d", "9" * 700])
def test_other_codes_are_refused(text: str) -> None:
    with pytest.raises(InputRefusedError) as caught:
        read_code(text)
    assert caught.value.code == "label.code"


# --- at the door -----------------------------------------------------------------------------------------


@pytest.fixture
def room(rig: Rig) -> Room:
    return make_room(rig)


def scan(room: Room, **change: Any) -> Any:
    """POST of what the scanner reads off the printed label, decoded from its picture."""
    zpl = room.client(TECH).get(f"{BASE}/{room.at_item}/label.zpl").content
    text = codes(printed(zpl))["QRCode"]
    body = {"pack_code": text, "wristband": PATIENT_ID, "pack_intact": True, "pack_dry": True} | change
    return room.client(NURSE).post(f"{BASE}/door", json=body)


def stops(room: Room) -> list[dict[str, object]]:
    with reading(room.rig.app.engine) as connection:
        rows = audit.history(connection, f"item:{room.item_id}")
    return [r.data for r in rows if r.event == "door_stop"]


def test_the_label_bears_the_lot_of_the_filament_where_it_was_recorded(room: Room) -> None:
    room.to_released()
    label = f"{BASE}/{room.at_item}/label.zpl"
    assert "Filament lot" not in room.client(TECH).get(label).text
    with transaction(room.rig.app.engine) as connection:
        connection.execute(
            update(print_jobs).where(print_jobs.c.token == room.item_id).values(filament_lot="PLA-0815/3")
        )
    assert "^FDFilament lot PLA-0815/3^FS" in room.client(TECH).get(label).text


def test_a_scanned_label_and_wristband_issue_the_pack_once(room: Room) -> None:
    room.to_released()
    answer = scan(room)
    assert answer.status_code == 200, answer.text
    assert answer.json()["state"] == "ISSUED"
    again = scan(room)
    assert (again.status_code, again.json()["code"]) == (409, "sterilisation.state")
    assert [s["code"] for s in stops(room)] == ["sterilisation.state"]


def test_the_door_stops_and_remembers_why(room: Room) -> None:
    room.to_quarantined()
    assert scan(room).json()["code"] == "sterilisation.state"  # not released
    room.read()
    room.release_load()
    room.release()
    wrong = scan(room, wristband="SOMEBODY-ELSE")
    assert wrong.json()["title"].count("STOP")
    assert set(wrong.json()["details"]["refused"]) == {"patient_case_level_match"}
    wet = scan(room, pack_dry=False, pack_intact=False)
    assert set(wet.json()["details"]["refused"]) == {"pack_intact_dry"}
    forged = write_code(PackCode("P-9", room.case_id, "L1", "0" * 16))
    assert scan(room, pack_code=forged).json()["code"] == "label.unknown_pack"
    item = room.item
    pack, design = item["pack"], item["design"]
    swapped = write_code(PackCode(pack["pack_id"], design["case_id"], design["level"], "0" * 16))
    assert scan(room, pack_code=swapped).json()["code"] == "label.reference"
    assert [s["refused"] for s in stops(room)] == [[], ["patient_case_level_match"], ["pack_intact_dry"], []]
    assert "SOMEBODY-ELSE" not in room.client("admin").get("/api/v1/audit/export").text


def test_a_recalled_pack_is_labelled_not_sterile(room: Room) -> None:
    room.to_released()
    pdf = room.client(TECH).get(f"{BASE}/{room.at_item}/label.pdf").content
    assert "Released" in PdfReader(io.BytesIO(pdf)).pages[0].extract_text()
    room.does(f"indicators/{BI}", "late_positive", reason="growth")
    pdf = room.client(TECH).get(f"{BASE}/{room.at_item}/label.pdf").content
    text = PdfReader(io.BytesIO(pdf)).pages[0].extract_text()
    assert "NOT STERILE" in text
    assert "Released" not in text


def test_an_unpacked_item_has_no_label(room: Room) -> None:
    answer = room.client(TECH).get(f"{BASE}/{room.at_item}/label.pdf")
    assert (answer.status_code, answer.json()["code"]) == (409, "label.not_packed")
