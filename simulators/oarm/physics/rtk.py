"""The one door to itk-rtk (Apache-2.0): ray casting after Joseph and reconstruction after Feldkamp, Davis and Kress.

The gantry's frame is RTK's: y along the axis of rotation, the source on z at angle 0, x to the right of both; mm.
Arrays of projections are (view, row, column), of volumes (z, y, x).
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simulators.oarm.physics.settings import PhysicsSettings

Array = NDArray[np.float64]
Single = NDArray[np.float32]


class PhysicsMissingError(RuntimeError):
    """itk-rtk is not installed; the message says how to get it."""


def require() -> tuple[Any, Any]:
    """The modules itk and itk.RTK.

    Raises
    ------
    PhysicsMissingError
        When itk-rtk is not installed.
    """
    try:
        itk = importlib.import_module("itk")
        return itk, itk.RTK
    except (ImportError, AttributeError) as fault:
        raise PhysicsMissingError(
            "Cone-beam physics need itk-rtk, which is an extra for development and is not installed. "
            "Next: .venv/bin/python -m pip install --require-hashes -r requirements/physics.txt, "
            "or leave --physics out for the fast simulator."
        ) from fault


@dataclass(frozen=True, eq=False)
class Ray:
    """One view in some frame, mm: source (3,), middle of the detector (3,), directions along columns and rows (3,)."""

    source: Array
    detector: Array
    u: Array
    v: Array

    def moved(self, matrix: Array) -> Ray:
        """The same view in another frame; `matrix` (4,4) takes points of this frame there."""
        turn, shift = matrix[:3, :3], matrix[:3, 3]
        return Ray(turn @ self.source + shift, turn @ self.detector + shift, turn @ self.u, turn @ self.v)


def circle(settings: PhysicsSettings) -> list[Ray]:
    """The views of the turn in the gantry's frame."""
    views = []
    for angle in np.deg2rad(settings.angles_deg):
        outward = np.array([np.sin(angle), 0.0, np.cos(angle)])
        behind = settings.source_to_axis_mm - settings.source_to_detector_mm
        across = np.array([np.cos(angle), 0.0, -np.sin(angle)])
        views.append(
            Ray(settings.source_to_axis_mm * outward, behind * outward, across, np.array([0.0, 1.0, 0.0]))
        )
    return views


def forward(
    volume: Single, frame_from_ijk: Array, views: Sequence[Ray], shape: tuple[int, int], pitch_mm: float
) -> Single:
    """Line integrals (view, row, column) in mm times the volume's unit; `views` are in the volume's frame."""
    itk, rtk = require()
    geometry = rtk.ThreeDCircularProjectionGeometry.New()
    for view in views:
        done = geometry.AddProjection(*(_numbers(p) for p in (view.source, view.detector, view.u, view.v)))
        if done is False:
            raise ValueError("a view of the turn is degenerate")
    image_type = itk.Image[itk.F, 3]
    cast = rtk.JosephForwardProjectionImageFilter[image_type, image_type].New()
    cast.SetInput(0, _stack(itk, np.zeros((len(views), *shape), dtype=np.float32), pitch_mm))
    cast.SetInput(1, _image(itk, volume, frame_from_ijk))
    cast.SetGeometry(geometry)
    _few_threads(cast)
    cast.Update()
    return np.array(itk.array_view_from_image(cast.GetOutput()), dtype=np.float32)


def reconstruct(
    lines: Single,
    settings: PhysicsSettings,
    shape: tuple[int, int, int],
    spacing_mm: tuple[float, float, float],
) -> Single:
    """Attenuation per mm (z, y, x) about the middle of the gantry from line integrals (view, row, column)."""
    itk, rtk = require()
    geometry = rtk.ThreeDCircularProjectionGeometry.New()
    for angle in settings.angles_deg:
        geometry.AddProjection(settings.source_to_axis_mm, settings.source_to_detector_mm, float(angle))
    image_type = itk.Image[itk.F, 3]
    projections = _stack(itk, lines, settings.pitch_mm)
    if settings.arc_deg < 360.0:
        parker = rtk.ParkerShortScanImageFilter[image_type].New()
        parker.SetInput(projections)
        parker.SetGeometry(geometry)
        parker.InPlaceOff()
        parker.Update()
        projections = parker.GetOutput()
    matrix = np.diag([*spacing_mm, 1.0])
    matrix[:3, 3] = [-0.5 * (n - 1) * s for n, s in zip(shape[::-1], spacing_mm, strict=True)]
    fdk = rtk.FDKConeBeamReconstructionFilter[image_type].New()
    fdk.SetInput(0, _image(itk, np.zeros(shape, dtype=np.float32), matrix))
    fdk.SetInput(1, projections)
    fdk.SetGeometry(geometry)
    fdk.GetRampFilter().SetTruncationCorrection(settings.truncation_correction)
    fdk.GetRampFilter().SetHannCutFrequency(settings.hann_cut)
    _few_threads(fdk)
    fdk.Update()
    return np.array(itk.array_view_from_image(fdk.GetOutput()), dtype=np.float32)


def _few_threads(work: Any) -> None:
    """As many threads as OMP_NUM_THREADS says, so that runs beside each other do not fight."""
    count = os.environ.get("OMP_NUM_THREADS", "")
    if count.isdigit() and int(count) > 0:
        work.SetNumberOfWorkUnits(int(count))


def _numbers(values: Array) -> list[float]:
    return [float(v) for v in values]


def _stack(itk: Any, values: Single, pitch_mm: float) -> Any:
    image = itk.image_from_array(np.ascontiguousarray(values, dtype=np.float32))
    rows, columns = values.shape[1:]
    image.SetSpacing([pitch_mm, pitch_mm, 1.0])
    image.SetOrigin([-0.5 * (columns - 1) * pitch_mm, -0.5 * (rows - 1) * pitch_mm, 0.0])
    return image


def _image(itk: Any, values: Single, frame_from_ijk: Array) -> Any:
    image = itk.image_from_array(np.ascontiguousarray(values, dtype=np.float32))
    spacing = np.linalg.norm(frame_from_ijk[:3, :3], axis=0)
    image.SetSpacing(_numbers(spacing))
    image.SetOrigin(_numbers(frame_from_ijk[:3, 3]))
    image.SetDirection(itk.matrix_from_array(np.ascontiguousarray(frame_from_ijk[:3, :3] / spacing)))
    return image
