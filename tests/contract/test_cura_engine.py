"""The slicer adapter against the real CuraEngine, and its files against UltiMaker's own reader."""

from __future__ import annotations

import gzip
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import trimesh

from adapters.cura_engine import CuraEngineConfig, CuraEngineSlicer
from bench.slice.charon import NotToBeHadError, gcode_reader, unpacked
from service.errors import GeometryError, SpineprintError, ToolMissingError
from service.gcode.audit import ExpectedPrint, audit_gcode
from service.ports import Slicer, SliceSettings
from tests.support_gcode import ENTRY, RADIUS, TARGET, SlicedPart, sliced_part


@pytest.fixture(scope="session")
def sliced() -> SlicedPart:
    return sliced_part()


@pytest.fixture(scope="session")
def charon(tmp_path_factory):
    try:
        return gcode_reader(unpacked(tmp_path_factory.mktemp("charon")))
    except NotToBeHadError as why:
        pytest.skip(str(why))


def test_is_a_slicer_of_the_core_and_says_what_it_is(sliced):
    slicer: Slicer = CuraEngineSlicer()
    assert slicer.describe().startswith("CuraEngine ")
    assert "Ultimaker 3" in slicer.describe()
    assert sliced.result.engine == slicer.describe()


def test_figures_of_the_result_are_those_of_the_file(sliced):
    text = sliced.gcode.read_text()
    assert sliced.result.layer_count == text.count("\n;LAYER:") == 65
    assert f"\n;PRINT.TIME:{sliced.result.print_time_s}\n" in text
    assert sliced.result.print_time_s > 600
    assert sliced.result.material_mm3 > 2000


def test_nothing_of_the_case_is_in_file_or_log(sliced):
    for text in (sliced.gcode.read_text(), sliced.result.log_tail):
        assert "vertebra" not in text
        assert "cavity" not in text
        assert str(sliced.part.parent) not in text


def test_header_is_accepted_by_ultimakers_own_reader(sliced, charon):
    with sliced.gcode.open("rb") as stream:
        header = charon.parseHeader(stream)
    assert header["machine_type"] == "Ultimaker 3"
    assert header["extruders"][0]["initial_temperature"] == 210
    assert header["extruders"][0]["nozzle"]["name"] == "AA 0.4"
    assert header["build_plate"]["initial_temperature"] == 60
    assert header["print"]["time"] == sliced.result.print_time_s
    assert header["print"]["max_size"]["z"] == 13


def test_ultimakers_reader_refuses_what_our_audit_refuses(sliced, charon, tmp_path):
    """The judge is awake: without the finishing of the header it says no, and so do we."""
    lines = sliced.gcode.read_text().splitlines()
    for broken in (
        ";PRINT.TIME",
        ";GENERATOR.BUILD_DATE",
        ";EXTRUDER_TRAIN.0.MATERIAL.VOLUME_USED",
        ";PRINT.SIZE.MIN.X",
    ):
        path = tmp_path / "broken.gcode"
        path.write_text("\n".join(line for line in lines if not line.startswith(broken)))
        with path.open("rb") as stream, pytest.raises(Exception, match="Unable to parse the header"):
            charon.parseHeader(stream)
        report = audit_gcode(path, expected=ExpectedPrint(), part_mesh=sliced.part)
        assert "header.form" in {finding.code for finding in report.findings}


def test_same_order_gives_the_same_bytes_also_packed(sliced, tmp_path):
    packed = tmp_path / "again.gcode.gz"
    CuraEngineSlicer().slice(
        sliced.part, packed, SliceSettings(), blocker_stl=sliced.blocker, filler_stl=sliced.filler
    )
    assert gzip.decompress(packed.read_bytes()) == sliced.gcode.read_bytes()
    assert packed.read_bytes()[4:8] == b"\0\0\0\0"  # no time in the archive
    report = audit_gcode(
        packed,
        expected=ExpectedPrint(),
        part_mesh=sliced.part,
        filler_mesh=sliced.filler,
        channels=[(ENTRY, TARGET, RADIUS)],
    )
    assert report.passed
    assert list(tmp_path.iterdir()) == [packed]


def test_other_settings_are_sliced_as_asked_and_refused_by_the_papers_audit(sliced, tmp_path):
    out = tmp_path / "hot.gcode"
    settings = replace(SliceSettings(), nozzle_c=215.0, bed_c=55.0, support=False, brim=False)
    CuraEngineSlicer().slice(sliced.part, out, settings)
    codes = {f.code for f in audit_gcode(out, expected=ExpectedPrint(), part_mesh=sliced.part).findings}
    assert {"temperature.nozzle", "temperature.bed"} <= codes
    own = audit_gcode(out, expected=ExpectedPrint.from_settings(settings), part_mesh=sliced.part)
    assert own.passed, own.findings
    assert own.measures["support_mm3"] == 0


