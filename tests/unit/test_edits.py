"""Corrections of an isolated vertebra: what each kind does, repeatable, and refused in words where it means nothing."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.domain.edits import Edit, edits_from_document
from service.errors import GeometryError, InputRefusedError
from service.geometry.anatomy import Endplate, Isolation, Landmarks, Quality
from service.geometry.edits import apply_edits
from service.geometry.volume import Volume
from tests.unit import solid_shapes as shapes

RADIUS_MM = 15.0


@pytest.fixture(scope="module")
def isolation() -> Isolation:
    """A ball of bone round the origin."""
    outer = shapes.sphere(RADIUS_MM)
    half = 20
    k, j, i = np.indices((2 * half + 1,) * 3) - half
    inside = (np.sqrt(k**2 + j**2 + i**2) < RADIUS_MM).astype(np.uint8)
    affine = np.eye(4)
    affine[:3, 3] = -half
    plate = Endplate(np.zeros(3), np.array([0.0, 0.0, 1.0]), True)
    frame = shapes.simple_plan().vertebra_frame
    landmarks = Landmarks(frame, np.zeros(3), plate, plate, (), np.zeros(3))
    return Isolation("L1", Volume(inside, affine), outer, landmarks, Quality(0.9, ("seen",)), "mask")


def ball_ml(radius_mm: float) -> float:
    return 4.0 / 3.0 * np.pi * radius_mm**3 / 1000.0


def volumes(isolation: Isolation) -> tuple[float, float]:
    outer, mask = isolation.outer, isolation.mask
    return float((outer.values < 0).sum()) * outer.voxel_ml, float(mask.values.sum()) * mask.voxel_ml


def test_erase_takes_a_ball_and_says_how_much(isolation: Isolation) -> None:
    done = apply_edits(isolation, [Edit("erase", (0.0, 0.0, 10.0), 4.0)])
    for before, after in zip(volumes(isolation), volumes(done), strict=True):
        assert before - after == pytest.approx(ball_ml(4.0), rel=0.06)
    assert done.outer.sample(np.array([[0.0, 0.0, 10.0]]))[0] == pytest.approx(4.0, abs=0.3)
    assert done.quality.reasons[0] == "seen"
    assert (
        f"{done.quality.measures['edited_out_ml']:.2f} mL taken away, 0.00 mL added"
        in done.quality.reasons[-1]
    )
    assert done.quality.measures["edited_out_ml"] == pytest.approx(ball_ml(4.0), rel=0.06)
    assert volumes(isolation)[0] == pytest.approx(ball_ml(RADIUS_MM), rel=0.02), "the original is as it was"


def test_paint_adds_a_ball(isolation: Isolation) -> None:
    done = apply_edits(isolation, [Edit("paint", (14.0, 0.0, 0.0), 3.0)])
    assert done.outer.sample(np.array([[16.5, 0.0, 0.0]]))[0] < 0
    assert volumes(done)[0] > volumes(isolation)[0]
    assert volumes(done)[1] > volumes(isolation)[1]


def test_cut_takes_only_beyond_its_plane_and_within_its_ball(isolation: Isolation) -> None:
    done = apply_edits(isolation, [Edit("cut", (0.0, 0.0, 9.0), 12.0, (0.0, 0.0, 1.0))])
    sampled = done.outer.sample(
        np.array([[0, 0, 8.5], [0, 0, 9.5], [0, 0, 14.0], [0, 0, -14.0], [14.0, 0, 0]])
    )
    assert [bool(v < 0) for v in sampled] == [True, False, False, True, True]


def test_what_hangs_on_no_more_goes_too(isolation: Isolation) -> None:
    # a slab out of the ball's cap: the cap beyond it would float
    done = apply_edits(
        isolation,
        [Edit("erase", (x, y, 11.0), 2.0) for x in range(-12, 13, 2) for y in range(-12, 13, 2) if x * x + y * y < 140],
    )  # fmt: skip
    assert done.outer.sample(np.array([[0.0, 0.0, 14.0]]))[0] > 0


def test_same_edits_same_bone(isolation: Isolation) -> None:
    edits = edits_from_document(
        [
            {"kind": "erase", "centre": [0, 0, 10], "radius_mm": 3},
            {"kind": "cut", "centre": [10, 0, 0], "radius_mm": 6, "normal": [2, 0, 0]},
        ]
    )
    again = edits_from_document([edit.to_document() for edit in edits])
    assert edits == again
    first, second = apply_edits(isolation, edits), apply_edits(isolation, again)
    assert first.outer.values.tobytes() == second.outer.values.tobytes()
    assert first.mask.values.tobytes() == second.mask.values.tobytes()
    assert apply_edits(isolation, ()) is isolation


@pytest.mark.parametrize(
    ("edit", "code"),
    [
        (Edit("erase", (200.0, 0.0, 0.0), 3.0), "edits.outside"),
        (Edit("paint", (18.0, 0.0, 0.0), 5.0), "edits.outside"),
        (Edit("erase", (17.5, 0.0, 0.0), 2.0), "edits.nothing"),
        (Edit("paint", (0.0, 0.0, 0.0), 3.0), "edits.nothing"),
        (Edit("erase", (0.0, 0.0, 0.0), 2.0), "edits.too_much"),
        (Edit("cut", (0.0, 0.0, 0.5), 30.0, (0.0, 0.0, 1.0)), "edits.too_much"),
    ],
)
def test_what_means_nothing_is_refused(isolation: Isolation, edit: Edit, code: str) -> None:
    with pytest.raises(GeometryError) as caught:
        apply_edits(isolation, [edit])
    assert caught.value.code == code
    assert caught.value.next_step


def test_who_paints_a_bone_of_their_own_is_sent_to_a_mask(isolation: Isolation) -> None:
    away = [np.array(d, dtype=float) for d in product((-1, 0, 1), repeat=3) if any(d)]
    around = [12.0 * d / np.linalg.norm(d) for d in away]
    edits = [Edit("paint", (float(p[0]), float(p[1]), float(p[2])), 7.0) for p in around]
    with pytest.raises(GeometryError) as caught:
        apply_edits(isolation, edits)
    assert caught.value.code == "edits.too_much" and "add" in caught.value.message
    assert apply_edits(isolation, edits[:3]).quality.measures["edited_in_ml"] > 0.3


GOOD: dict[str, Any] = {"kind": "erase", "centre": [0, 0, 0], "radius_mm": 3}


@pytest.mark.parametrize(
    "bad",
    [
        "erase",
        {"kind": "erase"},
        [3],
        [GOOD | {"kind": "melt"}],
        [GOOD | {"kind": ["erase"]}],
        [GOOD | {"centre": [0, 0]}],
        [GOOD | {"centre": [0, 0, float("nan")]}],
        [GOOD | {"centre": "000"}],
        [GOOD | {"radius_mm": 0.1}],
        [GOOD | {"radius_mm": True}],
        [GOOD | {"normal": [0, 0, 1]}],
        [GOOD | {"kind": "cut"}],
        [GOOD | {"kind": "cut", "normal": [0, 0, 0]}],
        [GOOD | {"kind": "cut", "normal": "up"}],
        [GOOD | {"colour": "red"}],
        [GOOD] * 201,
    ],
)
def test_what_is_no_list_of_edits_is_refused(bad: object) -> None:
    with pytest.raises(InputRefusedError) as caught:
        edits_from_document(bad)
    assert caught.value.code == "edits.invalid"


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from([*GOOD, "normal", "x"]), inner, max_size=4)
    ),
    max_leaves=12,
)  # fmt: skip


@given(JSON)
def test_any_json_is_read_or_refused(document: object) -> None:
    try:
        edits = edits_from_document(document)
    except InputRefusedError:
        return
    assert all(isinstance(edit, Edit) for edit in edits)
