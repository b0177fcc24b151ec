"""Printed reports: what a person reads on them, in which order, and that equal input gives equal bytes."""

from __future__ import annotations

import io
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from service import NOTICE
from service.errors import InputRefusedError
from service.results.pdf import CaseSummary, Picture, build_pdf_report, build_plan_pdf
from tests.unit.test_results_dicom import PLAN, measured_report

CASE = CaseSummary("K7QF-2", "Müller^Änne", "P<9>", "1950-01-02", (("Plan (SHA-256)", "ab12" * 16),))


def text_of(pdf: bytes, folder: Path) -> str:
    if shutil.which("pdftotext") is None:
        pytest.skip("poppler-utils is not installed")
    file = folder / "report.pdf"
    file.write_bytes(pdf)
    done = subprocess.run(
        ["pdftotext", "-layout", str(file), "-"], capture_output=True, text=True, timeout=30, check=True
    )
    return done.stdout


def picture() -> Picture:
    buffer = io.BytesIO()
    Image.new("RGB", (300, 160), (20, 90, 160)).save(buffer, "PNG")
    return Picture(buffer.getvalue(), "Axial slice through the tip.")


def test_the_verdict_comes_first_then_values_with_uncertainty_and_tolerance(tmp_path: Path) -> None:
    report = measured_report("reposition")
    report["needles"][1].update(tip_to_target_mm=3.4, breach={"grade": "C", "mm": 2.0, "direction": "medial"})  # type: ignore[index]
    text = text_of(build_pdf_report(report, PLAN, CASE), tmp_path)
    assert text.index("REPOSITION RECOMMENDED") < text.index("Left needle") < text.index("Right needle")
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert "Tip to planned target 1.6 mm ± 0.6 mm max 2.0 mm UNSURE" in lines
    assert "Tip to planned target 3.4 mm ± 0.6 mm max 2.0 mm BEYOND" in lines
    assert "across the path (lateral) 1.6 mm ± 0.4 mm max 2.0 mm within" in lines
    assert "Angle to planned path 1.2° ± 0.9° max 5.0° within" in lines
    # any breach towards the canal is beyond tolerance, and without a stated uncertainty nothing is within
    assert "Breach of the pedicle 2.0 mm grade C, medial ± 0.7 mm max 0.0 mm BEYOND" in lines
    assert "Sagittal angle 11.4° (plan 12.5°) -1.1° off plan" in lines
    assert "Müller, Änne" in text
    assert "P<9>" in text
    assert "18 % of the body's volume" in text


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({}, "WITHIN TOLERANCE"),
        ({"verdict": "review"}, "REVIEW NEEDED"),
        ({"verdict": "excellent"}, "REVIEW NEEDED"),
        ({"status": "not_measurable", "reason": "Metal hides the needle.", "needles": []}, "NOT MEASURABLE"),
    ],
)
def test_each_verdict_has_its_word(change, word: str, tmp_path: Path) -> None:
    text = text_of(build_pdf_report({**measured_report(), **change}, PLAN, CASE), tmp_path)
    words = ("WITHIN TOLERANCE", "REPOSITION RECOMMENDED", "REVIEW NEEDED", "NOT MEASURABLE")
    assert [w for w in words if w in text] == [word]


def test_notice_and_identity_stand_on_every_page(tmp_path: Path) -> None:
    pages = text_of(build_pdf_report(measured_report(), PLAN, CASE, [picture()] * 3), tmp_path).split("\f")
    pages = [p for p in pages if p.strip()]
    assert len(pages) >= 2
    for page in pages:
        assert NOTICE[:60] in " ".join(page.split())
        assert "P<9>" in page


def test_missing_numbers_are_said_not_invented(tmp_path: Path) -> None:
    report = measured_report()
    report["needles"] = [{"pedicle": "left", "tip_to_target_mm": float("nan"), "breach": None}]
    report["cement"] = {"volume_ml": None}
    text = text_of(build_pdf_report(report, PLAN, CASE), tmp_path)
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert "Tip to planned target not measured max 2.0 mm" in lines
    assert "Breach of the pedicle not measured max 2.0 mm" in lines
    assert "Leaks seen in the scan not assessed" in lines
    assert "nan" not in text.lower()


