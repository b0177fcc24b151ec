"""The predicted part: a good file prints as the mesh is, and what is spoilt is seen in surface, walls or vents."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from service.gcode.audit import VentHole, audit_gcode
from service.gcode.channel import Beads
from service.gcode.expected import ExpectedPrint, mesh_corners
from service.gcode.printed_bone import PrintedBone, bone_samples, compare_with_bone
from service.gcode.printed_grid import STEP_MM, Grid, filled_mm3, mesh_filling, printed_filling
from service.gcode.printed_solid import PrintedPart, predict_print
from service.gcode.printed_surface import REACH_MM, Samples, sample_mesh, surface_offsets, wall_thickness
from service.gcode.reader import read_gcode
from service.gcode.vents import vent_openness
from service.geometry.bone_outside import bone_mesh
from service.geometry.volume import Volume
from service.results.error_map import AGAINST_CT, error_map
from tests.support_gcode import ENTRY, TARGET, SlicedPart, sliced_part

Lines = list[str]
VENT = VentHole((6.0, 0.0, 0.0), (0.0, 0.0, -1.0), 2.0, 2.0)
EXPECTED = ExpectedPrint()


@pytest.fixture(scope="module")
def sliced() -> SlicedPart:
    return sliced_part()


@pytest.fixture(scope="module")
def good(sliced: SlicedPart) -> tuple[str, ...]:
    return tuple(sliced.gcode.read_text().splitlines())


@pytest.fixture(scope="module")
def corners(sliced: SlicedPart) -> np.ndarray:
    return mesh_corners(sliced.part)


def predicted(path: Path, corners: np.ndarray) -> PrintedPart:
    return predict_print(read_gcode(path), corners, EXPECTED, shell_mm=2.0)


@pytest.fixture(scope="module")
def good_part(sliced: SlicedPart, corners: np.ndarray) -> PrintedPart:
    return predicted(sliced.gcode, corners)


def codes(part: PrintedPart) -> set[str]:
    return {finding.code for finding in part.findings}


def test_a_good_file_prints_as_the_mesh_is(good_part: PrintedPart) -> None:
    assert codes(good_part) == set()
    measures = good_part.measures
    assert measures["surface_p95_mm"] < 0.1
    assert abs(measures["surface_mean_mm"]) < 0.03
    assert measures["wall_mean_mm"] == pytest.approx(2.0, abs=0.06)
    assert measures["wall_p1_mm"] > 1.7
    assert measures["wall_samples"] > 1000
    assert measures["missing_mm3"] + measures["extra_mm3"] < 0.12 * measures["printed_mm3"]
    json.dumps(measures, allow_nan=False)


# --- ways to spoil it ----------------------------------------------------------------------------------------


def without(lines: Lines, first: int, last: int, kinds: str) -> Lines:
    """Lines of some kinds are travelled without plastic in the layers `first` to `last`; later counters move down."""
    begin, end = lines.index(f";LAYER:{first}"), lines.index(f";LAYER:{last + 1}")
    stop, kind, saved, before, result = lines.index("G91"), "", 0.0, 0.0, []
    for i, line in enumerate(lines):
        kind = line[6:] if line.startswith(";TYPE:") else kind
        match = re.search(r"^G1 .*\bE(-?[\d.]+)", line) if i < stop else None
        if match is None:
            result.append(line)
            continue
        value = float(match[1])
        if begin <= i < end and value > before and "X" in line and re.fullmatch(kinds, kind):
            saved += value - before
        before = value
        result.append(line.replace(f"E{match[1]}", f"E{value - saved:.5f}"))
    assert saved > 0
    return result


def wall_left_out(lines: Lines) -> Lines:
    return without(lines, 20, 24, "WALL-OUTER|WALL-INNER|SKIN|FILL")


def half_a_wall(lines: Lines) -> Lines:
    """The inner lines are left out: the outside is right, the wall is thin."""
    return without(lines, 15, 30, "WALL-INNER|SKIN|FILL")


def shifted_layers(lines: Lines) -> Lines:
    """A belt slipped: everything above layer 35 lies 0.6 mm further back."""
    begin, end = lines.index(";LAYER:35"), lines.index("G91")
    shift = re.compile(r"\bY(-?[\d.]+)")

    def moved(text: str) -> str:
        return (
            shift.sub(lambda m: f"Y{float(m[1]) + 0.6:.3f}", text) if text.startswith(("G0", "G1")) else text
        )

    return [moved(t) if begin <= i < end else t for i, t in enumerate(lines)]


SPOILT: list[tuple[Callable[[Lines], Lines], str]] = [
    (wall_left_out, "printed.layer"),
    (half_a_wall, "printed.wall"),
    (shifted_layers, "printed.surface"),
]


@pytest.mark.parametrize(("spoil", "code"), SPOILT, ids=lambda item: getattr(item, "__name__", ""))
def test_what_is_spoilt_is_seen_in_the_prediction(
    sliced: SlicedPart,
    good: tuple[str, ...],
    corners: np.ndarray,
    tmp_path: Path,
    spoil: Callable[[Lines], Lines],
    code: str,
) -> None:
    path = tmp_path / "spoilt.gcode"
    path.write_text("\n".join(spoil(list(good))) + "\n")
    assert code in codes(predicted(path, corners))


def test_a_slipped_belt_is_measured_where_it_lies(
    good: tuple[str, ...], corners: np.ndarray, tmp_path: Path
) -> None:
    path = tmp_path / "slipped.gcode"
    path.write_text("\n".join(shifted_layers(list(good))) + "\n")
    part = predicted(path, corners)
    back = (
        (part.samples.normals[:, 1] > 0.99)
        & (part.samples.points[:, 2] > 8)
        & (part.samples.points[:, 1] > 7.9)
    )
    assert float(np.median(part.offset_mm[back])) == pytest.approx(0.6, abs=0.05)
    below = (
        (part.samples.normals[:, 1] > 0.99)
        & (part.samples.points[:, 2] < 6)
        & (part.samples.points[:, 1] > 7.9)
    )
    assert float(np.median(part.offset_mm[below])) == pytest.approx(0.0, abs=0.05)


# --- vents ---------------------------------------------------------------------------------------------------


def plugged(lines: Lines, kind: str, mesh: str) -> Lines:
    """One line across the vent in its wall, the extruder's counter moved on consistently after it."""
    at = lines.index(";LAYER:4")
    while not re.match(r"G1 X\S+ Y\S+ E", lines[at]):
        at += 1
    counter = float(lines[at].split("E")[1])
    back = " ".join(lines[at].split()[1:3])
    push, x, y = 0.0203, 6.0 + 116.5, 107.5
    crossing = [
        f";TYPE:{kind}", f";MESH:{mesh}", f"G0 F15000 X{x - 0.9:.3f} Y{y:.3f}",
        f"G1 F900 X{x + 0.9:.3f} Y{y:.3f} E{counter + push:.5f}", f"G0 F15000 {back}",
    ]  # fmt: skip
    stop = lines.index("G91")
    rest = [
        re.sub(r"\bE(-?[\d.]+)", lambda m: f"E{float(m[1]) + push:.5f}", t)
        if i < stop and t.startswith("G1")
        else t
        for i, t in enumerate(lines)
    ]
    return [*lines[: at + 1], *crossing, *rest[at + 1 :]]


