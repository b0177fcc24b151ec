"""Result objects: valid for dciodvfy, readable by DCMTK, correct codes, stable bytes."""

from __future__ import annotations

import copy
import io
import shutil
import socket
import struct
import subprocess
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sr._concepts_dict import concepts
from pydicom.sr.coding import Code
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from service import NOTICE
from service.domain.plan import ModelSettings, Plan, Trajectory, VertebraFrame
from service.errors import ImagingError, InputRefusedError
from service.geometry.volume import Volume
from service.results import codes
from service.results.context import Origin, SourceContext
from service.results.encapsulated import encapsulate_pdf, encapsulate_stl
from service.results.secondary_capture import secondary_capture
from service.results.seg import build_seg
from service.results.sr import build_sr, verdict_of
from service.results.uids import stable_uid

SPACING, STEP, SIZE, SLICES = 0.5, 1.0, 64, 12
ORIGIN_LPS = np.array([-16.0, -10.0, -230.0])
NAME = "Müller^Änne"
ORIGIN = Origin("case-1", "r2", datetime(2026, 3, 2, 9, 30, tzinfo=UTC))
PEDICLES = (("left", (18.0, 28.0, 6.0), (2.0, -8.0, -2.0)), ("right", (-18.0, 28.0, 6.0), (-2.0, -8.0, -2.0)))


def ct_series(seed: str = "ct", study: str = "study") -> list[Dataset]:
    """A small valid CT series with pixels, as a scanner would send it."""
    rng = np.random.default_rng(3)
    series, frame = generate_uid(entropy_srcs=[seed, "series"]), generate_uid(entropy_srcs=[seed, "for"])
    slices = []
    for k in range(SLICES):
        ds = Dataset()
        ds.SpecificCharacterSet = "ISO_IR 100"
        ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
        ds.SOPClassUID = CTImageStorage
        ds.SOPInstanceUID = generate_uid(entropy_srcs=[seed, str(k)])
        ds.StudyDate, ds.StudyTime = "20260301", "101500"
        ds.AccessionNumber, ds.Modality, ds.Manufacturer = "A77", "CT", "ACME"
        ds.ReferringPhysicianName, ds.StudyDescription = "Doe^Jo", "CT spine"
        ds.PatientName, ds.PatientID = NAME, "P-9"
        ds.PatientBirthDate, ds.PatientSex, ds.PatientAge = "19500102", "F", "076Y"
        ds.StudyInstanceUID = generate_uid(entropy_srcs=[study])
        ds.SeriesInstanceUID, ds.StudyID, ds.SeriesNumber, ds.InstanceNumber = series, "S1", 3, k + 1
        ds.FrameOfReferenceUID, ds.PositionReferenceIndicator = frame, ""
        ds.PatientPosition, ds.KVP, ds.AcquisitionNumber = "HFS", 120, 1
        ds.ImagePositionPatient = [*ORIGIN_LPS[:2], ORIGIN_LPS[2] + k * STEP]
        ds.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        ds.PixelSpacing, ds.SliceThickness = [SPACING, SPACING], STEP
        ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
        ds.Rows = ds.Columns = SIZE
        ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, 1
        ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType = 0, 1, "HU"
        ds.PixelData = rng.integers(-50, 300, (SIZE, SIZE), dtype=np.int16).tobytes()
        ds.file_meta = FileMetaDataset()
        ds.file_meta.MediaStorageSOPClassUID = CTImageStorage
        ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
        ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        slices.append(ds)
    return slices


def headers(slices: list[Dataset]) -> list[Dataset]:
    """What reading with stop_before_pixels gives."""
    found = []
    for ds in slices:
        buffer = io.BytesIO()
        pydicom.dcmwrite(buffer, ds, enforce_file_format=True)
        buffer.seek(0)
        found.append(pydicom.dcmread(buffer, stop_before_pixels=True))
    return found


def plan_for(frame_of_reference: str) -> Plan:
    return Plan(
        level="L1",
        frame_of_reference_uid=frame_of_reference,
        vertebra_frame=VertebraFrame((0, 0, 0), (1, 0, 0), (0, -1, 0), (0, 0, 1)),
        body_centre=(0.0, -8.0, 0.0),
        trajectories=tuple(Trajectory(p, e, t, 12.53, 23.96, 2.1) for p, e, t in PEDICLES),  # type: ignore[arg-type]
        model=ModelSettings(),
    )


