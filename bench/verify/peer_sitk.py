"""A plain SimpleITK script for the same registration, as a careful user would write it; nothing of the service.

python peer_sitk.py CT_FOLDER SCAN_FOLDER MASK TRUTH_JSON: Mattes mutual information inside the vertebra's box, three
resolutions, started 5 mm and 5 degrees from the true pose (it has no search of its own). Prints its TRE.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import SimpleITK


def read(folder: str) -> SimpleITK.Image:
    names = SimpleITK.ImageSeriesReader.GetGDCMSeriesFileNames(folder)
    return SimpleITK.Cast(SimpleITK.ReadImage(names), SimpleITK.sitkFloat32)


def main(ct_folder: str, scan_folder: str, mask_file: str, truth_file: str) -> None:
    ct, scan = read(ct_folder), read(scan_folder)
    mask = SimpleITK.ReadImage(mask_file) > 0
    around = SimpleITK.BinaryDilate(
        SimpleITK.Resample(mask, ct, SimpleITK.Transform(), SimpleITK.sitkNearestNeighbor), [5] * 3
    )
    inside = np.argwhere(SimpleITK.GetArrayViewFromImage(around) > 0)
    points = np.array(
        [
            ct.TransformIndexToPhysicalPoint([int(v) for v in row[::-1]])
            for row in inside[:: len(inside) // 300]
        ]
    )
    scan_from_preop = np.linalg.inv(np.array(json.loads(Path(truth_file).read_text())["preop_from_scan"]))
    start = SimpleITK.Euler3DTransform()
    start.SetCenter(points.mean(axis=0))
    start.SetMatrix(scan_from_preop[:3, :3].ravel(), 1e-6)
    shift = scan_from_preop[:3, :3] @ points.mean(axis=0) + scan_from_preop[:3, 3] - points.mean(axis=0)
    start.SetTranslation(shift + np.array([3.0, -2.0, 3.5]))
    start.SetRotation(start.GetAngleX() + 0.05, start.GetAngleY() - 0.05, start.GetAngleZ() + 0.05)
    method = SimpleITK.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(50)
    method.SetMetricFixedMask(around)
    method.SetMetricSamplingStrategy(method.RANDOM)
    method.SetMetricSamplingPercentage(0.1, 1)
    method.SetInterpolator(SimpleITK.sitkLinear)
    method.SetOptimizerAsRegularStepGradientDescent(1.0, 1e-3, 150)
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetShrinkFactorsPerLevel([4, 2, 1])
    method.SetSmoothingSigmasPerLevel([2.0, 1.0, 0.5])
    method.SmoothingSigmasAreSpecifiedInPhysicalUnitsOn()
    method.SetInitialTransform(start, inPlace=True)
    method.Execute(ct, scan)
    found = np.array([start.TransformPoint([float(v) for v in p]) for p in points])
    true = points @ scan_from_preop[:3, :3].T + scan_from_preop[:3, 3]
    error = np.linalg.norm(found - true, axis=1)
    print(f"TRE mean {error.mean():.3f} mm, max {error.max():.3f} mm")


if __name__ == "__main__":
    main(*sys.argv[1:])