def vented(path: Path, sliced: SlicedPart, vent: VentHole = VENT) -> tuple[set[str], dict[str, object]]:
    report = audit_gcode(path, expected=EXPECTED, part_mesh=sliced.part, vents=[vent])
    return {f.code for f in report.findings if f.code.startswith("vent")}, report.measures["vents"][0]


def test_an_open_vent_is_measured(sliced: SlicedPart) -> None:
    found, measure = vented(sliced.gcode, sliced)
    assert found == set()
    assert 1.85 < measure["free_radius_mm"] < 2.05
    assert measure["walled_fraction"] > 0.8


@pytest.mark.parametrize(
    ("kind", "mesh"), [("WALL-INNER", "part.stl"), ("SUPPORT", "NONMESH"), ("FILL", "filler.stl")]
)
def test_a_vent_plugged_by_any_line_is_caught(
    sliced: SlicedPart, good: tuple[str, ...], tmp_path: Path, kind: str, mesh: str
) -> None:
    path = tmp_path / "plugged.gcode"
    path.write_text("\n".join(plugged(list(good), kind, mesh)) + "\n")
    found, measure = vented(path, sliced)
    assert found == {"vent.blocked"}
    assert measure["free_radius_mm"] < 0.1


@pytest.mark.parametrize(
    ("out_mm", "support", "counts"),
    [
        (0.6, True, False),
        (0.6, False, True),
        (-0.2, True, False),
        (-0.2, False, True),
        (-0.5, True, True),
        (-2.7, True, True),
        (1.4, False, False),
    ],
)
def test_support_in_front_of_the_mouth_is_no_plug(out_mm: float, support: bool, counts: bool) -> None:
    x = VENT.mouth[0]
    across = Beads(
        np.array([[x - 1.0, 0.0, -out_mm]]), np.array([[x + 1.0, 0.0, -out_mm]]), np.array([0.4]),
        np.array([support]), np.array([7]),
    )  # fmt: skip
    free = vent_openness(VENT, across).free_radius
    assert (free == pytest.approx(-0.2)) if counts else np.isinf(free)