def needle(pedicle: str, tip: tuple[float, float, float], grade: str = "A") -> dict[str, object]:
    return {
        "pedicle": pedicle,
        "tip": list(tip),
        "axis": [-0.4, -0.9, -0.2],
        "tip_to_target_mm": 1.631,
        "tip_to_body_centre_mm": 9.6,
        "lateral_mm": 1.5625,
        "depth_mm": 0.4677,
        "entry_deviation_mm": 1.1874,
        "sagittal_deg": 11.4271,
        "transverse_deg": 23.1802,
        "sagittal_deviation_deg": -1.1017,
        "transverse_deviation_deg": -0.7823,
        "angle_deg": 1.2237,
        "breach": {"grade": grade, "mm": 0.0, "direction": None},
        "uncertainty_mm": 0.62,
        "uncertainty": {"tip_mm": 0.62, "lateral_mm": 0.4, "breach_mm": 0.7, "angle_deg": 0.9},
    }


def measured_report(verdict: str = "accurate") -> dict[str, object]:
    return {
        "schema": "spineprint.verification/1",
        "status": "measured",
        "reason": None,
        "registration": {
            "preop_from_scan": np.eye(4).tolist(),
            "surface_rms_mm": 0.41,
            "agreement_mm": 0.2,
            "expected_tre_mm": 0.5,
        },
        "needles": [needle("left", (2.9, -9.1, -1.2)), needle("right", (-2.9, -9.1, -1.2), "B")],
        "cement": {
            "volume_ml": 3.2,
            "fill_percent": {
                "volume_body": 18.0,
                "volume_fillable": 30.0,
                "lateral_area": 41.0,
                "hull_body": 35.0,
            },
            "leaks": [],
        },
        "vertebral_height_mm": {"anterior": 18.6, "middle": 19.0, "posterior": 25.0},
        "verdict": verdict,
        "advice": "Within tolerance; the surgeon decides.",
        "timings_s": {"total": 4.2},
    }


SERIES = headers(ct_series())
CONTEXT = SourceContext.from_headers(SERIES)
SCAN = SourceContext.from_headers(headers(ct_series("scan", "scan-study")))
PLAN = plan_for(CONTEXT.frame_of_reference_uid)
PDF = b"%PDF-1.4\n1 0 obj<<>>endobj\ntrailer<<>>\n%%EOF"


def stl_bytes(triangles: int = 3) -> bytes:
    return (
        bytes(80)
        + struct.pack("<I", triangles)
        + b"".join(struct.pack("<12fH", *range(12), 0) for _ in range(triangles))
    )


def mask() -> Volume:
    """A block of 10 x 8 x 6 voxels (i, j, k) in a crop that starts at index (20, 12, 3)."""
    values = np.zeros((8, 20, 24), dtype=np.uint8)
    values[1:7, 5:13, 6:16] = 1
    affine = np.diag([SPACING, SPACING, STEP, 1.0])
    affine[:3, 3] = ORIGIN_LPS + np.array([20, 12, 3]) * np.array([SPACING, SPACING, STEP])
    return Volume(values, affine, CONTEXT.frame_of_reference_uid)


def picture() -> Image.Image:
    return Image.fromarray(np.arange(41 * 33 * 3, dtype=np.uint32).reshape(33, 41, 3).astype(np.uint8))


BUILDERS = {
    "sr": lambda: build_sr(measured_report(), PLAN, CONTEXT, ORIGIN, scan_context=SCAN),
    "sr-cement": lambda: build_sr(
        measured_report("review") | {"needles": []}, PLAN, CONTEXT, ORIGIN, scan_context=SCAN
    ),
    "sr-not-measurable": lambda: build_sr(
        {
            "schema": "spineprint.verification/1",
            "status": "not_measurable",
            "reason": "Metal hides the needle.",
            "needles": [],
            "cement": None,
        },
        PLAN,
        CONTEXT,
        ORIGIN,
    ),
    "pdf": lambda: encapsulate_pdf(PDF, CONTEXT, ORIGIN, title="Needle verification L1"),
    "stl": lambda: encapsulate_stl(stl_bytes(), CONTEXT, ORIGIN, PLAN),
    "seg": lambda: build_seg(mask(), SERIES, ORIGIN, level="L1"),
    "sc": lambda: secondary_capture(
        picture(), CONTEXT, ORIGIN, level="L1", kind="overlay", description="Needle"
    ),
    "sc-of-a-scan": lambda: secondary_capture(
        picture(),
        CONTEXT,
        ORIGIN,
        level="L1",
        kind="picture-left-axial",
        description="Needle check, pictures",
        series="pictures",
        number=2,
        comment="Left needle, across, seen from the feet",
    ),
}


