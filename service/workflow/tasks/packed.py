"""The isolated bone as files in memory."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from service.geometry.anatomy import Isolation
from service.imaging.nifti import nifti_bytes
from service.imaging.nrrd import seg_nrrd_bytes


def packed_volumes(isolation: Isolation) -> dict[str, bytes]:
    """mask.nii.gz, mask.seg.nrrd and outer.nii.gz, name -> content: in memory until the model is known to be one."""
    outer = replace(isolation.outer, values=isolation.outer.values.astype(np.float32))
    volumes = {"mask.nii.gz": isolation.mask, "outer.nii.gz": outer}
    packed = {name: nifti_bytes(volume, compressed=True) for name, volume in volumes.items()}
    return packed | {"mask.seg.nrrd": seg_nrrd_bytes(isolation.mask, f"{isolation.level} vertebra")}
