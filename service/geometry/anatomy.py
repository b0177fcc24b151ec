"""What isolation finds and everything downstream starts from: one vertebra in patient space (LPS mm)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from service.domain.plan import VertebraFrame
from service.geometry.volume import Volume

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class EndplatePoints:
    """Four points in the mid-sagittal plane: `upper`, `lower` (2, 3) LPS mm, front and back of each endplate."""

    upper: Array
    lower: Array

    @property
    def all(self) -> Array:
        """(4, 3): upper front, upper back, lower front, lower back."""
        return np.concatenate([self.upper, self.lower])


@dataclass(frozen=True, eq=False)
class Seeds:
    """Points (3,) float64 LPS mm near the body centres of the target and, when known, its neighbours.

    `endplates` are needed for a body that is fractured. `surface` (M, 3): points on the outside of the target's bone,
    at most 30, where a fit without them went astray.
    """

    target: Array
    above: Array | None = None
    below: Array | None = None
    endplates: EndplatePoints | None = None
    surface: Array | None = None


@dataclass(frozen=True, eq=False)
class Endplate:
    """Plane fitted to an endplate: `centre` (3,) LPS mm, unit `normal` pointing to the head."""

    centre: Array
    normal: Array
    fitted: bool
    """False when the plane was taken over from a neighbour or from the body axis (collapsed body)."""


@dataclass(frozen=True, eq=False)
class Pedicle:
    """Isthmus (narrowest section) of one pedicle: `centre` (3,) LPS mm, unit `axis` pointing forward."""

    side: Literal["left", "right"]
    centre: Array
    axis: Array
    width_mm: float
    height_mm: float


@dataclass(frozen=True, eq=False)
class Landmarks:
    frame: VertebraFrame
    body_centre: Array
    upper_endplate: Endplate
    lower_endplate: Endplate
    pedicles: tuple[Pedicle, ...]
    canal_centre: Array
    """(3,) LPS mm, middle of the spinal canal at pedicle height."""
    height_mm: dict[str, float] = field(default_factory=dict)
    """anterior, middle, posterior body height along the superior axis."""


@dataclass(frozen=True)
class Quality:
    """How far the isolation may be trusted. `reasons` are sentences for people, worst first."""

    confidence: float
    """0..1; below the configured bar the case asks for a person."""
    reasons: tuple[str, ...]
    measures: dict[str, float] = field(default_factory=dict)


BodyName = Literal["target", "above", "below"]


@dataclass(frozen=True, eq=False)
class BodyField:
    """One vertebra as it is known when the model is built.

    `field` is the signed distance to bone (mm, negative inside), `axes` (3, 3) columns left, anterior, superior.
    `exact` says that the field's zero is the bone's surface in this CT; else it is a fitted shape, near it.
    """

    name: BodyName
    field: Volume
    centre: Array
    axes: Array
    exact: bool = True


@dataclass(frozen=True)
class SurfaceTaken:
    """Which surface `Isolation.outer` is: the threshold's, or that moved by `moved_mm` on average (inwards positive) to
    the bone's edge. `outside_mm`: how far it still lies outside that edge; None where the CT does not show it."""

    at: Literal["bone_edge", "threshold"] = "threshold"
    moved_mm: float = 0.0
    outside_mm: float | None = None
    why: str = ""
    """Why it is the threshold's; a sentence for people, empty at the bone's edge."""


@dataclass(frozen=True)
class SegmentationModel:
    """The site's own segmentation model, and what became of its answer: `used`, `refused` by the checks, or `failed`;
    `passed_over` when it was not asked.

    What names the model is empty when it was not loaded. `reason` is a sentence for people, empty when used.
    """

    outcome: Literal["used", "refused", "failed", "passed_over"]
    name: str = ""
    source: str = ""
    licence: str = ""
    sha256: str = ""
    description_sha256: str = ""
    runtime: str = ""
    reason: str = ""


@dataclass(frozen=True, eq=False)
class Isolation:
    """One isolated vertebra.

    `mask` uint8 on the planning CT's own voxel grid (cropped), 1 inside the filled vertebra;
    `outer` float32 signed distance to the outer bone surface, mm, negative inside, on an isotropic grid whose
    axes are parallel to LPS, at least 4 mm wider than the bone on each side, exact to sub-voxel near zero.
    """

    level: str
    mask: Volume
    outer: Volume
    landmarks: Landmarks
    quality: Quality
    source: Literal["fitted", "mask", "segmented"]
    surface: SurfaceTaken = field(default_factory=SurfaceTaken)
    neighbours: tuple[BodyField, ...] = ()
    """The levels above and below as fitted or labelled; none when the bone came as a mask."""
    model: SegmentationModel | None = None
    """Of the site, when one is installed and was asked."""