def bytes_of(dataset: Dataset) -> bytes:
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, dataset, enforce_file_format=True)
    return buffer.getvalue()


def run(*command: str) -> str:
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed")
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return done.stdout + done.stderr


@pytest.mark.parametrize("kind", BUILDERS)
def test_dciodvfy_finds_no_error_and_dcmdump_reads_it(kind: str, tmp_path: Path) -> None:
    file = tmp_path / f"{kind}.dcm"
    file.write_bytes(bytes_of(BUILDERS[kind]()))
    said = run("dciodvfy", "-new", str(file))
    assert [line for line in said.splitlines() if line.startswith("Error")] == []
    warnings = [line for line in said.splitlines() if line.startswith("Warning")]
    unexpected = [w for w in warnings if "99SPINEPRINT" not in w and "Unrecognized defined term" not in w]
    assert unexpected == []
    assert "P-9" in run("dcmdump", "+P", "PatientID", str(file))


def test_dciodvfy_does_find_errors_in_a_damaged_object(tmp_path: Path) -> None:
    broken = BUILDERS["stl"]()
    del broken.MeasurementUnitsCodeSequence
    file = tmp_path / "broken.dcm"
    file.write_bytes(bytes_of(broken))
    assert "Error" in run("dciodvfy", "-new", str(file))


@pytest.mark.parametrize("kind", BUILDERS)
def test_same_input_gives_the_same_bytes_and_another_revision_another_uid(kind: str) -> None:
    first, second = BUILDERS[kind](), BUILDERS[kind]()
    assert bytes_of(first) == bytes_of(second)
    assert first.SOPInstanceUID == first.file_meta.MediaStorageSOPInstanceUID
    assert len(first.SOPInstanceUID) <= 64


def test_uids_differ_in_every_seed() -> None:
    seeds = [("c", "1", "sr", "x"), ("c", "2", "sr", "x"), ("c", "1", "pdf", "x"), ("c1", "", "sr", "x")]
    found = {stable_uid(*s) for s in seeds}
    assert len(found) == len(seeds)
    assert all(pydicom.uid.UID(u).is_valid and u.startswith("2.25.") for u in found)
    assert {b().SOPInstanceUID for k, b in BUILDERS.items() if k != "sr-not-measurable"}.__len__() == 6


@pytest.mark.parametrize("kind", BUILDERS)
def test_every_result_files_under_the_same_patient_and_study(kind: str) -> None:
    read = pydicom.dcmread(io.BytesIO(bytes_of(BUILDERS[kind]())))
    source = SERIES[0]
    assert str(read.PatientName) == NAME
    for keyword in (
        "PatientID",
        "PatientBirthDate",
        "PatientSex",
        "StudyInstanceUID",
        "StudyDate",
        "StudyDescription",
        "AccessionNumber",
    ):
        assert read[keyword].value == source[keyword].value, keyword
    assert read.SeriesInstanceUID != source.SeriesInstanceUID
    assert read.ContentDate == "20260302"


def test_every_standard_code_has_the_meaning_of_the_dictionary() -> None:
    known = {
        (scheme, value): meaning
        for scheme, names in concepts.items()
        for values in names.values()
        for value, (meaning, _) in values.items()
    }
    found = [c for c in vars(codes).values() if isinstance(c, Code)] + list(codes.VERTEBRAE.values())
    standard = [c for c in found if c.scheme_designator != codes.PRIVATE_SCHEME]
    assert len(standard) > 25
    assert [c for c in standard if known.get((c.scheme_designator, c.value)) != c.meaning] == []


def test_private_codes_are_unique_and_fit_their_value_representation() -> None:
    private: list[Code] = []
    for value in vars(codes).values():
        values = value.values() if isinstance(value, dict) else [value]
        for v in values:
            private += [
                c
                for c in (v if isinstance(v, tuple) and not isinstance(v, Code) else (v,))
                if isinstance(c, Code) and c.scheme_designator == codes.PRIVATE_SCHEME
            ]
    assert len(private) > 20
    assert len({c.value for c in private}) == len(private)
    assert all(len(c.value) <= 16 and len(c.meaning) <= 64 for c in private)


def _walk(item: Dataset):
    yield item
    for child in item.get("ContentSequence", []):
        yield from _walk(child)