def test_a_vent_looked_for_beside_the_part_is_absent_and_inside_a_wall_blocked(sliced: SlicedPart) -> None:
    assert (
        "vent.absent"
        in vented(sliced.gcode, sliced, VentHole((60.0, 0.0, 0.0), (0.0, 0.0, -1.0), 2.0, 2.0))[0]
    )
    assert (
        "vent.blocked"
        in vented(sliced.gcode, sliced, VentHole((-5.0, 0.0, 0.0), (0.0, 0.0, -1.0), 2.0, 2.0))[0]
    )


# --- the pieces it is made of --------------------------------------------------------------------------------


def slab(thickness: float) -> tuple[Grid, np.ndarray, Samples]:
    """A wall along y, `thickness` wide from x = 0, cut out of the grid with parts of voxels at its edges."""
    grid = Grid(np.array([-4.0, -4.0]), (40, 40, 60), 0.2)
    edges = grid.low[0] + (np.arange(grid.shape[2] + 1) - 0.5) * STEP_MM
    covered = np.clip(np.minimum(edges[1:], thickness) - np.maximum(edges[:-1], 0.0), 0.0, None) / STEP_MM
    filling = np.broadcast_to(np.rint(covered * 250), grid.shape).astype(np.uint8)
    points = np.array([[thickness, y, 4.0] for y in np.linspace(-1, 1, 7)])
    return (
        grid,
        np.ascontiguousarray(filling),
        Samples(points, np.tile([1.0, 0, 0], (7, 1)), np.zeros(7, np.int64)),
    )


@pytest.mark.parametrize("thickness", [0.9, 1.55, 2.0, 2.13])
@pytest.mark.parametrize("off", [-0.4, 0.0, 0.07, 0.8])
def test_surface_and_thickness_of_a_plain_wall(thickness: float, off: float) -> None:
    grid, filling, samples = slab(thickness)
    shifted = Samples(samples.points - [off, 0.0, 0.0], samples.normals, samples.face)
    np.testing.assert_allclose(surface_offsets(filling, grid, shifted), off, atol=0.03)
    np.testing.assert_allclose(wall_thickness(filling, grid, samples), thickness, atol=0.08)


