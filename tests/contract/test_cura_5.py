"""The slicer adapter and the audit against a real Cura 5: engine and definitions of Debian, fetched for the tests.

Where they cannot be had (no apt, no network, another system) these tests are skipped in words. What the engine does not
change (text of header and comments) is tested with the engine of the system in `test_cura_engine.py` and
`test_gcode_audit.py`.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from adapters.cura_engine import CuraEngineConfig, CuraEngineSlicer
from adapters.cura_engine.locate import CuraInstall
from bench.slice import slice_argument
from bench.slice.__main__ import phantom_case
from bench.slice.charon import NotToBeHadError, gcode_reader, unpacked
from bench.slice.cura5 import installed
from service.gcode.reader import read_gcode
from service.geometry.progress import silent
from service.ports import SliceSettings
from service.workflow.tasks.slice_task import slice_task
from tests.support_gcode import SlicedPart, slice_part
from tests.support_spoilt_gcode import audit, codes
from tests.support_spoilt_ways import MUTATIONS, check_caught, spoilt

#: Findings about text alone.
_OF_TEXT = ("header.", "comment.", "file.time", "command.", "temperature.", "extruder.")


@pytest.fixture(scope="module")
def cura5() -> CuraInstall:
    try:
        return installed()
    except NotToBeHadError as why:
        pytest.skip(str(why))


@pytest.fixture(scope="module")
def slicer(cura5: CuraInstall) -> CuraEngineSlicer:
    return CuraEngineSlicer(CuraEngineConfig(engine=cura5.engine, resources=cura5.resources))


@pytest.fixture(scope="module")
def sliced(slicer: CuraEngineSlicer, tmp_path_factory: pytest.TempPathFactory) -> SlicedPart:
    return slice_part(slicer, tmp_path_factory.mktemp("cura5"))


@pytest.fixture(scope="module")
def good(sliced: SlicedPart) -> tuple[str, ...]:
    return tuple(sliced.gcode.read_text().splitlines())


@pytest.mark.parametrize(
    ("programs", "words"),
    [
        ({}, "no apt-get"),
        ({"apt-get": "exit 0"}, "no mirror of Debian"),
        (
            {"apt-get": '[ "$1" = indextargets ] && echo "Debian x http://127.0.0.1:9/"'},
            "could not be downloaded",
        ),
    ],
)
def test_where_it_cannot_be_had_it_is_said_and_nothing_is_left(tmp_path, monkeypatch, programs, words):
    (tmp_path / "bin").mkdir()
    for name in {*programs, *(("apt-cache", "dpkg-deb") if programs else ())}:
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\n{programs.get(name, 'exit 1')}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    with pytest.raises(NotToBeHadError, match=words):
        installed(tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_engine_and_definitions_are_found_as_one_installation(cura5, slicer):
    assert cura5.engine.resolve().parent in cura5.resources.parents
    assert slicer.describe().startswith("CuraEngine 5.")


def test_every_setting_is_computed_to_the_papers_values(slicer):
    flat = slicer._flat(SliceSettings())
    assert flat.ignored == ()
    assert {
        "speed_infill": 50,
        "speed_wall_x": 40,
        "speed_wall_0": 36,
        "speed_topbottom": 29,
        "speed_support": 36,
        "speed_layer_0": 15,
        "speed_travel": 250,
        "speed_equalize_flow_width_factor": 0,
        "layer_height": 0.2,
        "layer_height_0": 0.2,
        "xy_offset": 0,
        "xy_offset_layer_0": 0,
        "material_bed_temperature_layer_0": 60,
        "machine_nozzle_id": "AA 0.4",
        "machine_gcode_flavor": "Griffin",
        "infill_line_distance": 0.4,
        "retraction_amount": 6.5,
        "retraction_combing": "infill",
        "support_type": "buildplate",
    }.items() <= flat.values.items()
    temperatures = [k for k in flat.values if k.startswith("material_") and "print_temperature" in k]
    assert {flat.values[k] for k in temperatures} == {210.0}


def test_a_part_is_sliced_and_passes_the_audit(sliced):
    report = audit(sliced)
    assert codes(report) == set()
    measures = report.measures
    assert measures["layers"] == 65
    assert measures["part_over_mesh"] == pytest.approx(1.01, abs=0.01)
    assert measures["layer_off_most"] < 0.03
    assert measures["widest_line_mm"] < 0.9
    assert measures["support_mm3"] > 10
    assert measures["filler_mm3"] > 10
    assert measures["channels"][0]["free_radius_mm"] > 1.1
    assert measures["channels"][0]["walled_fraction"] == 1.0
    # lines of any width are printed at the ordered speed
    assert measures["fastest_mm_s"] == {
        "SKIRT": 15.0,
        "WALL-OUTER": 36.0,
        "WALL-INNER": 40.0,
        "SKIN": 29.0,
        "FILL": 50.0,
        "SUPPORT": 36.0,
    }


def test_no_line_of_the_part_is_outside_the_model(sliced):
    """The profile of Cura 5 makes each layer smaller all round; ours does not."""
    gcode = read_gcode(sliced.gcode)
    outer = gcode.is_printed_line & gcode.of_kind("WALL-OUTER")
    low, high = gcode.end[outer].min(axis=0), gcode.end[outer].max(axis=0)
    # half a line of 0.4 mm inside the box of 20 by 16 mm with its ledge, up to 14.5 mm
    assert low[:2] == pytest.approx([116.5 - 10 + 0.2, 107.5 - 8 + 0.2], abs=0.02)
    assert high[:2] == pytest.approx([116.5 + 14.5 - 0.2, 107.5 + 8 - 0.2], abs=0.02)


def test_same_order_gives_the_same_print(slicer, sliced, tmp_path):
    """Not the same bytes, as 4.13 does: the engine itself differs from run to run (`CuraEngineConfig`)."""
    again = slicer.slice(
        sliced.part,
        tmp_path / "again.gcode",
        SliceSettings(),
        blocker_stl=sliced.blocker,
        filler_stl=sliced.filler,
    )
    assert again.print_time_s == pytest.approx(sliced.result.print_time_s, rel=0.005)
    assert again.material_mm3 == pytest.approx(sliced.result.material_mm3, rel=0.001)
    report, first = audit(sliced, again.gcode), audit(sliced)
    assert codes(report) == set()
    for measure in ("part_mm3", "filler_mm3", "support_mm3"):
        assert report.measures[measure] == pytest.approx(first.measures[measure], rel=0.005)


def test_header_is_accepted_by_ultimakers_own_reader(sliced, tmp_path):
    try:
        charon = gcode_reader(unpacked(tmp_path))
    except NotToBeHadError as why:
        pytest.skip(str(why))
    with sliced.gcode.open("rb") as stream:
        header = charon.parseHeader(stream)
    assert header["generator"]["version"].startswith("5.")
    assert header["extruders"][0]["initial_temperature"] == 210
    assert header["build_plate"]["initial_temperature"] == 60
    assert header["print"]["time"] == sliced.result.print_time_s


@pytest.mark.parametrize(
    ("mutation", "code"),
    [pair for pair in MUTATIONS if not pair[1].startswith(_OF_TEXT)],
    ids=lambda item: getattr(item, "__name__", ""),
)
def test_a_spoilt_file_is_caught(sliced, good, tmp_path, mutation, code):
    check_caught(audit(sliced, spoilt(good, mutation, tmp_path)), mutation, code)


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A vertebra of clinical resolution, modelled from a phantom."""
    return phantom_case(tmp_path_factory.mktemp("case"))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_whole_vertebra_goes_from_ct_to_audited_gcode(slicer, case, tmp_path):
    """With the profile's combing it ends CuraEngine 5.0.0 (`adapters.cura_engine.print_values`)."""
    report = slice_task(slicer, slice_argument(case, tmp_path), silent)["audit"]
    assert report["passed"], report["findings"]
    assert report["measures"]["filler_mm3"] > 100
    printed = report["measures"]["printed"]
    assert printed["surface_p95_mm"] < 0.06
    assert printed["wall_thin_share"] < 0.005
    assert abs(printed["surface_mean_mm"]) < 0.01
