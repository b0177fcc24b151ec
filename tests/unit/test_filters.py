"""Both cores at work give what scipy gives, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from service.geometry.filters import gaussian, gradient_magnitude
from service.geometry.parallel import WORTH_SAMPLES

VALUES = (300.0 * np.random.default_rng(5).standard_normal((61, 70, 83))).astype(np.float32)


def test_the_values_are_cut_in_slabs() -> None:
    assert VALUES.size > WORTH_SAMPLES


@pytest.mark.parametrize("sigma", [1.7, (0.6, 1.2, 2.0)])
@pytest.mark.parametrize("truncate", [3.0, 4.0])
def test_gaussian_is_scipys(sigma: float | tuple[float, ...], truncate: float) -> None:
    whole = ndimage.gaussian_filter(VALUES, sigma, truncate=truncate)
    np.testing.assert_array_equal(gaussian(VALUES, sigma, truncate=truncate), whole)


def test_gaussian_leaves_its_input_alone_and_takes_masks() -> None:
    mask = VALUES > 100.0
    before = mask.copy()
    np.testing.assert_array_equal(gaussian(mask, 1.0), ndimage.gaussian_filter(mask.astype(np.float32), 1.0))
    np.testing.assert_array_equal(mask, before)


def test_gradient_magnitude_is_scipys() -> None:
    whole = ndimage.gaussian_gradient_magnitude(VALUES, 1.0)
    np.testing.assert_array_equal(gradient_magnitude(VALUES, 1.0), whole)
