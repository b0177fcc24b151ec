"""Recognising intra-operative scans: configuration first, hints second, unknown when neither tells."""

from __future__ import annotations

from dataclasses import replace

import pytest

from adapters.oarm_dicom import ScanKind, Verdict, check_nominal, recognise
from service.domain.series import SeriesInfo

OARM = SeriesInfo(
    "1.2.3",
    manufacturer="Medtronic Navigation, Inc.",
    model="O-arm",
    modality="CT",
    kvp=120.0,
    tube_current_ma=25.0,
    slice_thickness_mm=0.833,
    pixel_spacing_mm=(0.415, 0.415),
    field_of_view_mm=212.0,
    acquisition_duration_s=13.4,
    rescale_type="US",
)
CT = SeriesInfo(
    "1.2.4",
    manufacturer="GE MEDICAL SYSTEMS",
    model="LightSpeed16",
    modality="CT",
    kvp=120.0,
    tube_current_ma=380.0,
    slice_thickness_mm=1.25,
    pixel_spacing_mm=(0.7, 0.7),
    field_of_view_mm=360.0,
    image_type=("ORIGINAL", "PRIMARY", "AXIAL"),
    kernel=("STANDARD",),
)
BARE = SeriesInfo("1.2.5", modality="CT")


@pytest.mark.parametrize("info", [OARM, CT, BARE])
def test_the_role_of_the_sender_decides_whatever_the_header_says(info: SeriesInfo) -> None:
    assert recognise(info, caller_roles=("oarm",)).kind is ScanKind.INTRAOPERATIVE
    assert recognise(info, caller_roles=("planning_ct", "pacs")).kind is ScanKind.PLANNING_CT
    assert recognise(info, caller_roles=("oarm",)).configured


@pytest.mark.parametrize("roles", [(), ("pacs",), ("oarm", "planning_ct")])
def test_hints_decide_without_a_telling_role(roles: tuple[str, ...]) -> None:
    assert recognise(OARM, caller_roles=roles).kind is ScanKind.INTRAOPERATIVE
    assert recognise(CT, caller_roles=roles).kind is ScanKind.PLANNING_CT
    assert not recognise(OARM, caller_roles=roles).configured


@pytest.mark.parametrize("model", ["O-arm", "O-ARM O2", "OArm 1000", "o arm", "O_arm (2nd)"])
def test_names_are_never_compared_exactly(model: str) -> None:
    bare = replace(BARE, model=model)
    found = recognise(bare)
    assert found.kind is ScanKind.INTRAOPERATIVE and found.reasons == ("The header names an O-arm.",)


def test_renamed_products_are_recognised_by_several_hints_together() -> None:
    renamed = replace(OARM, manufacturer="ACME", model="Imager", description="Cone Beam 3D")
    assert recognise(renamed).kind is ScanKind.INTRAOPERATIVE
    assert (
        recognise(replace(BARE, sop_class_uid="1.2.840.10008.5.1.4.1.1.13.1.1")).kind
        is ScanKind.INTRAOPERATIVE
    )


def test_a_bare_header_is_unknown_not_guessed() -> None:
    found = recognise(BARE)
    assert found.kind is ScanKind.UNKNOWN and "Neither" in found.reasons[-1]
    assert recognise(replace(BARE, manufacturer="Medtronic")).kind is ScanKind.UNKNOWN


def test_nominal_parameters_as_expected() -> None:
    findings = check_nominal(OARM)
    assert [f.name for f in findings] == [
        "tube voltage",
        "tube current",
        "slice thickness",
        "field of view",
        "scan time",
    ]
    assert {f.verdict for f in findings} == {Verdict.AS_EXPECTED}


def test_missing_parameters_are_unknown_and_other_values_are_said() -> None:
    assert {f.verdict for f in check_nominal(BARE)} == {Verdict.UNKNOWN}
    by_name = {f.name: f for f in check_nominal(replace(CT, exposure_time_ms=500.0, kvp=0.0))}
    assert by_name["tube voltage"].verdict is Verdict.UNKNOWN and by_name["tube voltage"].found is None
    assert by_name["scan time"].verdict is Verdict.UNKNOWN
    assert by_name["tube current"].verdict is Verdict.DIFFERS
    assert by_name["tube current"].sentence == "The tube current is 380 mA; 25 mA is usual."


def test_scan_time_from_the_exposure_time_of_cone_beam_systems() -> None:
    findings = check_nominal(replace(OARM, acquisition_duration_s=None, exposure_time_ms=13_000.0))
    assert findings[4].found == 13.0 and findings[4].verdict is Verdict.AS_EXPECTED
