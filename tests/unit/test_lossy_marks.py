"""Whatever is made from images compressed with loss says so."""

from __future__ import annotations

import io
import shutil
import subprocess
from pathlib import Path

import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import JPEG2000

from service.domain.series import LOSSY_CT, LOSSY_SCAN
from service.geometry.progress import silent
from service.imaging.dataset import read_file
from service.imaging.series import load_series
from service.results.context import SourceContext
from service.results.encapsulated import encapsulate_pdf, encapsulate_stl
from service.results.lossy import LossyHistory
from service.results.pdf import CaseSummary, build_pdf_report
from service.results.secondary_capture import secondary_capture
from service.results.seg import build_seg
from service.results.sr import build_sr
from service.workflow.tasks.inspect_task import inspect_study
from service.workflow.tasks.verify_task import source_warnings
from tests.support_dicom import write_series
from tests.unit import test_results_dicom as results

WARNINGS = [{"code": "lossy_ct", "message": LOSSY_CT}, {"code": "lossy_scan", "message": LOSSY_SCAN}]


def lossy_series() -> list[Dataset]:
    series = results.ct_series()
    for ds in series:
        ds.LossyImageCompression = "01"
        ds.LossyImageCompressionRatio = 12.5
        ds.LossyImageCompressionMethod = "ISO_15444_1"
    return results.headers(series)


SERIES = lossy_series()
CONTEXT = SourceContext.from_headers(SERIES)
REPORT = {**results.measured_report(), "warnings": WARNINGS}
BUILDERS = {
    "sr": lambda: build_sr(REPORT, results.PLAN, CONTEXT, results.ORIGIN, scan_context=results.SCAN),
    "pdf": lambda: encapsulate_pdf(results.PDF, CONTEXT, results.ORIGIN, title="Needle verification L1"),
    "stl": lambda: encapsulate_stl(results.stl_bytes(), CONTEXT, results.ORIGIN, results.PLAN),
    "seg": lambda: build_seg(results.mask(), SERIES, results.ORIGIN, level="L1"),
    "sc": lambda: secondary_capture(
        results.picture(), CONTEXT, results.ORIGIN, level="L1", kind="overlay", description="Needle"
    ),
}


@pytest.mark.parametrize("kind", BUILDERS)
def test_marked_objects_are_valid(kind: str, tmp_path: Path) -> None:
    file = tmp_path / f"{kind}.dcm"
    file.write_bytes(results.bytes_of(BUILDERS[kind]()))
    said = results.run("dciodvfy", "-new", str(file)).splitlines()
    assert [line for line in said if line.startswith("Error")] == []
    known = ("99SPINEPRINT", "Unrecognized defined term")
    assert [w for w in said if w.startswith("Warning") and not any(k in w for k in known)] == []


@pytest.mark.parametrize("kind", ["seg", "sc"])
def test_images_carry_the_attributes_of_the_standard(kind: str) -> None:
    made = BUILDERS[kind]()
    assert made.LossyImageCompression == "01"
    assert float(made.LossyImageCompressionRatio) == 12.5
    assert made.LossyImageCompressionMethod == "ISO_15444_1"
    plain = results.BUILDERS[kind]()
    assert plain.get("LossyImageCompression", "00") == "00" and "LossyImageCompressionRatio" not in plain


def test_documents_say_it_in_words() -> None:
    assert BUILDERS["stl"]().ContentDescription == "Hollow vertebra model L1; CT compressed with loss"
    assert BUILDERS["pdf"]().DocumentTitle == "Needle verification L1 (source images compressed with loss)"
    texts = [str(item.get("TextValue", "")) for item in results._walk(BUILDERS["sr"]())]
    assert LOSSY_CT in texts and LOSSY_SCAN in texts
    for kind in ("stl", "pdf", "sr"):
        assert "compressed with loss" not in str(results.BUILDERS[kind]())


def test_the_report_on_paper_says_it_beside_the_verdict(tmp_path: Path) -> None:
    if shutil.which("pdftotext") is None:
        pytest.skip("pdftotext is not installed")
    file = tmp_path / "report.pdf"
    file.write_bytes(build_pdf_report(REPORT, results.PLAN, CaseSummary("C-1", "A^B", "P-9")))
    text = subprocess.run(
        ["pdftotext", "-l", "1", file, "-"], capture_output=True, text=True, check=True
    ).stdout
    flat = " ".join(text.split())
    assert f"Caution: {LOSSY_CT}" in flat and f"Caution: {LOSSY_SCAN}" in flat
    assert flat.index("Caution") < flat.index("Left needle")


def test_ratio_and_method_are_told_by_the_compressed_file_itself(tmp_path: Path) -> None:
    def compress(index: int, ds: pydicom.FileDataset) -> None:
        ds.compress(JPEG2000, j2k_cr=[8], generate_instance_uid=False)
        if "LossyImageCompression" in ds:
            del ds.LossyImageCompression

    files = write_series(tmp_path, 3, size=128, seed=1, change=compress)
    history = LossyHistory.of([read_file(f, pixels=False) for f in files])
    assert history is not None and history.methods == ("ISO_15444_1",)
    assert 3 < history.ratios[0] < 9
    assert LossyHistory.of(results.SERIES) is None


def test_a_flag_without_ratio_or_method_invents_none() -> None:
    header = Dataset()
    header.LossyImageCompression = "01"
    history = LossyHistory.of([header])
    assert history == LossyHistory()
    history.write_to(image := Dataset())
    assert image.LossyImageCompression == "01" and len(image) == 1


def test_the_planner_is_told_when_the_ct_arrives(tmp_path: Path) -> None:
    files = write_series(tmp_path, 12, change=lambda n, ds: setattr(ds, "LossyImageCompression", "01"))
    found = inspect_study({"files": [str(f) for f in files]}, silent)
    assert {"code": "lossy", "message": LOSSY_CT} in found["warnings"] and found["lossy"] is True


def test_the_verification_says_which_of_its_images_were_lossy(tmp_path: Path) -> None:
    write_series(tmp_path / "plain", 12)
    write_series(tmp_path / "lossy", 12, change=lambda n, ds: setattr(ds, "LossyImageCompression", "01"))
    plain, lossy = load_series(tmp_path / "plain"), load_series(tmp_path / "lossy")
    assert source_warnings(plain.info.lossy, plain.info.lossy) == []
    assert source_warnings(lossy.info.lossy, lossy.info.lossy) == WARNINGS
    assert source_warnings(plain.info.lossy, lossy.info.lossy) == WARNINGS[1:]


def test_objects_are_stored_as_they_are_built() -> None:
    read = pydicom.dcmread(io.BytesIO(results.bytes_of(BUILDERS["seg"]())))
    assert read.LossyImageCompression == "01"
