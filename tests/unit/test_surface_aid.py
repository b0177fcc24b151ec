"""Surface points of a person: refused where they lie on no bone of the target, and followed by the shape elsewhere."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import service
from service.cli_common import parse_surface_points
from service.domain.plan import MOST_SURFACE_POINTS
from service.errors import GeometryError, InputRefusedError
from service.geometry.attractors import Attractors, SurfaceAttractors, Together
from service.geometry.endplate_aid import attractors
from service.geometry.evidence import Evidence
from service.geometry.mesh_grid import point_mesh_distance
from service.geometry.shape_fit import PlacedShape, Pose, place, vertex_normals
from service.geometry.surface_aid import (
    check_against_shapes,
    check_surface_points,
    findings_of,
    surface_attractors,
    surface_off_mm,
)
from service.geometry.templates import templates_for
from service.geometry.volume import Volume
from tests.unit.test_endplate_aid import points as plates

CENTRE = np.array([5.0, -20.0, 300.0])
GAP_MM = 34.0


def placed(level: str = "L1", up_mm: float = 0.0) -> PlacedShape:
    template = templates_for(level, count=1)[0]
    pose = Pose(CENTRE + np.array([0.0, 0.0, up_mm]), np.eye(3), np.ones(3))
    return PlacedShape(template, pose, 0.5, place(template, pose))


def neighbours() -> tuple[PlacedShape, PlacedShape]:
    return placed("T12", GAP_MM), placed("L2", -GAP_MM)


def block(*, hu: float = 500.0) -> Volume:
    """Soft tissue with a block of bone where x, y and z, in mm, are all above 20; 1 mm voxels from the origin."""
    values = np.full((40, 40, 40), 40.0, dtype=np.float32)
    values[20:, 20:, 20:] = hu
    return Volume(values, np.eye(4))


def tip(shape: PlacedShape, axis: int, sign: float) -> np.ndarray:
    return np.asarray(shape.vertices[np.argmax(sign * shape.vertices[:, axis])])


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ([[30.0, 30.0, 20.0], [np.nan, 30.0, 20.0]], "not a number"),
        ([[30.0, 30.0, 20.0], [30.0, 30.0, 60.0]], r"number 2 \(30.0, 30.0, 60.0\) lies outside the scan"),
        ([[10.0, 30.0, 30.0]], "more than 3 mm from anything as dense as bone"),
        ([[30.0, 30.0, 20.0]] * (MOST_SURFACE_POINTS + 1), "1 to 30 points .* not 31"),
        ([], "not 0"),
    ],
)
def test_points_on_no_bone_of_the_scan_are_refused(given: list[list[float]], says: str) -> None:
    with pytest.raises(GeometryError, match=says) as caught:
        check_surface_points(block(), np.array(given, dtype=np.float64).reshape(-1, 3))
    assert caught.value.code == "geometry.surface_points" and caught.value.next_step


def test_points_near_bone_are_taken_also_where_it_is_weak() -> None:
    near = np.array([[30.0, 30.0, 17.5], [30.0, 30.0, 25.0]])
    check_surface_points(block(), near)
    check_surface_points(block(hu=140.0), near)
    with pytest.raises(GeometryError):
        check_surface_points(block(hu=60.0), near)


def test_points_of_another_vertebra_or_far_from_this_one_are_refused() -> None:
    shape, beside = placed(), neighbours()
    body_above = CENTRE + np.array([0.0, -14.0, GAP_MM])
    own = np.array([tip(shape, 0, 1.0), tip(shape, 1, 1.0), tip(shape, 1, -1.0)])
    check_against_shapes(own, shape, beside)
    check_against_shapes(own + np.array([0.0, 0.0, 3.0]), shape, beside)
    cases = {
        "number 2 .* on the body of the vertebra above": [own[0], body_above],
        "number 1 .* on the body of the vertebra below": [CENTRE + np.array([3.0, 2.0, -GAP_MM])],
        "more than 25 mm from the vertebra found": [own[1] + np.array([0.0, 28.0, 0.0])],
    }
    for says, points in cases.items():
        with pytest.raises(GeometryError, match=says) as caught:
            check_against_shapes(np.array(points), shape, beside)
        assert caught.value.code == "geometry.surface_points"


def test_a_facet_that_the_neighbours_arch_covers_is_no_fault() -> None:
    shape, beside = placed(), neighbours()
    low = shape.vertices[(shape.vertices[:, 1] > CENTRE[1] + 20.0)]
    facet = low[np.argmin(low[:, 2])]
    below = beside[1]
    moved = PlacedShape(below.template, below.pose, 0.5, below.vertices + np.array([0.0, 0.0, 6.0]))
    check_against_shapes(facet[None], shape, (beside[0], moved))


def drawn(shape: PlacedShape, held: SurfaceAttractors | Together, steps: int = 40) -> np.ndarray:
    """The shape as the points alone draw it."""
    vertices = shape.vertices.copy()
    for _ in range(steps):
        pull = held.pull(vertices, vertex_normals(vertices, shape.template.faces), 5.0)
        vertices += 0.6 * pull[:, :3] / (pull[:, 3:] + 1.0)
    return vertices


@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("by_mm", [8.0, -8.0])
def test_the_shape_goes_where_the_points_are_and_nowhere_else(by_mm: float, known: bool) -> None:
    shape = placed()
    point = tip(shape, 1, -1.0) + np.array([0.0, -by_mm, 0.0])  # the front of the body, outwards and inwards
    outward = np.array([[0.0, -1.0, 0.0]]) if known else np.zeros((1, 3))
    vertices = drawn(shape, SurfaceAttractors(point[None], outward))
    off = point_mesh_distance(point[None], vertices, shape.template.faces)[0]
    assert off < 1.0  # of 8
    moved = np.linalg.norm(vertices - shape.vertices, axis=1)
    assert moved[np.linalg.norm(shape.vertices - point, axis=1) > 30.0].max() < 0.05


def test_a_point_on_the_surface_moves_next_to_nothing() -> None:
    shape = placed()
    corners = shape.vertices[shape.template.faces[::400]]
    on_it = corners.mean(axis=1)
    vertices = drawn(shape, SurfaceAttractors(on_it, np.zeros_like(on_it)))
    assert np.abs(point_mesh_distance(vertices, shape.vertices, shape.template.faces)).max() < 0.6


def test_the_far_side_of_a_thin_process_is_drawn_when_the_scan_says_so() -> None:
    """The shape's process lies below the real one: its upper side is nearer to the real one's lower side."""
    shape = placed()
    side = shape.vertices[:, 0] > shape.vertices[:, 0].max() - 6.0
    normals = vertex_normals(shape.vertices, shape.template.faces)
    low, high = (shape.vertices[side & (sign * normals[:, 2] > 0.7)].mean(axis=0) for sign in (-1.0, 1.0))
    assert 2.0 < high[2] - low[2] < 12.0
    point = high + np.array([0.0, 0.0, 5.0])
    told = SurfaceAttractors(point[None], np.array([[0.0, 0.0, -1.0]])).pull(shape.vertices, normals, 3.0)
    untold = SurfaceAttractors(point[None], np.zeros((1, 3))).pull(shape.vertices, normals, 3.0)
    assert normals[np.argmax(untold[:, 3])][2] > 0.0
    assert normals[np.argmax(told[:, 3])][2] < 0.0
    assert told[np.argmax(told[:, 3]), 2] > 0.0


def test_the_way_out_of_the_bone_is_read_from_the_scan_where_it_shows_one() -> None:
    hu = block().values
    bone = np.clip((hu - 40.0) / 250.0, -0.4, 1.2).astype(np.float32)
    evidence = Evidence(np.zeros(3), 1.0, hu, hu > -1, 40.0, bone, bone)
    on_side, in_bone = [30.0, 30.0, 20.0], [31.0, 31.0, 31.0]
    found = surface_attractors(evidence, np.array([on_side, in_bone]))
    assert found.outward[0] @ [0.0, 0.0, -1.0] > 0.97
    assert np.all(found.outward[1] == 0.0)


def test_surface_points_act_beside_endplate_points() -> None:
    shape = placed()
    normals = vertex_normals(shape.vertices, shape.template.faces)
    plate = Attractors(*attractors(plates()))
    mine = SurfaceAttractors(tip(shape, 0, 1.0)[None] + np.array([4.0, 0.0, 0.0]), np.zeros((1, 3)))
    both = Together((plate, mine)).pull(shape.vertices, normals, 4.0)
    each = [part.pull(shape.vertices, normals, 4.0) for part in (plate, mine)]
    assert np.allclose(both, each[0] + each[1])
    assert both[np.argmax(shape.vertices[:, 0]), 0] > 10.0


def test_how_far_the_surface_lies_from_a_point_also_beyond_the_grid() -> None:
    z = np.broadcast_to(np.arange(12.0)[:, None, None], (12, 8, 8))
    field = Volume((z - 5.0).astype(np.float32), np.eye(4))
    off = surface_off_mm(
        field, np.array([[4.0, 4.0, 5.5], [4.0, 4.0, 4.0], [4.0, 4.0, 9.0], [4.0, 4.0, 20.0]])
    )
    assert off == pytest.approx([0.5, -1.0, 5.0, 16.0], abs=1.01)
    assert off[:2] == pytest.approx([0.5, -1.0], abs=1e-6)


def test_a_point_that_was_not_followed_takes_confidence_and_is_named() -> None:
    found: list[tuple[float, str]] = []
    measures: dict[str, float] = {}
    findings_of(np.array([0.4, -1.9]), found, measures)
    assert not found and measures["surface_points_missed"] == 0
    findings_of(np.array([0.4, -2.6, 5.0]), found, measures)
    ((share, sentence),) = found
    assert share < 1.0 and "2 of 3" in sentence and "number 2 by 2.6 mm, number 3 by 5.0 mm" in sentence
    assert measures == {
        "surface_points": 3.0,
        "surface_points_missed": 2.0,
        "surface_points_worst_mm": 5.0,
    }


def test_the_page_takes_as_many_points_as_the_service() -> None:
    page = Path(service.__file__).parent / "web" / "static" / "surface_points.js"
    assert f"export const MOST = {MOST_SURFACE_POINTS};" in page.read_text("utf-8")


def test_command_line_takes_some_points() -> None:
    assert parse_surface_points("1,2,3") == ((1.0, 2.0, 3.0),)
    assert parse_surface_points("1,2,3;-4,5,6.5") == ((1.0, 2.0, 3.0), (-4.0, 5.0, 6.5))
    assert parse_surface_points(None) == ()
    for wrong in ("", "1,2", "1,2,3;", "1,2,3;a,b,c", ";".join(["1,2,3"] * 31)):
        with pytest.raises(InputRefusedError) as caught:
            parse_surface_points(wrong)
        assert caught.value.code == "input.point"
