"""Finding an installation, computing its definitions, finishing the header: without running the engine."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from adapters.cura_engine import finalise as finalising
from adapters.cura_engine.engine import CuraEngineSlicer
from adapters.cura_engine.expressions import Evaluator, ExpressionError
from adapters.cura_engine.finalise import finalise, header_from_log
from adapters.cura_engine.locate import Places, _install_roots, default_places, find_install, is_resources
from adapters.cura_engine.print_values import (
    CuraEngineConfig,
    blocker_values,
    filler_values,
    print_values,
)
from adapters.cura_engine.resolve import REQUIRED_FILES, flatten, setting_version_of
from service.errors import SpineprintError, ToolMissingError
from service.ports import SliceSettings

# --- expressions ---------------------------------------------------------------------------------------------

VALUES = {"speed_print": 50, "adhesion_type": "brim", "layer_height": 0.2, "widths": [1, 2], "on": True}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("math.ceil(speed_print * 55 / 70)", 40),
        ("math.ceil(round(1 / resolveOrValue('layer_height'), 4))", 5),
        ("7 if adhesion_type == 'brim' and on else 0", 7),
        ("max(extruderValues('layer_height')) * -2", -0.4),
        ("extruderValue(0, 'adhesion_type')", "brim"),
        ("adhesion_type not in ['skirt', 'none']", True),
        ("any(w > 1 for w in widths)", True),
        ("sum(map(abs, [-1, 2]))", 3),
        ("0 < layer_height <= 0.2", True),
        ("None or 5", 5),
        ("defaultExtruderPosition()", "0"),
        ("math.pi // 1 + 2 ** 3 % 5", 6),
    ],
)
def test_expressions_of_the_definitions(text, value):
    assert Evaluator(VALUES.__getitem__).evaluate(text) == pytest.approx(value)


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('true')",
        "open('/etc/passwd')",
        "().__class__.__bases__",
        "(lambda: 1)()",
        "math.__loader__",
        "9 ** 999999999",
        "'a' * 1000000000",
        "[0] * 99999999999",
        "layer_height.real",
        "speed_print if missing_setting else 0",
        "1 / 0",
        "f'{speed_print}'",
        "speed_print :=",
        "eval('1')",
        "{1: 2}",
    ],
)
def test_anything_else_is_refused(text):
    with pytest.raises(ExpressionError):
        Evaluator(VALUES.__getitem__).evaluate(text)


VALUES_413 = print_values(SliceSettings(), CuraEngineConfig(), 19)
# --- definitions ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def resources() -> Path:
    folder = next((f for f in default_places().definition_folders if is_resources(f)), None)
    if folder is None:
        pytest.skip(
            "no Ultimaker 3 definitions here; run deploy/fetch-cura-definitions.sh .cache/cura-resources"
        )
    return folder


def test_every_setting_is_computed_to_the_papers_values(resources):
    flat = flatten(resources, VALUES_413)
    values = flat.values
    assert len(values) > 500
    assert flat.ignored == ()
    assert {
        "speed_infill": 50,
        "speed_wall_x": 40,
        "speed_wall_0": 36,
        "speed_topbottom": 29,
        "speed_support": 36,
        "speed_layer_0": 15,
        "speed_travel": 250,
        "layer_height_0": 0.2,
        "material_print_temperature_layer_0": 210,
        "material_bed_temperature_layer_0": 60,
        "machine_nozzle_id": "AA 0.4",
        "machine_gcode_flavor": "Griffin",
        "brim_line_count": 17,
        "infill_line_distance": 0.42,
        "machine_start_gcode": "",
        "retraction_amount": 6.5,
        "support_type": "buildplate",
    }.items() <= values.items()
    temperatures = [k for k in values if k.startswith("material_") and "print_temperature" in k]
    assert {values[k] for k in temperatures} == {210.0}


def test_the_flat_file_has_every_value_as_text(resources):
    flat = flatten(resources, VALUES_413)
    children = json.loads(flat.to_json())["settings"]["all"]["children"]
    assert set(children) == set(flat.values)
    assert all(isinstance(entry["default_value"], str) for entry in children.values())
    assert children["support_enable"]["default_value"] == "true"
    assert children["layer_height"]["default_value"] == "0.2"
    assert flat.to_json() == flatten(resources, VALUES_413).to_json()


def test_unknown_setting_bad_expression_and_circle_are_errors(resources, tmp_path):
    with pytest.raises(ToolMissingError, match="no_such_setting"):
        flatten(resources, {"no_such_setting": 1})
    with pytest.raises(ToolMissingError, match="speed_print"):
        flatten(resources, {"speed_print": "=__import__('os')"})
    with pytest.raises(ToolMissingError, match="circle"):
        flatten(resources, {"layer_height": "=layer_height_0", "layer_height_0": "=layer_height"})
    with pytest.raises(ToolMissingError, match="missing or cannot be read"):
        flatten(tmp_path, {})


def test_each_key_we_pass_is_in_the_definitions(resources):
    known = flatten(resources, {}).values
    ours = print_values(SliceSettings(), CuraEngineConfig(), setting_version_of(resources))
    assert {*ours, *filler_values(4.2), *blocker_values()} <= set(known)


def stub_definitions(folder: Path, setting_version: int, keys: set[str]) -> Path:
    """Definitions of some release, as small as they may be: every setting is text and has no formula."""
    settings = {key: {"type": "str", "default_value": ""} for key in keys}
    for name in REQUIRED_FILES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        document = {"name": "Ultimaker 3", "inherits": "fdmprinter", "overrides": {}}
        if name.endswith("fdmprinter.def.json"):
            document = {
                "metadata": {"setting_version": setting_version},
                "settings": {"all": {"type": "category", "children": settings}},
            }
        (folder / name).write_text(json.dumps(document) if name.endswith(".json") else "[values]\n")
    return folder


# What Cura itself drops from profiles on the way from 4.13 to 5.0 (its VersionUpgrade413to50), renamed ones included.
GONE_IN_5_0 = {
    "travel_compensate_overlapping_walls_enabled",
    "travel_compensate_overlapping_walls_0_enabled",
    "travel_compensate_overlapping_walls_x_enabled",
    "fill_perimeter_gaps",
    "filter_out_tiny_gaps",
    "wall_min_flow",
    "wall_min_flow_retract",
    "speed_equalize_flow_max",
    "speed_equalize_flow_enabled",
    "outer_inset_first",
}
NEW_IN_5_0 = {"speed_equalize_flow_width_factor"}
# The same for its later steps up to 5.13, as far as Cura names them and they are not of printers of others.
GONE_LATER = {
    21: {"limit_support_retractions", "material_flow_dependent_temperature"},
    25: {"wall_overhang_speed_factor"},
    26: {
        "skin_edge_support_thickness",
        "skin_edge_support_layers",
        "extra_infill_lines_to_support_skins",
        "bridge_sparse_infill_max_density",
    },
    27: {"infill_randomize_start_location"},
}


@pytest.mark.parametrize("release", [20, 21, 22, 23, 24, 25, 26, 27, 28])
def test_definitions_of_cura_5_are_asked_only_for_what_they_have(tmp_path, resources, release):
    gone = GONE_IN_5_0.union(*(keys for first, keys in GONE_LATER.items() if first <= release))
    there = set(flatten(resources, {}).values).union(NEW_IN_5_0) - gone
    stub = stub_definitions(tmp_path, release, there)
    assert setting_version_of(stub) == release
    values = print_values(SliceSettings(), CuraEngineConfig(), release)
    assert flatten(stub, values).values["layer_height"] == 0.2
    assert {*filler_values(4.2), *blocker_values()} <= there
    # nothing else of what we want is lost on the way
    assert set(VALUES_413) - set(values) == {"fill_perimeter_gaps"}
    assert set(values) - set(VALUES_413) == NEW_IN_5_0 | {"retraction_combing"}


def test_an_installed_cura_5_is_taken(tmp_path, resources):
    there = set(flatten(resources, {}).values).union(NEW_IN_5_0) - GONE_IN_5_0
    stub = stub_definitions(tmp_path, 20, there)
    engine = program(tmp_path / "CuraEngine")
    engine.write_text("#!/bin/sh\necho Cura_SteamEngine version 5.2.1\n")
    said = CuraEngineSlicer(CuraEngineConfig(engine=engine, resources=stub)).describe()
    assert said == "CuraEngine 5.2.1, Ultimaker 3 definitions (setting version 20)"


def test_a_setting_that_a_release_lacks_is_named_with_advice_that_can_help(tmp_path):
    stub = stub_definitions(tmp_path, 31, {"layer_height"})
    with pytest.raises(ToolMissingError, match=r"setting version 31.*no_such_setting") as caught:
        flatten(stub, {"no_such_setting": 1})
    assert "another release" in caught.value.next_step
    assert "Fetch" not in caught.value.next_step


# --- where things are ----------------------------------------------------------------------------------------


def program(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return path


def definitions(folder: Path) -> Path:
    for name in REQUIRED_FILES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("{}")
    return folder


LAYOUTS = {
    "linux appimage": (
        "linux",
        "home/UltiMaker-Cura-5.9.0/squashfs-root",
        "CuraEngine",
        "share/cura/resources",
    ),
    "cura 4 appimage": (
        "linux",
        "opt/Ultimaker_Cura-4.13/squashfs-root",
        "usr/bin/CuraEngine",
        "usr/bin/resources",
    ),
    "mac 5.9": (
        "darwin",
        "Applications/UltiMaker Cura.app",
        "Contents/Frameworks/CuraEngine",
        "Contents/Resources/share/cura/resources",
    ),
    "mac 5.2": (
        "darwin",
        "Applications/UltiMaker Cura.app",
        "Contents/MacOS/CuraEngine",
        "Contents/Resources/share/cura/resources",
    ),
    "windows": ("win32", "pf/UltiMaker Cura 5.8.1", "CuraEngine.exe", "share/cura/resources"),
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_installed_cura_is_found_with_its_own_definitions(tmp_path, monkeypatch, layout):
    platform, root, engine, resources = layout
    monkeypatch.setenv("PROGRAMFILES", str(tmp_path / "pf"))
    wanted_engine = program(tmp_path / root / engine)
    wanted_resources = definitions(tmp_path / root / resources)
    elsewhere = definitions(tmp_path / "fetched")
    roots = tuple(_install_roots(platform, tmp_path / "home", tmp_path))
    found = find_install(places=Places("", roots, (elsewhere,)))
    assert (found.engine, found.resources) == (wanted_engine, wanted_resources)


def test_the_newest_installation_comes_first(tmp_path, monkeypatch):
    monkeypatch.setenv("PROGRAMFILES", str(tmp_path))
    for version in ("5.9.0", "5.10.1", "4.13.1"):
        folder = tmp_path / f"UltiMaker Cura {version}"
        program(folder / "CuraEngine.exe")
        definitions(folder / "share/cura/resources")
    found = find_install(places=Places("", tuple(_install_roots("win32", tmp_path, tmp_path)), ()))
    assert "5.10.1" in str(found.engine)


def test_configuration_beats_path_beats_installation(tmp_path):
    named = program(tmp_path / "named" / "CuraEngine")
    on_path = program(tmp_path / "bin" / "CuraEngine")
    installed = tmp_path / "opt" / "cura"
    program(installed / "CuraEngine")
    definitions(installed / "share/cura/resources")
    fetched = definitions(tmp_path / "fetched")
    places = Places(str(on_path.parent), (installed,), (fetched,))
    assert find_install(named, places=places).engine == named
    assert find_install(places=places).engine == on_path
    assert find_install(places=places).resources == fetched
    assert find_install(places=Places("", (installed,), (fetched,))).engine == installed / "CuraEngine"
    own = definitions(tmp_path / "own")
    assert find_install(named, own, places=places).resources == own


def test_an_engine_on_path_without_definitions_gives_way_to_a_whole_installation(tmp_path):
    on_path = program(tmp_path / "bin" / "CuraEngine")
    whole = program(tmp_path / "opt" / "cura" / "CuraEngine")
    definitions(whole.parent / "share/cura/resources")
    assert find_install(places=Places(str(on_path.parent), (whole.parent,), ())).engine == whole


def test_what_is_missing_is_said_with_how_to_install_it(tmp_path):
    nothing = Places("", (), ())
    with pytest.raises(ToolMissingError, match="no CuraEngine") as caught:
        find_install(places=nothing)
    assert "apt-get install cura-engine" in caught.value.next_step
    engine = program(tmp_path / "CuraEngine")
    with pytest.raises(ToolMissingError, match="definitions were not found") as caught:
        find_install(engine, places=nothing)
    assert caught.value.code == "tool.definitions"
    with pytest.raises(ToolMissingError, match="configured slicing engine"):
        find_install(tmp_path / "none", places=nothing)
    with pytest.raises(ToolMissingError, match="configured slicer definitions"):
        find_install(engine, tmp_path, places=nothing)


# --- finishing the header ------------------------------------------------------------------------------------

RAW = """;START_OF_HEADER
;HEADER_VERSION:0.1
;FLAVOR:Griffin
;GENERATOR.NAME:Cura_SteamEngine
;GENERATOR.VERSION:4.13.0
;GENERATOR.BUILD_DATE:2022-11-23
;TARGET_MACHINE.NAME:Ultimaker 3
;EXTRUDER_TRAIN.0.INITIAL_TEMPERATURE:210
;EXTRUDER_TRAIN.0.NOZZLE.DIAMETER:0.4
;EXTRUDER_TRAIN.0.NOZZLE.NAME:AA 0.4
;BUILD_PLATE.INITIAL_TEMPERATURE:60
;PRINT.GROUPS:1
;PRINT.SIZE.MIN.X:0
;PRINT.SIZE.MAX.X:0.01
;END_OF_HEADER
;Generated with Cura_SteamEngine 4.13.0
T0
M82 ;absolute
;LAYER_COUNT:1
;LAYER:0
;MESH:part.stl
;MESH:/home/someone/Mustermann.stl
;a note
;TYPE:SKIN
G0 F15000 X100 Y100 Z0.2
G1 F900 X110 Y102.5 E1
G0 X200 Y200 Z30
G1 F1500 E-5
;TIME_ELAPSED:61.5
G91 ;Relative movement
G0 F15000 X8.0 Z0.5 E-4.5
G90
M104 S0
"""
AFTER = """;START_OF_HEADER
;HEADER_VERSION:0.1
;EXTRUDER_TRAIN.0.MATERIAL.VOLUME_USED:6
;EXTRUDER_TRAIN.0.MATERIAL.GUID:wrong
;PRINT.TIME:61
;PRINT.SIZE.MAX.X:110
;END_OF_HEADER
"""
LOG_413 = f"noise\nGcode header after slicing:\n{AFTER}End of gcode header.\nPrint time (s): 61\n"
LOG_5 = f"[2025-01-01 10:00:00.000] [info] Gcode header after slicing: {AFTER}[info] End of gcode header.\n"
GUID = {"EXTRUDER_TRAIN.0.MATERIAL.GUID": SliceSettings().material_guid}


def test_layers_too_small_to_print_at_the_top_are_not_stated(tmp_path):
    """A pointed process: the engine counted 3 layers by height and printed 1."""
    out = tmp_path / "a.gcode"
    done = finalise(RAW.replace(";LAYER_COUNT:1", ";LAYER_COUNT:3").encode(), LOG_413, out, fixed=GUID)
    assert done.layer_count == 1
    assert out.read_text().count(";LAYER_COUNT:1\n") == 1


def test_a_gap_between_layers_stays_for_the_audit(tmp_path):
    out = tmp_path / "a.gcode"
    raw = RAW.replace(";LAYER_COUNT:1", ";LAYER_COUNT:3").replace(";LAYER:0", ";LAYER:1")
    assert finalise(raw.encode(), LOG_413, out, fixed=GUID).layer_count == 3
    assert ";LAYER_COUNT:3\n" in out.read_text()


@pytest.mark.parametrize("log", [LOG_413, LOG_5], ids=["4.13", "5.x"])
def test_header_is_completed_from_either_form_of_the_log(tmp_path, log):
    out = tmp_path / "a.gcode"
    done = finalise(RAW.encode(), log, out, fixed=GUID)
    text = out.read_text()
    assert (done.print_time_s, done.material_mm3, done.layer_count) == (61, 6.0, 1)
    assert f";EXTRUDER_TRAIN.0.MATERIAL.GUID:{SliceSettings().material_guid}\n" in text
    assert ";PRINT.SIZE.MIN.X:100\n;PRINT.SIZE.MIN.Y:100\n;PRINT.SIZE.MIN.Z:0.2\n" in text
    assert ";PRINT.SIZE.MAX.X:110\n;PRINT.SIZE.MAX.Y:102.5\n;PRINT.SIZE.MAX.Z:0.2\n;END_OF_HEADER\n" in text


def test_a_release_that_writes_the_whole_header_itself_needs_no_log(tmp_path):
    raw = RAW.replace(";PRINT.GROUPS", ";EXTRUDER_TRAIN.0.MATERIAL.VOLUME_USED:6\n;TIME:75\n;PRINT.GROUPS")
    assert finalise(raw.encode(), "", tmp_path / "a.gcode", fixed=GUID).print_time_s == 75


def test_comments_with_names_and_paths_do_not_survive(tmp_path):
    finalise(RAW.encode(), LOG_413, tmp_path / "a.gcode", fixed=GUID)
    body = (tmp_path / "a.gcode").read_text().split(";END_OF_HEADER\n")[1]
    assert "Mustermann" not in body
    assert "note" not in body
    assert "\nM82\n" in body
    assert "\nG91\n" in body
    assert ";MESH:part.stl\n;TYPE:SKIN\nG0 F15000" in body


@pytest.mark.parametrize(
    ("raw", "log", "code"),
    [
        (RAW, "", "slicer.failed"),
        (RAW.replace(";LAYER_COUNT:1", ";LAYER_COUNT:0"), LOG_413, "slicer.empty"),
        (RAW.replace(";START_OF_HEADER", ""), LOG_413, "slicer.failed"),
        (RAW.replace("G1 F900 X110 Y102.5 E1\n", ""), LOG_413, "slicer.failed"),
        (RAW, LOG_413.replace("PRINT.TIME:61", "PRINT.TIME:1:01"), "slicer.failed"),
    ],
)
def test_what_cannot_be_completed_is_an_error_and_leaves_no_file(tmp_path, raw, log, code):
    with pytest.raises(SpineprintError) as caught:
        finalise(raw.encode(), log, tmp_path / "a.gcode", fixed=GUID)
    assert caught.value.code == code
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_the_old_file_alone(tmp_path, monkeypatch):
    out = tmp_path / "a.gcode"
    out.write_text("before")

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(finalising.os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        finalise(RAW.encode(), LOG_413, out, fixed=GUID)
    assert out.read_text() == "before"
    assert list(tmp_path.iterdir()) == [out]


def test_no_header_in_an_ordinary_log():
    assert header_from_log("Print time (s): 61\n") == {}
