"""One vertebra out of a model's answer: the right one, whole, at the point; else a refusal that says what was seen."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from service.errors import GeometryError
from service.geometry.segmented import AnswerGates, mask_of, neighbours_of, require_level, require_place
from service.geometry.volume import Volume
from service.ports import SegmentedVertebrae

LEVELS = ("L2", "L1", "T12")
GATES = AnswerGates()
STEP = 1.5
ORIGIN = np.array([60.0, 90.0, 400.0])
NEAR = np.array([0.0, 0.0, 460.0])


def off(x: float, y: float, z: float) -> NDArray[np.float64]:
    return NEAR + np.array([x, y, z], dtype=np.float64)


def ct() -> Volume:
    affine = np.diag([0.8, 0.8, 1.0, 1.0])
    affine[:3, 3] = [-80.0, -80.0, 380.0]
    return Volume(np.zeros((160, 200, 200), np.int16), affine, "1.2.3")


def places(shape: tuple[int, int, int]) -> NDArray[np.float64]:
    k, j, i = np.indices(shape)
    return np.stack([ORIGIN[0] - STEP * i, ORIGIN[1] - STEP * j, ORIGIN[2] + STEP * k], axis=-1)


def answer(balls: dict[str, Any], shape: tuple[int, int, int] = (80, 110, 80)) -> SegmentedVertebrae:
    """Balls (centre, radius mm) of levels on a grid as models have it: to the right, to the front, to the head."""
    at = places(shape)
    score = np.full((len(LEVELS) + 1, *shape), -50.0, np.float32)
    score[0] = 0.0
    for level, parts in balls.items():
        for centre, radius in parts:
            depth = radius - np.linalg.norm(at - np.asarray(centre), axis=-1)
            number = LEVELS.index(level) + 1
            score[number] = np.maximum(score[number], depth)
    others = np.delete(score, LEVELS.index("L1") + 1, axis=0).max(axis=0)
    affine = np.diag([-STEP, -STEP, STEP, 1.0])
    affine[:3, 3] = ORIGIN
    preference = (score[LEVELS.index("L1") + 1] - others).astype(np.float32)
    return SegmentedVertebrae(score.argmax(axis=0).astype(np.uint8), LEVELS, preference, affine)


def said(error: pytest.ExceptionInfo[GeometryError]) -> str:
    assert error.value.code == "geometry.segmentation" and error.value.next_step
    return error.value.message


def ball(radius: float = 20.0, **others: Any) -> SegmentedVertebrae:
    return answer({"L1": [(NEAR, radius)], **others})


def test_the_mask_lies_where_the_level_is_preferred_and_not_on_the_models_voxels() -> None:
    mask = mask_of(ball(), ct(), "L1", NEAR, GATES)
    k, j, i = np.nonzero(mask.values)
    at = mask.to_lps(np.column_stack([i, j, k]))
    np.testing.assert_allclose(at.mean(axis=0), NEAR, atol=0.05)
    volume = len(at) * mask.voxel_ml
    # the model's own voxels of 1.5 mm would be stairs; the border between them is within a few hundredths
    assert volume == pytest.approx(4 / 3 * np.pi * 2.0**3, rel=0.01)
    assert np.linalg.norm(at - NEAR, axis=1).max() < 20.1
    assert mask.frame_of_reference_uid == "1.2.3"
    steps = ct().to_ijk(mask.to_lps(np.zeros((1, 3))))
    np.testing.assert_allclose(steps, np.round(steps), atol=1e-9)


def test_another_level_at_the_point_is_named() -> None:
    found = answer({"T12": [(NEAR, 20.0)], "L1": [(off(0, 0, -36), 18.0)]})
    with pytest.raises(GeometryError) as error:
        require_level(found, "L1", NEAR, GATES)
    assert "for T12, not L1" in said(error)


def test_a_bone_divided_between_two_levels_is_refused() -> None:
    found = answer({"T12": [(off(0, 0, 16), 16.0)], "L1": [(off(0, 0, -16), 16.0)]})
    with pytest.raises(GeometryError) as error:
        require_level(found, "L1", NEAR, GATES)
    assert "divides" in said(error) and "L1 and T12" in said(error)


@pytest.mark.parametrize("near", [off(0, 40, 0), off(500, 0, 0)], ids=["no bone", "outside"])
def test_no_vertebra_at_the_point_is_told(near: NDArray[np.float64]) -> None:
    with pytest.raises(GeometryError) as error:
        require_level(ball(), "L1", near, GATES)
    assert "no vertebra at the target point" in said(error)


def test_the_level_at_the_point_is_accepted_with_a_click_off_its_middle() -> None:
    require_level(ball(15.0), "L1", off(4, -3, 3), GATES)
    require_level(ball(15.0, T12=[(off(0, 0, 34), 15.0)]), "L1", off(0, 0, 5), GATES)


def test_a_level_in_pieces_is_refused_and_a_speck_is_not() -> None:
    speck = answer({"L1": [(NEAR, 18.0), (off(35, 0, 0), 4.0)]})
    mask = mask_of(speck, ct(), "L1", NEAR, GATES)
    assert mask.values.sum() * mask.voxel_ml == pytest.approx(4 / 3 * np.pi * 1.8**3, rel=0.02)
    pieces = answer({"L1": [(NEAR, 16.0), (off(35, 0, 0), 11.0)]})
    with pytest.raises(GeometryError) as error:
        mask_of(pieces, ct(), "L1", NEAR, GATES)
    assert "in pieces" in said(error)


def test_the_largest_piece_elsewhere_is_refused() -> None:
    found = answer({"L1": [(NEAR, 5.0), (off(30, 0, 20), 18.0)]})
    with pytest.raises(GeometryError) as error:
        mask_of(found, ct(), "L1", NEAR, GATES)
    assert "away from the target point" in said(error)


def test_nothing_of_the_level_is_told() -> None:
    with pytest.raises(GeometryError) as error:
        mask_of(answer({"T12": [(NEAR, 15.0)]}), ct(), "L1", NEAR, GATES)
    assert "does not find L1" in said(error)


def test_what_reaches_the_border_looked_at_is_refused_but_not_at_the_end_of_the_scan() -> None:
    high = np.array([0.0, 0.0, 400.0 + STEP * 79 - 10.0])
    reaching = answer({"L1": [(high, 18.0)]})
    with pytest.raises(GeometryError) as error:
        mask_of(reaching, ct(), "L1", high, GATES)
    assert "up to the border" in said(error)
    whole = ct()
    end = int((400.0 + STEP * 79 - 380.0) / 1.0) + 2
    short = Volume(whole.values[:end], whole.lps_from_ijk, "1.2.3")
    assert mask_of(reaching, short, "L1", high, GATES).values.any()


def test_a_body_far_from_the_point_is_refused() -> None:
    class Marks:
        body_centre = off(0, 0, 17.0)

    with pytest.raises(GeometryError) as error:
        require_place(Marks(), "L1", NEAR, GATES)  # type: ignore[arg-type]
    assert "17 mm from the target point" in said(error)


def test_neighbours_are_taken_as_far_as_they_are_labelled() -> None:
    from service.domain.plan import VertebraFrame

    class Marks:
        frame = VertebraFrame((0.0, 0.0, 0.0), (1.0, 0.0, 0.0), (0.0, -1.0, 0.0), (0.0, 0.0, 1.0))
        body_centre = NEAR

    above, below = off(1, 2, 34), off(0, 0, -36)
    found = answer({"L1": [(NEAR, 14.0)], "T12": [(above, 16.0)], "L2": [(below, 11.0)]})
    fields = neighbours_of(found, "L1", Marks(), GATES)  # type: ignore[arg-type]
    assert [f.name for f in fields] == ["above"]  # of L2 too little
    np.testing.assert_allclose(fields[0].centre, above, atol=0.3)
    assert not fields[0].exact
    # signed distance in mm, on average over the directions: labels know their border to a voxel only
    directions = np.random.default_rng(2).normal(size=(400, 3))
    directions /= np.linalg.norm(directions, axis=1)[:, None]
    for radius, depth, within in ((10.0, -6.0, 0.8), (16.0, 0.0, 0.3), (20.0, 4.0, 0.4)):
        found_mm = fields[0].field.sample(above + radius * directions)
        assert found_mm.mean() == pytest.approx(depth, abs=within)
        assert np.abs(found_mm - depth).max() < 1.6


def test_the_gates_are_those_of_the_fit_where_they_mean_the_same() -> None:
    from service.geometry.isolation_checks import GateSettings

    assert GATES.lost_point_mm == GateSettings().lost_seed_mm
