"""Four endplate points: refused when they fit no body, and followed by the shape when they do."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage
from scipy.spatial.transform import Rotation

from service.cli_common import parse_endplates
from service.errors import GeometryError, InputRefusedError
from service.geometry.anatomy import EndplatePoints
from service.geometry.attractors import Attractors
from service.geometry.endplate_aid import attractors, check_points, with_marked_heights
from service.geometry.evidence import Evidence, QuickField, trilinear_along
from service.geometry.mesh_grid import signed_edt, without_holes
from service.geometry.parallel import in_threads
from service.geometry.shape_fit import PlacedShape, Pose, place, vertex_normals
from service.geometry.templates import templates_for

CENTRE = np.array([5.0, -20.0, 300.0])


def placed() -> PlacedShape:
    template = templates_for("L1", count=1)[0]
    pose = Pose(CENTRE, np.eye(3), np.ones(3))
    return PlacedShape(template, pose, 0.5, place(template, pose))


def points(front_high: float = 6.0, back_high: float = 12.0, low: float = -12.0) -> EndplatePoints:
    """Upper plate at these heights above the centre; y grows to the back."""
    front, back = -12.0, 10.0
    upper = CENTRE + np.array([[0.0, front, front_high], [0.0, back, back_high]])
    lower = CENTRE + np.array([[0.0, front, low], [0.0, back, low]])
    return EndplatePoints(upper, lower)


def plate_height(vertices: np.ndarray, normals: np.ndarray, y: float) -> float:
    """Height of the upper plate above the centre near the midline at depth y."""
    local = vertices - CENTRE
    near = (np.abs(local[:, 0]) < 7) & (np.abs(local[:, 1] - y) < 3) & (normals[:, 2] > 0.7)
    return float(np.median(local[near, 2]))


def test_body_takes_the_heights_marked_and_the_arch_stays() -> None:
    shape = placed()
    normals = vertex_normals(shape.vertices, shape.template.faces)
    pressed = with_marked_heights(shape, points())
    assert plate_height(shape.vertices, normals, -10.0) > 9.5
    assert plate_height(pressed.vertices, normals, -10.0) == pytest.approx(6.5, abs=1.5)
    assert plate_height(pressed.vertices, normals, 8.0) == pytest.approx(11.5, abs=1.5)
    arch = shape.vertices[:, 1] > CENTRE[1] + 24.0
    assert arch.sum() > 200
    assert np.allclose(pressed.vertices[arch], shape.vertices[arch])


def test_attractors_pull_the_plate_they_belong_to_and_only_along_its_normal() -> None:
    shape = placed()
    normals = vertex_normals(shape.vertices, shape.template.faces)
    held = Attractors(*attractors(points()))
    pull = held.pull(shape.vertices, normals, 5.0)
    local = shape.vertices - CENTRE
    upper_front = (np.abs(local[:, 0]) < 5) & (np.abs(local[:, 1] + 12) < 3) & (normals[:, 2] > 0.8)
    shift = pull[upper_front, :3] / pull[upper_front, 3:]
    assert np.all(shift[:, 2] < -1.0)
    assert np.abs(shift[:, 0]).max() < 0.2
    far = local[:, 1] > 45.0
    assert pull[far, 3].max() < 1e-6


def swapped(marked: EndplatePoints) -> EndplatePoints:
    return EndplatePoints(marked.lower, marked.upper)


def turned(marked: EndplatePoints, which: str = "both") -> EndplatePoints:
    """Back-first, as somebody clicks who reads the slice the other way round."""
    upper = marked.upper if which == "lower" else marked.upper[::-1]
    return EndplatePoints(upper, marked.lower if which == "upper" else marked.lower[::-1])


def sideways(mm: float, which: tuple[int, ...] = (0, 1, 2, 3)) -> EndplatePoints:
    moved = points().all
    moved[list(which), 0] += mm
    return EndplatePoints(moved[:2], moved[2:])


def leaning(axis: int, degrees: float) -> EndplatePoints:
    """All four turned about the body's centre, as in a spine that is curved or rotated."""
    turn = Rotation.from_euler("xyz"[axis], degrees, degrees=True)
    moved = CENTRE + turn.apply(points().all - CENTRE)
    return EndplatePoints(moved[:2], moved[2:])


@pytest.mark.parametrize(
    ("marked", "says"),
    [
        (turned(points()), "upper back point does not lie behind the upper front point (front and back are"),
        (turned(points(), "lower"), "exchanged"),
        (sideways(24.0), "lower back up to 24 mm beside the target point"),
        (sideways(24.0, (1,)), "one sagittal plane"),
        (sideways(13.0, (2,)), "one sagittal plane"),
        (leaning(2, 80.0), "does not lie behind"),
        (swapped(points()), "exchanged"),
        (points(back_high=60.0), "one lies more than"),
        (points(front_high=-11.0), "apart in height"),
        (replace(points(), upper=points().upper[[0, 0]]), "front and back are"),
        (replace(points(), lower=points().lower * np.nan), "not a number"),
    ],
)
def test_points_that_fit_no_body_are_refused_in_words(marked: EndplatePoints, says: str) -> None:
    with pytest.raises(GeometryError) as caught:
        check_points(marked, CENTRE)
    assert caught.value.code == "geometry.endplate_points"
    assert says in caught.value.message
    assert caught.value.next_step


