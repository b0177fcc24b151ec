"""Work in slabs gives what the whole would give."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from service.geometry import resampling
from service.geometry.evidence import QuickField
from service.geometry.parallel import ROWS_AT_ONCE, WORTH_SAMPLES, by_rows, in_threads, slabs
from service.geometry.resampling import affine_resampled

TURN = np.array([[0.9, 0.1, 0.0], [-0.1, 0.8, 0.2], [0.05, -0.1, 1.1]])


@pytest.mark.parametrize("order", [0, 1, 3])
@pytest.mark.parametrize("matrix", [np.array([0.7, 1.2, 0.9]), TURN], ids=["along the axes", "turned"])
def test_resampling_in_slabs_is_scipys(
    order: int, matrix: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resampling, "SAMPLES_AT_ONCE", 7_000)
    values = np.random.default_rng(3).integers(-1000, 3000, (40, 50, 60)).astype(np.int16)
    shape, offset = (70, 60, 65), np.array([-np.pi, np.sqrt(2.0), np.e])
    # Nothing lies exactly on the edge of the values, where rounding would decide whether it is outside.
    assert np.prod(shape) > WORTH_SAMPLES, "cut in slabs"
    mine = affine_resampled(values, matrix, offset, shape, order=order, outside=-77.0)
    whole = ndimage.affine_transform(
        values, matrix, offset, shape, order=order, mode="constant", cval=-77.0, output=np.float32
    )
    assert (whole == -77.0).any() and (whole != -77.0).any()
    np.testing.assert_allclose(mine, whole, rtol=1e-6, atol=1e-3)


def test_slabs_cover_everything_once_and_few_samples_stay_in_one() -> None:
    assert slabs(7, WORTH_SAMPLES - 1) == [slice(0, 7)]
    for length in (2, 7, 100):
        assert [n for s in slabs(length, WORTH_SAMPLES) for n in range(length)[s]] == list(range(length))


@pytest.mark.parametrize("count", [0, 1, ROWS_AT_ONCE, 2 * ROWS_AT_ONCE + 3])
def test_rows_taken_some_at_a_time_are_all_rows_once(count: int) -> None:
    table = np.arange(2 * count).reshape(count, 2)
    np.testing.assert_array_equal(by_rows(lambda rows: table[rows] + 1, count), table + 1)


def test_results_keep_their_order_and_an_error_comes_through() -> None:
    assert in_threads(lambda n: n * n, range(9)) == [n * n for n in range(9)]
    with pytest.raises(ZeroDivisionError):
        in_threads(lambda n: 1 // n, (1, 0))


def test_finer_field_holds_the_means_half_way_between_the_samples() -> None:
    values = np.random.default_rng(4).random((60, 50, 40), dtype=np.float32)
    field = QuickField(values, finer=True)
    places = np.array([[3, 4, 5], [3.5, 4, 5], [3.5, 4.5, 5.5], [38.5, 48.5, 58.5], [39, 49, 59], [45, 4, 5]])
    index = (2.0 * places.T[None]).astype(np.float32)
    linear = ndimage.map_coordinates(values, places.T[::-1], order=1, mode="constant", cval=0.0)
    np.testing.assert_allclose(field.at(index)[0], linear, atol=1e-6)


def test_samples_along_lines_are_scipys() -> None:
    rng = np.random.default_rng(5)
    values = rng.normal(size=(9, 8, 7)).astype(np.float32)
    places, directions = rng.uniform(-1.0, 9.0, (20, 3)), rng.normal(size=(20, 3)).astype(np.float32)
    steps = np.array([-1.5, 0.0, 2.0])
    mine = resampling.sampled_along(values, places, directions, steps)
    assert mine.shape == (20, 3)
    for m, step in enumerate(steps):
        at = (places + step * directions).T
        np.testing.assert_array_equal(
            mine[:, m], ndimage.map_coordinates(values, at, order=1, mode="nearest")
        )