def test_a_cement_scan_on_paper_says_what_was_measured_and_what_not(tmp_path: Path) -> None:
    report = measured_report()
    report["needles"], report["verdict"] = [], "review"
    report["needles_reason"] = "Something denser than bone surrounds the front of the needle."
    report["cement"] = {
        "volume_ml": 1.523, "uncertainty_ml": 0.06, "needle_excluded": True,
        "fill_percent": {"volume_body": 7.6, "volume_fillable": 9.3, "lateral_area": 25.0, "hull_body": 9.4},
        "distribution": {"left_percent": 31.3, "right_percent": 68.7, "anterior_percent": 32.8, "middle_percent": 67.2,
                         "posterior_percent": 0.0, "endplate_contact": "B1"},
        "leaks": [{"type": "D", "place": "disc above", "volume_ml": 0.052, "position": [0, 0, 0]}],
        "not_measured": ["Thin leaks may be missed."], "warnings": [],
    }  # fmt: skip
    text = " ".join(text_of(build_pdf_report(report, PLAN, CASE), tmp_path).split())
    assert "1.52 ml ± 0.06 (k = 2), needle left out" in text
    for part in ("8 % of the body's volume", "9 % of the fillable interior", "25 % of the lateral"):
        assert part in text
    assert "touches the upper" in text
    assert "disc above, type D, 0.05 ml" in text
    assert "not judged: Something denser than bone" in text
    assert "Thin leaks may be missed." in text


def test_without_an_uncertainty_nothing_is_within(tmp_path: Path) -> None:
    report = measured_report()
    report["needles"] = [{"pedicle": "left", "tip_to_target_mm": 0.1}]
    text = text_of(build_pdf_report(report, PLAN, CASE), tmp_path)
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert "Tip to planned target 0.1 mm not stated max 2.0 mm UNSURE" in lines


def test_same_input_gives_the_same_bytes() -> None:
    first = build_pdf_report(measured_report(), PLAN, CASE, [picture()])
    assert first == build_pdf_report(measured_report(), PLAN, CASE, [picture()])
    assert first != build_pdf_report(measured_report("review"), PLAN, CASE, [picture()])


def test_foreign_schema_is_refused() -> None:
    with pytest.raises(InputRefusedError, match="document"):
        build_pdf_report({"schema": "spineprint.verification/9"}, PLAN, CASE)


def test_plan_sheet_lists_both_paths_and_asks_for_a_signature(tmp_path: Path) -> None:
    text = text_of(build_plan_pdf(PLAN, CASE, [picture()]), tmp_path)
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert "left 18.0, 28.0, 6.0 2.0, -8.0, -2.0 12.5° 24.0° 2.1 mm" in lines
    assert "right -18.0, 28.0, 6.0 -2.0, -8.0, -2.0 12.5° 24.0° 2.1 mm" in lines
    assert "Shell 2.0 mm" in lines
    assert "Date, signature" in text


def test_the_box_has_the_colour_of_its_verdict(tmp_path: Path) -> None:
    if shutil.which("pdftoppm") is None:
        pytest.skip("poppler-utils is not installed")
    means = {}
    for verdict in ("accurate", "reposition"):
        file = tmp_path / f"{verdict}.pdf"
        file.write_bytes(build_pdf_report(measured_report(verdict), PLAN, CASE))
        subprocess.run(
            ["pdftoppm", "-r", "40", "-png", "-singlefile", str(file), str(tmp_path / verdict)],
            check=True,
            timeout=30,
        )
        with Image.open(tmp_path / f"{verdict}.png") as image:
            top = np.asarray(image.convert("RGB"), dtype=float)[: image.height // 3]
        coloured = top[np.ptp(top, axis=2) > 40]
        means[verdict] = coloured.mean(axis=0)
    red, green = means["reposition"], means["accurate"]
    assert red[0] > 2 * red[1]
    assert green[1] > 1.5 * green[0]