def test_sr_says_what_the_report_says() -> None:
    read = pydicom.dcmread(io.BytesIO(bytes_of(BUILDERS["sr"]())))
    nodes = list(_walk(read))
    numbers = {}
    for node in nodes:
        methods = [
            c.ConceptCodeSequence[0].CodeValue
            for c in node.get("ContentSequence", [])
            if c.get("ValueType") == "CODE" and c.ConceptNameCodeSequence[0].CodeValue == "370129005"
        ]
        if node.get("ValueType") == "NUM" and methods:
            value = node.MeasuredValueSequence[0]
            numbers.setdefault(methods[0], []).append(
                (float(value.NumericValue), value.MeasurementUnitsCodeSequence[0].CodeValue)
            )
    assert numbers["M-TIPTARGET"] == [(1.631, "mm")] * 2
    assert numbers["M-SAGDEV"] == [(-1.102, "deg")] * 2
    assert numbers["M-CEMENT"] == [(3.2, "cm3")]
    assert numbers["M-FILLBODY"] == [(18.0, "%")]
    assert numbers["M-REGTRE"] == [(0.5, "mm")]
    assert len(numbers) == len(codes.NEEDLE_MEASUREMENTS) + 1 + 3 + 3 + 1 + 4
    spreads = [
        float(n.MeasuredValueSequence[0].NumericValue)
        for n in nodes
        if n.get("ValueType") == "NUM" and n.ConceptNameCodeSequence[0].CodeValue == "371886008"
    ]
    assert spreads
    assert set(spreads) == {0.62, 0.4, 0.7, 0.9}
    values = [n.ConceptCodeSequence[0].CodeValue for n in nodes if n.get("ValueType") == "CODE"]
    for expected in ("V-ACCURATE", "BREACH-A", "BREACH-B", "66794005", "7771000", "24028007"):
        assert expected in values
    lines = [n for n in nodes if n.get("ValueType") == "SCOORD3D"]
    assert np.allclose(lines[0].GraphicData, [2.9, -9.1, -1.2, 2.0, -8.0, -2.0])
    assert lines[0].ReferencedFrameOfReferenceUID == CONTEXT.frame_of_reference_uid
    texts = [n.TextValue for n in nodes if n.get("ValueType") == "TEXT"]
    assert NOTICE in texts
    assert "Within tolerance; the surgeon decides." in texts
    assert read.CodingSchemeIdentificationSequence[0].CodingSchemeDesignator == codes.PRIVATE_SCHEME
    evidence = {
        s.StudyInstanceUID
        for key in ("CurrentRequestedProcedureEvidenceSequence", "PertinentOtherEvidenceSequence")
        for s in read.get(key, [])
    }
    assert evidence == {CONTEXT.study_instance_uid, SCAN.study_instance_uid}
    assert (read.CompletionFlag, read.VerificationFlag, read.PreliminaryFlag) == (
        "COMPLETE",
        "UNVERIFIED",
        "PRELIMINARY",
    )


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, "accurate"),
        ({"verdict": "reposition"}, "reposition"),
        ({"verdict": "fine"}, "review"),
        ({"verdict": None}, "review"),
        ({"status": "not_measurable"}, "not_measurable"),
        ({"status": None}, "not_measurable"),
    ],
)
def test_an_unknown_verdict_is_never_an_acceptance(change, expected) -> None:
    assert verdict_of({**measured_report(), **change}) == expected


def test_not_measurable_report_has_its_reason_and_no_needle_number() -> None:
    nodes = list(_walk(BUILDERS["sr-not-measurable"]()))
    assert [n for n in nodes if n.get("ValueType") == "NUM"] == []
    assert "Metal hides the needle." in [n.TextValue for n in nodes if n.get("ValueType") == "TEXT"]


def test_seg_lies_where_the_mask_lies() -> None:
    read = pydicom.dcmread(io.BytesIO(bytes_of(BUILDERS["seg"]())))
    pixels = read.pixel_array
    assert pixels.sum() == mask().values.sum()
    assert pixels.shape == (6, SIZE, SIZE)
    for frame, item in zip(pixels, read.PerFrameFunctionalGroupsSequence, strict=True):
        z = float(item.PlanePositionSequence[0].ImagePositionPatient[2])
        assert ORIGIN_LPS[2] + 4 <= z <= ORIGIN_LPS[2] + 9
        rows, columns = np.nonzero(frame)
        assert (rows.min(), rows.max(), columns.min(), columns.max()) == (17, 24, 26, 35)
    assert read.FrameOfReferenceUID == CONTEXT.frame_of_reference_uid


