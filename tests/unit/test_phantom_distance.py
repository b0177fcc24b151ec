"""The phantom's true distance deep inside the bone, where its own implicit function is no distance."""

from __future__ import annotations

import numpy as np
from scipy.spatial import cKDTree
from skimage import measure

from simulators.phantom import generate, small_parameters, vertebra_sdf
from simulators.phantom.distance import TrueDistance


def test_true_distance_is_that_to_the_nearest_point_of_the_surface() -> None:
    parameters = small_parameters()
    seed = np.asarray(generate(parameters).truth["seeds"]["target"], dtype=np.float64)
    # left pedicle and facets
    low, high = seed + np.array([-4.0, 8.0, -16.0]), seed + np.array([34.0, 40.0, 20.0])
    distance = TrueDistance("L1", low, high, parameters)
    step = 0.8
    shape = np.ceil((high - low) / step).astype(int)
    points = low + step * np.indices(tuple(shape)).reshape(3, -1).T
    values = vertebra_sdf("L1", points, parameters).reshape(tuple(shape))
    corners, _, _, _ = measure.marching_cubes(values.astype(np.float32), 0.0)
    inner = points[np.all((points > low + 7.0) & (points < high - 7.0), axis=1)]
    expected = cKDTree(low + step * corners).query(inner)[0]
    expected[vertebra_sdf("L1", inner, parameters) < 0] *= -1.0
    found = distance(inner)
    deep = (found < -1.0) & (found > -6.0)
    assert deep.sum() > 300
    assert np.abs(found - expected)[deep].max() < 0.2
    # a distance changes by no more than the way gone
    assert np.abs(distance(inner[deep] + (0.0, 0.0, 0.3)) - found[deep]).max() < 0.35