@pytest.mark.parametrize(
    ("shift", "words"),
    [
        ((0, 0, 5), "rest on the plate"),
        ((0, 0, -1), "rest on the plate"),
        ((95, 0, 0), "along x"),
        ((0, -95, 0), "along y"),
    ],
)
def test_a_model_that_is_not_on_the_plate_is_refused_before_slicing(sliced, tmp_path, shift, words):
    mesh = trimesh.load(sliced.part)
    mesh.apply_translation(shift)
    mesh.export(tmp_path / "moved.stl")
    with pytest.raises(GeometryError, match=words):
        CuraEngineSlicer().slice(tmp_path / "moved.stl", tmp_path / "out.gcode", SliceSettings())
    assert not (tmp_path / "out.gcode").exists()


def test_a_model_higher_than_the_printer_is_refused(tmp_path):
    trimesh.creation.box(
        (10, 10, 201), transform=trimesh.transformations.translation_matrix((0, 0, 100.5))
    ).export(tmp_path / "tower.stl")
    with pytest.raises(GeometryError, match="high"):
        CuraEngineSlicer().slice(tmp_path / "tower.stl", tmp_path / "out.gcode", SliceSettings())


def test_an_open_mesh_gives_an_error_and_no_file(tmp_path):
    """CuraEngine slices a single triangle to 0 layers and exits with 0."""
    sheet = trimesh.Trimesh([[0, 0, 0], [10, 0, 0], [0, 10, 8]], [[0, 1, 2]], process=False)
    sheet.export(tmp_path / "sheet.stl")
    with pytest.raises(SpineprintError) as caught:
        CuraEngineSlicer().slice(tmp_path / "sheet.stl", tmp_path / "out.gcode", SliceSettings())
    assert caught.value.code == "slicer.empty"
    assert not (tmp_path / "out.gcode").exists()


def test_what_is_no_stl_is_refused(tmp_path):
    (tmp_path / "a.stl").write_bytes(b"solid nothing\nendsolid\n")
    with pytest.raises(GeometryError, match="STL"):
        CuraEngineSlicer().slice(tmp_path / "a.stl", tmp_path / "out.gcode", SliceSettings())


def test_an_engine_that_takes_too_long_is_stopped(sliced, tmp_path):
    with pytest.raises(SpineprintError) as caught:
        CuraEngineSlicer(CuraEngineConfig(timeout_s=0.05)).slice(
            sliced.part, tmp_path / "o.gcode", SliceSettings()
        )
    assert caught.value.code == "slicer.timeout"
    assert list(tmp_path.iterdir()) == []


def test_an_engine_that_fails_is_reported_with_its_last_words_without_paths(sliced, tmp_path):
    engine = tmp_path / "CuraEngine"
    engine.write_text(
        "#!/bin/sh\n[ \"$1\" = help ] && echo 'Cura_SteamEngine version 4.13.0' && exit 0\n"
        "echo 'could not open /home/someone/case.stl' >&2\nexit 3\n"
    )
    engine.chmod(0o755)
    with pytest.raises(SpineprintError) as caught:
        CuraEngineSlicer(CuraEngineConfig(engine=engine)).slice(
            sliced.part, tmp_path / "o.gcode", SliceSettings()
        )
    assert caught.value.code == "slicer.failed"
    assert caught.value.details["exit_code"] == 3
    assert "could not open <path>" in str(caught.value.details["log_tail"])


def test_definitions_of_another_release_are_refused(sliced, tmp_path):
    slicer = CuraEngineSlicer()
    copy = tmp_path / "resources"
    shutil.copytree(slicer._install.resources, copy)
    base = copy / "definitions" / "fdmprinter.def.json"
    base.write_text(base.read_text().replace('"setting_version": 19', '"setting_version": 23'))
    with pytest.raises(ToolMissingError, match="different releases"):
        CuraEngineSlicer(CuraEngineConfig(resources=copy)).describe()


def test_fetch_script_says_what_is_wrong_and_does_nothing_twice(tmp_path):
    script = Path(__file__).resolve().parents[2] / "deploy" / "fetch-cura-definitions.sh"
    assert subprocess.run([script], capture_output=True, check=False).returncode == 2
    resources = CuraEngineSlicer()._install.resources
    copy = tmp_path / "r"
    shutil.copytree(resources, copy)
    before = {p: p.stat().st_mtime_ns for p in copy.rglob("*")}
    # an empty PATH would break any download: nothing is downloaded when all is there
    done = subprocess.run(["/bin/sh", script, copy], env={"PATH": ""}, capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert {p: p.stat().st_mtime_ns for p in copy.rglob("*")} == before
    failed = subprocess.run(
        ["/bin/sh", script, tmp_path / "none"], env={"PATH": ""}, capture_output=True, check=False
    )
    assert failed.returncode == 1
    assert b"UltiMaker Cura" in failed.stderr
