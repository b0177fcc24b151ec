"""Distances to a channel's axis."""

from __future__ import annotations

import numpy as np
import pytest

from service.gcode.channel import Beads, Channel, beads, openness, segment_distance
from service.gcode.reader import read_gcode


def sampled_distance(start, end, a, b, count: int = 801) -> float:
    s = np.linspace(0, 1, count)[:, None]
    p, q = start + s * (end - start), a + s * (b - a)
    return float(np.linalg.norm(p[:, None] - q[None], axis=2).min())


@pytest.mark.parametrize("seed", range(25))
def test_segment_distance_agrees_with_sampling(seed):
    random = np.random.default_rng(seed)
    start, end, a, b = random.uniform(-5, 5, (4, 3))
    if seed % 5 == 0:
        end = start + (b - a) * random.uniform(-1, 1)  # parallel
    if seed % 7 == 0:
        end = start  # a point
    found = segment_distance(start[None], end[None], a, b)[0]
    assert found == pytest.approx(sampled_distance(start, end, a, b), abs=0.01)


def ring(radius: float, z_values) -> Beads:
    angle = np.linspace(0, 2 * np.pi, 73)
    starts, ends = [], []
    for z in z_values:
        circle = np.column_stack((radius * np.cos(angle), radius * np.sin(angle), np.full(73, z)))
        starts.append(circle[:-1])
        ends.append(circle[1:])
    start, end = np.vstack(starts), np.vstack(ends)
    count = len(start)
    return Beads(start, end, np.full(count, 0.4), np.zeros(count, bool), np.arange(count))


def test_a_clean_ring_is_as_wide_as_it_was_drawn():
    found = openness(Channel((0, 0, 10), (0, 0, 0), 1.4), ring(1.6, np.arange(0.1, 10, 0.2)))
    assert found.free_radius == pytest.approx(1.4, abs=0.01)
    assert found.nearest_support == float("inf")
    assert found.walled_fraction == 1.0


def test_the_floor_of_the_blind_end_is_not_an_obstruction_but_a_plug_is():
    walls = ring(1.6, np.arange(0.1, 10, 0.2))

    def with_line(z: float) -> Beads:
        return Beads(
            np.vstack((walls.start, [[-1, 0, z]])),
            np.vstack((walls.end, [[1, 0, z]])),
            np.append(walls.width, 0.4),
            np.append(walls.comes_off, False),
            np.append(walls.line, 99_999),
        )

    channel = Channel((0, 0, 10), (0, 0, 0), 1.4)
    assert openness(channel, with_line(-0.1)).free_radius > 1.2
    plugged = openness(channel, with_line(5.0))
    assert plugged.free_radius < 0
    assert plugged.blocked_line == 99_999


def test_a_channel_looked_for_in_the_wrong_place_has_no_walls():
    found = openness(Channel((30, 0, 10), (30, 0, 0), 1.4), ring(1.6, np.arange(0.1, 10, 0.2)))
    assert found.walled_fraction == 0.0


@pytest.mark.parametrize(
    ("kind", "comes_off"),
    [("WALL-OUTER", False), ("FILL", False), ("SUPPORT", True), ("SUPPORT-INTERFACE", True), ("SKIRT", True)],
)
def test_support_and_brim_come_off(tmp_path, kind, comes_off):
    """CuraEngine tells a brim as a skirt; it once counted as a plug of a vent that looks at the plate."""
    path = tmp_path / "one.gcode"
    path.write_text(
        ";START_OF_HEADER\n;FLAVOR:Griffin\n;END_OF_HEADER\n"
        f"G0 X0 Y0 Z0.2\n;TYPE:{kind}\nG1 F1200 X5 Y0 E0.2\n"
    )
    lines = beads(read_gcode(path), bed_from_print_mm=(0.0, 0.0, 0.0), layer_mm=0.2, filament_mm2=6.4)
    assert lines.comes_off.tolist() == [comes_off]


@pytest.mark.parametrize(
    ("at_mm", "comes_off", "counts"),
    [
        (-0.3, True, False),
        (-0.3, False, True),
        (0.2, True, False),
        (0.2, False, True),
        (0.5, True, True),
        (0.5, False, True),
    ],
)
def test_support_in_front_of_the_mouth_is_broken_off_and_in_the_channel_stays(at_mm, comes_off, counts):
    walls = ring(1.6, np.arange(0.1, 10, 0.2))
    z = 10.0 - at_mm  # the channel goes down from z = 10
    crossed = Beads(
        np.vstack((walls.start, [[-1, 0, z]])),
        np.vstack((walls.end, [[1, 0, z]])),
        np.append(walls.width, 0.4),
        np.append(walls.comes_off, comes_off),
        np.append(walls.line, 99_999),
    )
    found = openness(Channel((0, 0, 10), (0, 0, 0), 1.4), crossed)
    assert (found.blocked_line == 99_999) is counts
    assert (found.nearest_support < 1.0) is (counts and comes_off)


def test_of_a_support_line_through_the_mouth_the_part_inside_counts():
    line = Beads(
        np.array([[0.9, 0.0, 13.0]]),
        np.array([[0.9, 0.0, 9.0]]),
        np.array([0.4]),
        np.array([True]),
        np.array([7]),
    )
    assert openness(Channel((0, 0, 10), (0, 0, 0), 1.4), line).nearest_support == pytest.approx(0.9)
