"""Pictures along a needle: where a point of space falls in them, and what is drawn there."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.spatial.transform import Rotation

from service.domain.plan import Trajectory, VertebraFrame
from service.geometry import pose
from service.geometry.needle_planes import AHEAD_MM, PicturePlane, along_needle
from service.geometry.volume import Volume
from service.results import needle_view3d
from service.results.needle_sheet import (
    HEIGHT,
    MM_PER_PIXEL,
    PICTURE,
    TOP,
    WIDTH,
    Caption,
    needle_slices,
    plain_slices,
)
from service.results.needle_slices import NEEDLE, OUTLINE, PLAN, Scene, ShownNeedle, fused, grey_window
from service.results.render import camera_for

FRAME = VertebraFrame((0, 0, 0), (1, 0, 0), (0, -1, 0), (0, 0, 1))
CAPTION = Caption("L1", "7GK2QM", 2)
TIP = np.array([4.0, -6.0, -2.0])
ENTRY = np.array([18.0, 30.0, 6.0])
AXIS = (TIP - ENTRY) / np.linalg.norm(TIP - ENTRY)
PLANNED = Trajectory("left", (17.0, 30.0, 6.5), (3.0, -7.0, -0.5), 12.0, 21.0, 3.0)

#: The scan's own frame: turned and shifted like a prone patient on another table.
TURN = Rotation.from_rotvec([0.1, -0.15, 3.0]).as_matrix()
SCAN_FROM_PREOP = pose.about(TURN, np.zeros(3), np.array([31.0, -22.0, 44.0]))


def bone(points: np.ndarray) -> np.ndarray:
    """Signed distance to a ball of 25 mm around the origin."""
    return np.linalg.norm(points, axis=1) - 25.0


@pytest.fixture(scope="module")
def scene() -> Scene:
    """A ball of bone in the planning CT, and an O-arm scan of it with a bright rod where the needle is."""
    shape, step = (44, 44, 44), 2.0
    affine = np.diag([step, step, step, 1.0])
    affine[:3, 3] = -43.0
    index = np.indices(shape).reshape(3, -1)[::-1].T
    outer = Volume(bone(index * step - 43.0).reshape(shape).astype(np.float32), affine)
    scan_affine = np.diag([0.8, 0.8, 0.8, 1.0])
    scan_affine[:3, 3] = SCAN_FROM_PREOP[:3, 3] - 40.0
    shape = (100, 100, 100)
    grid = np.indices(shape).reshape(3, -1)[::-1].T * 0.8 + scan_affine[:3, 3]
    preop = pose.apply(pose.invert(SCAN_FROM_PREOP), grid)
    along = np.clip((preop - TIP) @ AXIS, -60.0, 0.0)
    rod = np.linalg.norm(preop - TIP - along[:, None] * AXIS, axis=1) < 1.3
    values = np.where(rod, 5000.0, np.where(bone(preop) < 0, 400.0, 100.0))
    scan = Volume(values.reshape(shape).astype(np.float32), scan_affine)
    return Scene(scan, SCAN_FROM_PREOP, outer, FRAME, 2.8, grey_window(scan, SCAN_FROM_PREOP, outer))


def needle() -> ShownNeedle:
    return ShownNeedle("left", TIP, AXIS, PLANNED, 0.6, 1.9)


def near(image: Image.Image, colour: tuple[int, int, int], pixel: np.ndarray, reach: int = 3) -> bool:
    """Whether this colour is painted within `reach` pixels of a place."""
    rgb = np.asarray(image.convert("RGB")).astype(int)
    column, row = np.rint(pixel).astype(int)
    piece = rgb[row - reach : row + reach + 1, column - reach : column + reach + 1].reshape(-1, 3)
    return bool((np.abs(piece - np.array(colour)).max(axis=1) < 40).any())


# --- where a point falls -----------------------------------------------------------------------------------

turns = st.builds(
    lambda a, b, c: Rotation.from_euler("xyz", [a, b, c], degrees=True).as_matrix(),
    *[st.floats(-35, 35) for _ in range(3)],
)
coordinates = st.tuples(*[st.floats(-200, 200) for _ in range(3)]).map(np.array)


@settings(max_examples=60, deadline=None)
@given(turn=turns, tip=coordinates, sagittal=st.floats(-30, 45), transverse=st.floats(-60, 60))
@pytest.mark.parametrize("name", ["sagittal", "axial"])
def test_the_whole_needle_lies_in_its_planes(
    name: str, turn: np.ndarray, tip: np.ndarray, sagittal: float, transverse: float
) -> None:
    left, anterior, superior = turn[:, 0], -turn[:, 1], turn[:, 2]
    frame = VertebraFrame((0, 0, 0), tuple(left), tuple(anterior), tuple(superior))
    a, b = np.deg2rad(sagittal), np.deg2rad(transverse)
    axis = np.cos(a) * (np.cos(b) * anterior + np.sin(b) * left) - np.sin(a) * superior
    plane = along_needle(name, tip, axis, frame, size=(201, 151), mm_per_pixel=0.5)  # type: ignore[arg-type]
    seen = plane.pixels(tip - np.array([[0.0], [30.0], [80.0]]) * axis)
    assert np.allclose(seen[:, 2], 0.0, atol=1e-9), "every point of the axis lies in the plane"
    assert np.allclose(plane.points(seen[:, :2]), tip - np.array([[0.0], [30.0], [80.0]]) * axis, atol=1e-9)
    middle = plane.pixels(tip - AHEAD_MM * axis)[0]
    assert middle[:2] == pytest.approx([100.0, 75.0], abs=1e-6)
    assert abs(plane.right @ plane.down) < 1e-12
    # as radiologists look: upright from the left with the back on the right; across with the left on the right
    across, down = (-anterior, -superior) if name == "sagittal" else (left, -anterior)
    assert plane.right @ across > 0.3 and plane.down @ down > 0.3
    assert plane.forward @ (-left if name == "sagittal" else superior) > 0.3


@pytest.mark.parametrize(("name", "held"), [("sagittal", (0, 0, 1)), ("axial", (1, 0, 0))])
def test_an_axis_along_the_held_direction_still_gives_an_upright_plane(
    name: str, held: tuple[int, int, int]
) -> None:
    plane = along_needle(name, TIP, np.array(held, float), FRAME, size=(10, 10), mm_per_pixel=1.0)  # type: ignore[arg-type]
    assert np.isfinite(plane.origin).all()
    assert plane.pixels(TIP + 5.0 * np.array(held))[0, 2] == pytest.approx(0.0)


def test_the_document_maps_a_pixel_of_the_whole_picture_to_its_point() -> None:
    plane = along_needle("axial", TIP, AXIS, FRAME, size=PICTURE, mm_per_pixel=MM_PER_PIXEL)
    told = plane.to_document(x=0, y=TOP)
    column, row = plane.pixels(TIP)[0, :2] + [told["x"], told["y"]]
    point = (
        np.array(told["origin"])
        + (column - told["x"]) * told["mm_per_pixel"] * np.array(told["right"])
        + (row - told["y"]) * told["mm_per_pixel"] * np.array(told["down"])
    )
    assert np.linalg.norm(point - TIP) < 1e-3


def test_a_part_of_a_plane_is_the_same_plane() -> None:
    plane = along_needle("sagittal", TIP, AXIS, FRAME, size=(100, 100), mm_per_pixel=0.5)
    part = plane.part(TIP + 3.0 * plane.forward, 10.0, 101)
    assert part.pixels(TIP)[0] == pytest.approx([50.0, 50.0, 0.0], abs=1e-9)
    assert (part.mm_per_pixel * 101) == pytest.approx(10.0)


# --- what is drawn there ----------------------------------------------------------------------------------


def test_metal_outline_plan_and_needle_are_drawn_where_they_are(scene: Scene) -> None:
    made = {p.name: p for p in needle_slices(scene, [needle()], CAPTION)}
    assert set(made) == {"left-sagittal", "left-axial"}
    for picture in made.values():
        assert picture.image.size == (WIDTH, HEIGHT) and picture.plane is not None
        told = picture.plane
        plane = PicturePlane(
            "", np.array(told["origin"]), np.array(told["right"]), np.array(told["down"]), told["mm_per_pixel"],
            told["columns"], told["rows"],
        )  # fmt: skip

        def at(point: np.ndarray, plane: PicturePlane = plane) -> np.ndarray:
            return plane.pixels(point)[0, :2] + [0, TOP]

        shaft = at(TIP - 15.0 * AXIS)
        assert near(picture.image, (255, 255, 255), shaft, 8), "the metal is where the registration puts it"
        assert near(picture.image, NEEDLE, shaft, 2)
        assert near(picture.image, NEEDLE, at(TIP) - [0, 13], 2), "the tip's diamond"
        assert not near(picture.image, NEEDLE, at(TIP + 12.0 * AXIS), 4), "nothing is drawn ahead of the tip"
        assert near(picture.image, PLAN, at(np.array(PLANNED.target)) - [11, 0], 3), "the target's ring"
        # the ball's outline, around its middle as projected into the plane
        middle = (np.array(told["origin"]) @ plane.forward) * plane.forward
        radius = np.sqrt(25.0**2 - float(middle @ middle))
        for way in (0.6 * plane.right + 0.8 * plane.down, 0.6 * plane.right - 0.8 * plane.down):
            assert near(picture.image, OUTLINE, at(middle + radius * way), 4)


def test_a_wrong_registration_shows(scene: Scene) -> None:
    """The test above can fail: moved by 6 mm the metal is no longer under the axis."""
    moved = SCAN_FROM_PREOP.copy()
    moved[:3, 3] += 6.0
    wrong = Scene(scene.scan, moved, scene.outer, FRAME, 2.8, scene.window)
    picture = next(p for p in needle_slices(wrong, [needle()], CAPTION) if p.name == "left-axial")
    plane = along_needle("axial", TIP, AXIS, FRAME, size=PICTURE, mm_per_pixel=MM_PER_PIXEL)
    shaft = plane.pixels(TIP - 15.0 * AXIS)[0, :2] + [0, TOP]
    assert not near(picture.image, (255, 255, 255), shaft, 8)


def test_without_a_needle_the_planned_path_is_shown(scene: Scene) -> None:
    way = np.subtract(PLANNED.target, PLANNED.entry)
    planned = ShownNeedle("left", None, way / np.linalg.norm(way), PLANNED)
    picture = needle_slices(scene, [planned], CAPTION)[0]
    rgb = np.asarray(picture.image).astype(int)
    assert "planned path" in picture.title
    assert not (np.abs(rgb - np.array(NEEDLE)).max(axis=2) < 25).any(), "no needle is pretended"


def test_the_window_follows_the_scans_own_grey_values(scene: Scene) -> None:
    """O-arm values are an affine image of HU: the picture must not change with scale and offset."""
    black, white = scene.window
    other = Volume(scene.scan.values * 0.5 + 300.0, scene.scan.lps_from_ijk)
    assert grey_window(other, SCAN_FROM_PREOP, scene.outer) == pytest.approx(
        (black * 0.5 + 300.0, white * 0.5 + 300.0), rel=1e-5
    )
    assert black < 100.0 < 400.0 < white < 5000.0


def test_the_bone_is_translucent_and_hides_no_needle(scene: Scene) -> None:
    mesh = needle_view3d.bone_mesh(scene.outer)
    assert mesh.volume_mm3() == pytest.approx(4 / 3 * np.pi * 25**3, rel=0.02)
    assert needle_view3d.rod(ENTRY, TIP, 1.0).volume_mm3() > 0
    inside = needle_view3d.parts([needle()], 2.8)
    camera = camera_for(mesh.vertices, [-1.0, 0, 0], [0, 0, 1.0], (160, 160))
    rgb = np.asarray(needle_view3d.see_through(mesh, inside, camera)).astype(int)
    orange = (rgb[:, :, 0] > 130) & (rgb[:, :, 0] > rgb[:, :, 2] + 40)
    column, row, _ = camera.project(TIP - 4.0 * AXIS)[0].astype(int)
    assert orange[row - 2 : row + 3, column - 2 : column + 3].any(), (
        "seen through the bone, and in front of it"
    )
    column, row, _ = camera.project(TIP + 8.0 * AXIS)[0].astype(int)
    assert not orange[row - 2 : row + 3, column - 2 : column + 3].any()


def test_a_refused_scan_is_shown_as_it_came_with_the_reason(scene: Scene) -> None:
    plain = plain_slices(scene.scan, "The vertebra was not found in the scan.", CAPTION)
    other = plain_slices(scene.scan, "Motion.", CAPTION)
    assert (plain.kind, plain.pedicle, plain.plane) == ("plain", None, None)
    first, second = np.asarray(plain.image), np.asarray(other.image)
    assert (first[:400] == second[:400]).all() and (first[400:] != second[400:]).any(), (
        "the reason is written"
    )
    assert first[120:400].std() > 20


def test_the_same_scan_gives_the_same_bytes(scene: Scene) -> None:
    plane = along_needle("axial", TIP, AXIS, FRAME, size=(120, 100), mm_per_pixel=0.6)
    first, second = (fused(scene, plane, needle()).tobytes() for _ in range(2))
    assert first == second