def test_nothing_and_everything_stand_at_the_limit() -> None:
    grid, filling, samples = slab(2.0)
    assert (surface_offsets(np.zeros_like(filling), grid, samples) == -REACH_MM).all()
    assert (surface_offsets(np.full_like(filling, 250), grid, samples) == REACH_MM).all()
    assert (wall_thickness(np.zeros_like(filling), grid, samples) == 0.0).all()


def test_the_mesh_fills_its_own_volume(corners: np.ndarray) -> None:
    grid = Grid.around(corners, 0.2)
    a, b, c = (corners[:, i] for i in range(3))
    volume = float(np.einsum("ij,ij->i", a, np.cross(b, c)).sum() / 6.0)
    assert filled_mm3(mesh_filling(corners, grid), grid) == pytest.approx(volume, rel=0.01)


def test_lines_fill_the_plastic_they_push(tmp_path: Path) -> None:
    """Two lines side by side and one across them: what overlaps fills once."""
    path = tmp_path / "lines.gcode"
    push = 10 * 0.4 * 0.2 / EXPECTED.filament_mm2
    path.write_text(
        ";START_OF_HEADER\n;END_OF_HEADER\n;LAYER:0\n;MESH:part.stl\n;TYPE:SKIN\nG0 F3000 X100 Y100 Z0.2\n"
        f"G1 F1200 X110 Y100 E{push:.5f}\nG0 X110 Y100.4\nG1 X100 Y100.4 E{2 * push:.5f}\n"
        ";TYPE:SUPPORT\nG1 X100 Y105 E1\n"
    )
    grid = Grid(np.array([-20.0, -10.0]), (3, 120, 120), 0.2)
    filling = printed_filling(
        read_gcode(path),
        grid,
        bed_from_print_mm=EXPECTED.bed_from_print_mm,
        filament_mm2=EXPECTED.filament_mm2,
    )
    assert filled_mm3(filling, grid) == pytest.approx(10 * 0.8 * 0.2, rel=0.02)
    assert filling[1:].sum() == 0


def test_samples_are_spread_by_area_and_lie_on_the_mesh(corners: np.ndarray) -> None:
    samples = sample_mesh(corners, 4000)
    top = (samples.points[:, 2] > 12.99).mean()
    double = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1)
    area = double[(corners[:, :, 2] > 12.99).all(axis=1)].sum() / double.sum()
    assert top == pytest.approx(area, abs=0.01)
    np.testing.assert_allclose(np.linalg.norm(samples.normals, axis=1), 1.0)


def test_the_error_map_shows_what_is_missing_in_blue(corners: np.ndarray) -> None:
    samples = sample_mesh(corners, 3000)
    axes = (np.array([1.0, 0, 0]), np.array([0, -1.0, 0]), np.array([0, 0, 1.0]))
    pictures = [
        np.asarray(
            error_map(
                corners,
                samples.points,
                np.full(3000, off),
                axes=axes,
                centre=np.array([0, 0, 6.5]),
                title="t",
            )
        )[34:460, :420].astype(int)
        for off in (-0.5, 0.5)
    ]
    blue, red = (picture[150:280, 150:270].mean(axis=(0, 1)) for picture in pictures)
    assert blue[2] > blue[0] + 40
    assert red[0] > red[2] + 40


# --- against the bone in the CT ------------------------------------------------------------------------------

BOX = Volume(np.zeros((70, 90, 130), np.float32), np.array(
    [[0.25, 0, 0, -14.0], [0, 0.25, 0, -11.0], [0, 0, 0.25, -2.0], [0, 0, 0, 1.0]]
))  # fmt: skip


