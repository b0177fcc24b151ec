"""A vent on a slope: support in front of the slope is outside the part, however deep it lies along the vent's axis."""

from __future__ import annotations

import numpy as np
import pytest
from manifold3d import Manifold

from service.gcode.channel import Beads
from service.gcode.mouth import rim_of
from service.gcode.vents import VentHole, vent_openness

RADIUS_MM = 1.7
UP = np.array([0.0, 0.0, 1.0])
VENT = VentHole((0.0, 0.0, 0.0), (0.0, 0.0, 1.0), RADIUS_MM, 2.0)


def plate(slope_deg: float) -> np.ndarray:
    """Triangles (F, 3, 3) of a plate, its top through the origin and rising along x, with the vent through it."""
    body = Manifold.cube((30.0, 30.0, 8.0), True).translate((0, 0, -4)).rotate((0, -slope_deg, 0))
    mesh = (body - Manifold.cylinder(40.0, RADIUS_MM, RADIUS_MM, 96, True)).to_mesh()
    return np.asarray(mesh.vert_properties[:, :3], float)[mesh.tri_verts]


def support_at(x: float, z: float) -> Beads:
    return Beads(
        np.array([[x, -1.0, z]]), np.array([[x, 1.0, z]]), np.array([0.4]), np.array([True]), np.array([7])
    )


@pytest.mark.parametrize("slope_deg", [0.0, 10.0, 25.0, 35.0])
@pytest.mark.parametrize("off_axis_mm", [0.0, 0.4])
def test_the_rim_has_the_slope_of_the_surface(slope_deg: float, off_axis_mm: float) -> None:
    """Also where the plan's mouth lies a little off the surface: the rim is felt, not believed."""
    mouth = np.array([0.0, 0.0, off_axis_mm])
    rim = rim_of(mouth, UP, RADIUS_MM, plate(slope_deg))
    leaning = np.radians(slope_deg)
    assert rim.height_mm == pytest.approx(-off_axis_mm, abs=0.02)
    np.testing.assert_allclose(rim.normal, [-np.sin(leaning), 0.0, np.cos(leaning)], atol=0.01)


@pytest.mark.parametrize(
    ("x", "z", "counts"),
    [
        (-1.2, -0.54, False),  # in front of the slope's low side, though behind a square mouth
        (1.2, -0.54, True),  # as deep on the high side: well inside the hole
        (-1.2, -1.0, True),
        (1.2, 0.3, False),
        (1.2, 0.1, True),
    ],
)
def test_support_counts_from_behind_the_sloping_rim(x: float, z: float, counts: bool) -> None:
    rim = rim_of(np.zeros(3), UP, RADIUS_MM, plate(25.0))
    free = vent_openness(VENT, support_at(x, z), rim).free_radius
    assert (free == pytest.approx(1.0)) if counts else np.isinf(free)


def test_plastic_of_the_part_counts_on_both_sides_of_the_rim() -> None:
    rim = rim_of(np.zeros(3), UP, RADIUS_MM, plate(25.0))
    line = support_at(-1.2, 0.3)
    part = Beads(line.start, line.end, line.width, np.array([False]), line.line)
    assert vent_openness(VENT, part, rim).free_radius == pytest.approx(1.0)


def test_the_wall_is_looked_for_below_the_rim_where_the_plans_mouth_stood_on_a_spike() -> None:
    """The hole takes the spike away: its mouth lies deeper than the surface was where the vent was planned."""
    planned = VentHole((0.0, 0.0, 1.4), VENT.outward, RADIUS_MM, 2.0)
    rim = rim_of(np.asarray(planned.mouth), UP, RADIUS_MM, plate(0.0))
    z = np.arange(-2.0, 0.0, 0.2)
    beside = np.column_stack([np.full_like(z, RADIUS_MM + 0.3), np.full_like(z, -1.0), z])
    wall = Beads(
        beside,
        beside + np.array([0.0, 2.0, 0.0]),
        np.full_like(z, 0.4),
        np.zeros(len(z), dtype=bool),
        np.arange(len(z)),
    )
    found = vent_openness(planned, wall, rim)
    assert found.walled_fraction == 1.0
    assert found.free_radius == pytest.approx(RADIUS_MM + 0.1)


def test_a_hole_at_the_edge_of_the_part_is_taken_as_square() -> None:
    """Half of its rim hangs over the edge, where there is no surface to feel."""
    rim = rim_of(np.array([15.2, 0.0, 0.0]), UP, RADIUS_MM, plate(0.0))
    assert rim.height_mm == 0.0
    np.testing.assert_array_equal(rim.normal, UP)
    away = rim_of(np.array([90.0, 0.0, 0.0]), UP, RADIUS_MM, plate(0.0))
    np.testing.assert_array_equal(away.normal, UP)