def test_seg_refuses_a_mask_off_the_grid_or_beyond_the_series() -> None:
    shifted = mask()
    affine = shifted.lps_from_ijk.copy()
    affine[0, 3] += 0.2
    with pytest.raises(ImagingError, match="voxel grid"):
        build_seg(Volume(shifted.values, affine), SERIES, ORIGIN, level="L1")
    with pytest.raises(ImagingError, match="on no slice"):
        build_seg(mask(), SERIES[:6], ORIGIN, level="L1")


def test_encapsulated_documents_come_out_unchanged() -> None:
    for kind, content in (("pdf", PDF), ("stl", stl_bytes())):
        read = pydicom.dcmread(io.BytesIO(bytes_of(BUILDERS[kind]())))
        assert read.EncapsulatedDocument[: read.EncapsulatedDocumentLength] == content
        assert len(read.EncapsulatedDocument) % 2 == 0
        assert len(read.SourceInstanceSequence) == SLICES


def test_wrong_documents_and_frames_are_refused() -> None:
    with pytest.raises(InputRefusedError, match="not a PDF"):
        encapsulate_pdf(b"hello", CONTEXT, ORIGIN, title="x")
    with pytest.raises(InputRefusedError, match="STL"):
        encapsulate_stl(stl_bytes()[:-1], CONTEXT, ORIGIN, PLAN)
    with pytest.raises(InputRefusedError, match="frame of reference"):
        encapsulate_stl(stl_bytes(), CONTEXT, ORIGIN, plan_for("1.2.3"))
    with pytest.raises(InputRefusedError, match="document"):
        build_sr({"schema": "other"}, PLAN, CONTEXT, ORIGIN)


def test_context_refuses_mixed_patients_and_no_images() -> None:
    other = copy.deepcopy(SERIES)
    other[1].PatientID = "P-10"
    with pytest.raises(ImagingError, match="PatientID"):
        SourceContext.from_headers(other)
    with pytest.raises(ImagingError, match="no source images"):
        SourceContext.from_headers([])


def test_missing_type_2_attributes_do_not_stop_a_result(tmp_path: Path) -> None:
    bare = copy.deepcopy(SERIES)
    for ds in bare:
        for keyword in ("AccessionNumber", "PatientBirthDate", "ReferringPhysicianName", "StudyID"):
            del ds[keyword]
    context = SourceContext.from_headers(bare)
    for name, ds in (
        ("sr", build_sr(measured_report(), PLAN, context, ORIGIN)),
        ("seg", build_seg(mask(), bare, ORIGIN, level="L1")),
        ("pdf", encapsulate_pdf(PDF, context, ORIGIN, title="x")),
    ):
        file = tmp_path / f"{name}.dcm"
        file.write_bytes(bytes_of(ds))
        said = run("dciodvfy", "-new", str(file))
        assert [line for line in said.splitlines() if line.startswith("Error")] == []


def test_dcmtk_stores_every_object(tmp_path: Path) -> None:
    if shutil.which("storescp") is None or shutil.which("storescu") is None:
        pytest.skip("DCMTK is not installed")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    inbox = tmp_path / "in"
    inbox.mkdir()
    for kind, build in BUILDERS.items():
        if kind != "sr-not-measurable":
            (tmp_path / f"{kind}.dcm").write_bytes(bytes_of(build()))
    server = subprocess.Popen(["storescp", "-od", str(inbox), str(port)])
    try:
        for _ in range(100):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.05)
        files = sorted(str(f) for f in tmp_path.glob("*.dcm"))
        done = subprocess.run(
            ["storescu", "-R", "127.0.0.1", str(port), *files],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
    finally:
        server.terminate()
        server.wait(10)
    assert len(list(inbox.iterdir())) == 6


def test_pictures_of_a_scan_share_a_series_and_keep_their_pixels() -> None:
    first, second = (
        secondary_capture(
            picture(), CONTEXT, ORIGIN, level="L1", kind=f"picture-{name}", description="Pictures", series="pictures",
            number=number,
        )
        for number, name in enumerate(("left-axial", "view"), 1)
    )  # fmt: skip
    assert (
        first.SeriesInstanceUID == second.SeriesInstanceUID and first.SOPInstanceUID != second.SOPInstanceUID
    )
    assert [first.InstanceNumber, second.InstanceNumber] == [1, 2]
    rgb = np.asarray(picture().convert("RGB"))
    assert first.PixelData[: rgb.size] == rgb.tobytes()