def test_points_that_fit_are_taken() -> None:
    check_points(points(), CENTRE)


@pytest.mark.parametrize(("axis", "degrees"), [(0, 45.0), (0, -35.0), (1, 25.0), (2, 35.0), (2, -35.0)])
def test_a_curved_or_rotated_spine_is_no_fault(axis: int, degrees: float) -> None:
    check_points(leaning(axis, degrees), CENTRE)


@pytest.mark.parametrize(
    ("marked", "says"),
    [(turned(points()), "exchanged"), (sideways(11.0), "beside the middle of the vertebra found")],
)
def test_points_that_do_not_fit_the_shape_found_move_nothing(marked: EndplatePoints, says: str) -> None:
    with pytest.raises(GeometryError, match=says) as caught:
        with_marked_heights(placed(), marked)
    assert caught.value.code == "geometry.endplate_points"


def test_command_line_takes_four_points() -> None:
    given = parse_endplates("1,2,3;4,5,6;-7,8,9;1.5,1,1")
    assert given == ((1.0, 2.0, 3.0), (4.0, 5.0, 6.0), (-7.0, 8.0, 9.0), (1.5, 1.0, 1.0))
    assert parse_endplates(None) is None
    for wrong in ("1,2,3", "1,2,3;4,5,6;7,8,9;1,2", "1,2,3;4,5,6;7,8,9;a,b,c", ""):
        with pytest.raises(InputRefusedError):
            parse_endplates(wrong)


def quick(field: QuickField, index: np.ndarray) -> np.ndarray:
    """(N, 3) indices of voxels, read by the one pose that `at` is given."""
    return field.at((index * field.per_voxel).T[None].astype(np.float32))[0]


def trilinear(values: np.ndarray, index: np.ndarray) -> np.ndarray:
    """At (N, 3) indices (i, j, k), by scipy alone; zero outside."""
    return ndimage.map_coordinates(values, index.T[::-1], order=1, cval=0.0, output=np.float32)


def test_a_line_is_read_where_its_points_lie() -> None:
    rng = np.random.default_rng(8)
    values = rng.standard_normal((9, 10, 11)).astype(np.float32)
    origin, step_mm = np.array([-4.0, 7.0, 100.0]), 1.5
    evidence = Evidence(origin, step_mm, values, values > -9, 40.0, values, values)
    points, along = origin + rng.uniform(-2, 16, (30, 3)), rng.standard_normal((30, 3))
    steps = np.array([-3.0, 0.0, 0.5, 2.0])
    found = trilinear_along(values, evidence, points, along, steps)
    for n, step in enumerate(steps):
        index = (points + step * along - origin) / step_mm
        assert np.allclose(found[:, n], trilinear(values, index), atol=1e-5)
    assert (found == 0).any() and (found != 0).any()


def test_a_quick_field_reads_the_voxel_that_trilinear_reads_and_nothing_outside() -> None:
    values = np.random.default_rng(1).standard_normal((5, 6, 7)).astype(np.float32)
    whole = np.array([[0, 0, 0], [6, 5, 4], [3, 2, 1]], dtype=np.float64)
    outside = np.array([[-1.0, 0, 0], [7, 0, 0], [0, 6, 0], [0, 0, -0.6]])
    for field in (QuickField(values), QuickField(values, finer=True)):
        assert np.allclose(quick(field, whole), trilinear(values, whole))
        assert np.allclose(quick(field, whole + 0.2 * (whole < 3)), trilinear(values, whole))
        assert np.all(quick(field, outside) == 0.0)
    half = np.array([[0.5, 1.0, 2.0], [3.0, 2.5, 1.5], [5.5, 4.5, 3.5]])
    assert np.allclose(quick(QuickField(values, finer=True), half + 0.1), trilinear(values, half), atol=1e-6)


def test_distances_and_holes_are_those_of_scipy() -> None:
    from scipy import ndimage

    solid = ndimage.gaussian_filter(np.random.default_rng(3).standard_normal((24, 25, 26)), 0.6) > -0.3
    spacing = (0.7, 0.5, 0.9)
    inside = ndimage.distance_transform_edt(solid, spacing)
    signed = np.where(solid, 0.25 - inside, ndimage.distance_transform_edt(~solid, spacing) - 0.25)
    assert np.allclose(signed_edt(solid, spacing), signed, atol=1e-4)
    assert np.array_equal(without_holes(solid), ndimage.binary_fill_holes(solid))
    assert without_holes(solid).sum() > solid.sum()


def test_work_side_by_side_keeps_order_and_raises() -> None:
    assert in_threads(lambda n: n * n, range(9)) == [n * n for n in range(9)]
    with pytest.raises(ZeroDivisionError):
        in_threads(lambda n: 1 / n, [1, 0])
