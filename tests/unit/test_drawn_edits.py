"""A mask edited by a person is followed where the CT, unchanged, would say otherwise."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pytest

from service.geometry.drawn_edits import ANOTHER_MASK, drawn_edits
from service.geometry.isolation import Isolation, isolation_from_mask
from service.geometry.volume import Volume
from tests.unit.vertebra_model import ModelVertebra

MODEL = ModelVertebra()
CENTRE = np.array(MODEL.centre)
THRESHOLD_HU = 226.0


@lru_cache(maxsize=1)
def scan() -> tuple[Volume, Volume, np.ndarray]:
    """CT, true mask, and the distance (mm) of each voxel from the true bone."""
    ct = MODEL.ct((0.8, 0.8, 1.0))
    distance = MODEL.distance(places(ct)).reshape(ct.values.shape)
    return ct, Volume((distance < 0).astype(np.uint8), ct.lps_from_ijk), distance


def places(ct: Volume) -> np.ndarray:
    k, j, i = np.indices(ct.values.shape)
    return ct.to_lps(np.column_stack([i.ravel(), j.ravel(), k.ravel()]))


def patch(side: float) -> np.ndarray:
    """Voxels near the front (-1) or the back (+1) of the body's wall, in the middle."""
    ct, _, _ = scan()
    away = (places(ct) - CENTRE).reshape(*ct.values.shape, 3)
    return (np.abs(away[..., 0]) < 7) & (np.abs(away[..., 2]) < 6) & (side * away[..., 1] > 0)


def edited(*, erase_mm: float = 0.0, paint_mm: float = 0.0) -> Volume:
    _, mask, distance = scan()
    values = mask.values.copy()
    values[patch(-1.0) & (distance > -erase_mm) & (distance < 0)] = 0
    values[patch(-1.0) & (distance >= 0) & (distance < paint_mm)] = 1
    return Volume(values, mask.lps_from_ijk)


def front_mm(isolation: Isolation) -> float:
    """How far the surface lies outside the true front wall, in the middle of the patch."""
    y = np.arange(-30.0, 0.0, 0.05)
    line = CENTRE + np.column_stack([np.zeros_like(y), y, np.zeros_like(y)])
    crossing = line[np.argmax(isolation.outer.sample(line, outside=8.0) < 0)]
    return float(MODEL.distance(crossing[None])[0])


@lru_cache(maxsize=1)
def untouched() -> Isolation:
    ct, mask, _ = scan()
    return isolation_from_mask(ct, mask, "L1")


def test_an_erased_layer_of_bright_bone_does_not_come_back() -> None:
    ct, mask, _ = scan()
    less = edited(erase_mm=1.7)
    told = isolation_from_mask(ct, less, "L1", handed_out=mask)
    assert front_mm(told) - front_mm(untouched()) == pytest.approx(-1.7, abs=0.6)
    assert told.quality.measures["drawn_out_ml"] > 0.1
    assert "edited by hand" in " ".join(told.quality.reasons)
    grown_back = isolation_from_mask(ct, less, "L1")
    assert front_mm(grown_back) - front_mm(untouched()) > -0.6, "without it the CT decides"


def test_a_painted_layer_where_the_ct_is_dark_stays() -> None:
    ct, mask, _ = scan()
    more = isolation_from_mask(ct, edited(paint_mm=2.0), "L1", handed_out=mask)
    assert front_mm(more) - front_mm(untouched()) == pytest.approx(2.0, abs=0.7)
    assert more.quality.measures["drawn_in_ml"] > 0.1


def test_away_from_the_edit_the_surface_stays_where_it_was() -> None:
    ct, mask, _ = scan()
    told = isolation_from_mask(ct, edited(erase_mm=1.7), "L1", handed_out=mask)
    before, after = untouched().outer, told.outer
    k, j, i = np.nonzero(np.abs(before.values) < 0.5)
    points = before.to_lps(np.column_stack([i, j, k]))
    far = points[(points - CENTRE)[:, 1] > 5.0]
    apart = np.abs(after.sample(far, outside=8.0) - before.sample(far, outside=8.0))
    # the blur of the whole scan is estimated anew, so not nothing
    assert np.percentile(apart, 99) < 0.03 and apart.max() < 0.15


