"""The isolated bone as files in memory."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from service.geometry.anatomy import Isolation
from service.imaging.nifti import nifti_bytes


def packed_volumes(isolation: Isolation) -> dict[str, bytes]:
    """mask.nii.gz and outer.nii.gz, name -> content: kept in memory until the model is known to be one."""
    outer = replace(isolation.outer, values=isolation.outer.values.astype(np.float32))
    volumes = {"mask.nii.gz": isolation.mask, "outer.nii.gz": outer}
    return {name: nifti_bytes(volume, compressed=True) for name, volume in volumes.items()}
