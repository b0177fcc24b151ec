"""Segmentation of vertebrae by a model that the site has installed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class SegmenterFacts:
    """Which model answers: its `name` and `source` as it says of itself, the SHA-256 of what is run and of what
    describes it, the `licence` that the site stated, and the program (`runtime`) that runs it."""

    name: str
    source: str
    sha256: str
    description_sha256: str
    licence: str
    runtime: str


@dataclass(frozen=True, eq=False)
class SegmentedVertebrae:
    """The answer around one point of a CT, on a grid of the model's own.

    `labels` (K, J, I) uint8: 0 is none of `levels`, n is `levels[n - 1]`. `preference` (K, J, I) float32: how far the
    model prefers the level asked for over the best of all other classes, in its own units (positive inside it);
    between voxels it may be interpolated, labels may not. `lps_from_ijk` (4, 4): index (i, j, k) to LPS mm.
    """

    labels: NDArray[np.uint8]
    levels: tuple[str, ...]
    preference: NDArray[np.float32]
    lps_from_ijk: NDArray[np.float64]


class _Tells(Protocol):
    def __call__(self, stage: str, fraction: float) -> None: ...


class Segmenter(Protocol):
    def facts(self) -> SegmenterFacts:
        """The model, checked and ready to run.

        Raises
        ------
        ToolMissingError
            `tool.segmentation_runtime`, `tool.segmentation_model`: it cannot be used, and what to do.
        """
        ...

    def segment(
        self,
        values: NDArray[Any],
        lps_from_ijk: NDArray[np.float64],
        level: str,
        near: NDArray[np.float64],
        progress: _Tells,
    ) -> SegmentedVertebrae:
        """Label the vertebrae around `near`, (3,) LPS mm, in a CT: `values` (K, J, I) HU, `lps_from_ijk` (4, 4).

        Raises
        ------
        ToolMissingError
            As `facts`.
        SpineprintError
            `segmentation.failed`: the model ran and gave nothing that can be read.
        """
        ...