def test_no_edit_and_another_mask_change_nothing() -> None:
    ct, mask, distance = scan()
    assert drawn_edits(ct, mask, mask, threshold_hu=THRESHOLD_HU) is None
    thinner = Volume((distance < -1.5).astype(np.uint8), mask.lps_from_ijk)
    assert drawn_edits(ct, mask, thinner, threshold_hu=THRESHOLD_HU) is ANOTHER_MASK, "changed all around"
    said = isolation_from_mask(ct, thinner, "L1", handed_out=mask).quality
    assert "may have come back" in said.reasons[-1] and "drawn_out_ml" not in said.measures
    moved = mask.lps_from_ijk.copy()
    moved[:3, 3] += 0.3
    less = edited(erase_mm=1.7)
    assert drawn_edits(ct, Volume(mask.values, moved), less, threshold_hu=THRESHOLD_HU) is ANOTHER_MASK


def test_crops_of_either_mask_and_the_edge_of_the_ct_do_not_matter() -> None:
    ct, mask, _ = scan()
    less = edited(erase_mm=1.7)
    whole = drawn_edits(ct, mask, less, threshold_hu=THRESHOLD_HU)
    k, j, i = np.nonzero(mask.values)
    low, high = (i.min(), j.min(), k.min()), (i.max() + 1, j.max() + 1, k.max() + 1)
    cropped = drawn_edits(ct, mask.crop(low, high), less.crop(low, high), threshold_hu=THRESHOLD_HU)
    assert whole and cropped and whole.ct and cropped.ct
    assert np.array_equal(whole.ct.values, cropped.ct.values)
    assert (whole.erased_ml, whole.painted_ml) == (cropped.erased_ml, 0.0)


def pieces(*, fragment_mm: float = 0.0, without_tip: bool = False) -> tuple[Volume, float]:
    """The mask with a fragment painted before the front wall, or with the spinous process's tip cut loose; mL apart."""
    ct, mask, _ = scan()
    x, y, z = np.moveaxis((places(ct) - CENTRE).reshape(*ct.values.shape, 3), -1, 0)
    values = mask.values.copy()
    apart = (np.abs(x) < fragment_mm) & (np.abs(z) < fragment_mm) & (y < -17) & (y > -25)
    values[apart] = 1
    if without_tip:
        values[np.abs(y - 50) < 0.5] = 0
        apart = (values > 0) & (y > 50)
    return Volume(values, mask.lps_from_ijk), float(np.count_nonzero(apart)) * mask.voxel_ml


@pytest.mark.parametrize("case", [{"fragment_mm": 6.0}, {"without_tip": True}])
def test_a_piece_that_hangs_apart_is_not_left_out_without_a_word(case: dict[str, float]) -> None:
    ct, mask, _ = scan()
    given, apart_ml = pieces(**case)
    assert apart_ml > 0.5
    handed_out = mask if "fragment_mm" in case else None
    quality = isolation_from_mask(ct, given, "L1", handed_out=handed_out).quality
    dropped_ml = quality.measures["mask_dropped_ml"]
    assert dropped_ml == pytest.approx(apart_ml, abs=0.01)
    assert f"{dropped_ml:.2f} mL of the mask hang apart" in quality.reasons[0]
    assert quality.confidence <= 0.45, "a person is asked"


def test_a_small_piece_is_said_and_stray_voxels_are_not() -> None:
    ct, _, _ = scan()
    given, apart_ml = pieces(fragment_mm=2.5)
    assert 0.05 < apart_ml < 0.5
    small = isolation_from_mask(ct, given, "L1").quality
    assert "hang apart" in " ".join(small.reasons)
    assert small.confidence == untouched().quality.confidence
    assert untouched().quality.measures["mask_dropped_ml"] == 0.0
    given, apart_ml = pieces(fragment_mm=1.0)
    assert 0.0 < apart_ml < 0.05
    assert "hang apart" not in " ".join(isolation_from_mask(ct, given, "L1").quality.reasons)