def bone_of_the_part(grown_mm: float = 0.0) -> np.ndarray:
    """The part's outside without vent and channel, as a CT surface would give it; `grown_mm` all round."""
    k, j, i = np.indices(BOX.values.shape)
    points = BOX.to_lps(np.stack([i, j, k], axis=-1).reshape(-1, 3))

    def box(size: tuple[float, float, float], centre: tuple[float, float, float]) -> np.ndarray:
        off = np.abs(points - np.array(centre)) - np.array(size) / 2.0
        return np.linalg.norm(np.maximum(off, 0.0), axis=1) + np.minimum(off.max(axis=1), 0.0)

    distance = np.minimum(box((20, 16, 13), (0, 0, 6.5)), box((5, 6, 2), (12, 0, 8))) - grown_mm
    field = Volume(distance.reshape(BOX.values.shape).astype(np.float32), BOX.lps_from_ijk)
    return bone_mesh(field).corners


def beside_holes(points: np.ndarray) -> np.ndarray:
    along = np.subtract(TARGET, ENTRY) / np.linalg.norm(np.subtract(TARGET, ENTRY))
    off = points - np.array(ENTRY)
    channel = np.linalg.norm(off - np.outer(off @ along, along), axis=1) < 4.5
    return channel | (np.hypot(points[:, 0] - 6.0, points[:, 1]) < 3.0)


def against_bone(part: PrintedPart, corners: np.ndarray, *, everything: bool = False) -> PrintedBone:
    samples = bone_samples(corners)
    left_out = np.zeros(len(samples.points), bool) if everything else beside_holes(samples.points)
    return compare_with_bone(part.filling, part.grid, samples, left_out, EXPECTED)


def test_a_good_file_prints_the_bone_of_the_ct(good_part: PrintedPart) -> None:
    found = against_bone(good_part, bone_of_the_part())
    assert not found.findings
    assert found.measures["p95_mm"] < 0.15
    assert found.measures["off_share"] < 0.01
    assert 0.02 < found.measures["left_out_share"] < 0.3
    assert np.isnan(found.offset_mm).mean() == pytest.approx(found.measures["left_out_share"], abs=1e-4)


def test_holes_are_errors_where_they_are_not_left_out(good_part: PrintedPart) -> None:
    assert against_bone(good_part, bone_of_the_part(), everything=True).measures["off_share"] > 0.01


@pytest.mark.parametrize(("grown_mm", "wanted_mm"), [(0.3, -0.3), (-0.3, 0.3)])
def test_a_model_of_another_size_than_the_bone_is_measured(
    good_part: PrintedPart, grown_mm: float, wanted_mm: float
) -> None:
    found = against_bone(good_part, bone_of_the_part(grown_mm))
    assert found.measures["mean_mm"] == pytest.approx(wanted_mm, abs=0.08)


def test_a_model_in_another_place_than_the_bone_is_refused(good_part: PrintedPart) -> None:
    moved = bone_of_the_part() + np.array([0.0, 1.0, 0.0])
    found = against_bone(good_part, moved)
    assert {f.code for f in found.findings} == {"printed.bone"}
    assert found.findings[0].severity == "fault"


def test_nothing_is_said_of_a_bone_that_is_left_out(good_part: PrintedPart) -> None:
    samples = bone_samples(bone_of_the_part())
    found = compare_with_bone(
        good_part.filling, good_part.grid, samples, np.ones(len(samples.points), bool), EXPECTED
    )
    assert "p95_mm" not in found.measures and found.measures["samples"] == 0
    assert not found.findings


def test_the_error_map_shows_what_is_left_out_in_yellow(corners: np.ndarray) -> None:
    samples = sample_mesh(corners, 2000)
    axes = (np.array([1.0, 0, 0]), np.array([0, -1.0, 0]), np.array([0, 0, 1.0]))
    offset = np.full(2000, np.nan)
    middle = np.array([0, 0, 6.5])
    picture = error_map(
        corners, samples.points, offset, axes=axes, centre=middle, title="t", words=AGAINST_CT
    )
    red, green, blue = np.asarray(picture)[34:460, :420].astype(int)[150:280, 150:270].mean(axis=(0, 1))
    assert red > blue + 40 and green > blue + 30
