"""nnU-Net's sliding window: overlapping patches, each weighted by a Gaussian about its middle.

As in nnU-Net 2 (Isensee et al. 2021, Nature Methods 18:203; `sliding_window_prediction.py`): steps of at most half a
patch, sigma an eighth of the patch, no mirroring. What is kept is only the part asked for, so that the memory does not
grow with the image.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from itertools import product

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from adapters.segmentation.network import Network

Size = tuple[int, int, int]
_STEP = 0.5
_SIGMA = 0.125


def starts(length: int, patch: int) -> list[int]:
    """Where patches begin along an axis of `length` >= `patch`."""
    most = length - patch
    count = int(np.ceil(most / (patch * _STEP))) + 1
    return [round(most * n / max(count - 1, 1)) for n in range(count)]


@lru_cache(maxsize=2)
def weights(patch: Size) -> NDArray[np.float32]:
    """(D, H, W), 1 in the middle and nowhere 0."""
    point = np.zeros(patch)
    point[tuple(n // 2 for n in patch)] = 1.0
    found = ndimage.gaussian_filter(point, [n * _SIGMA for n in patch], mode="constant")
    found = (found / found.max()).astype(np.float32)
    return np.asarray(np.maximum(found, found[found > 0].min()), np.float32)


def padded(image: NDArray[np.float32], patch: Size) -> tuple[NDArray[np.float32], Size]:
    """At least as large as a patch, zeros (the mean grey value) added on both sides; how many were put in front."""
    lack = [max(0, p - n) for n, p in zip(image.shape, patch, strict=True)]
    front = (lack[0] // 2, lack[1] // 2, lack[2] // 2)
    if any(lack):
        image = np.pad(image, [(f, n - f) for f, n in zip(front, lack, strict=True)])
    return image, front


def scores(
    network: Network,
    image: NDArray[np.float32],
    patch: Size,
    classes: int,
    keep: tuple[slice, slice, slice],
    told: Callable[[int, int], None],
) -> NDArray[np.float32]:
    """(C, d, h, w) weighted mean scores of the part `keep` of a normalised image (D, H, W).

    `told` gets how many patches are done, of how many.
    """
    image, front = padded(image, patch)
    low = [s.start + f for s, f in zip(keep, front, strict=True)]
    high = [s.stop + f for s, f in zip(keep, front, strict=True)]
    total = np.zeros((classes, *(b - a for a, b in zip(low, high, strict=True))), np.float32)
    weight = np.zeros(total.shape[1:], np.float32)
    places = [
        place
        for place in product(*(starts(n, p) for n, p in zip(image.shape, patch, strict=True)))
        if all(s < b and s + p > a for s, p, a, b in zip(place, patch, low, high, strict=True))
    ]
    for done, place in enumerate(places):
        told(done, len(places))
        whole = tuple(slice(s, s + p) for s, p in zip(place, patch, strict=True))
        found = network(np.ascontiguousarray(image[whole]))
        first = [max(s, a) for s, a in zip(place, low, strict=True)]
        last = [min(s + p, b) for s, p, b in zip(place, patch, high, strict=True)]
        inside = tuple(slice(f - s, e - s) for f, e, s in zip(first, last, place, strict=True))
        there = tuple(slice(f - a, e - a) for f, e, a in zip(first, last, low, strict=True))
        share = weights(patch)[inside]
        weight[there] += share
        for channel in range(classes):  # one at a time: their product would be another array of this size
            total[channel][there] += found[channel][inside] * share
    told(len(places), len(places))
    total /= weight
    return total
