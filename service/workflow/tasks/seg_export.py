"""The isolated vertebra as a DICOM Segmentation beside the model, for a viewer or editor that reads DICOM."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from service.geometry.volume import Volume
from service.imaging.dataset import read_file
from service.results.context import Origin
from service.results.seg import build_seg

FILE = "mask.seg.dcm"


def write_seg(
    mask: Volume, ct_files: Sequence[Path], ct_sha256: str, level: str, now: datetime, out: Path
) -> None:
    """mask.seg.dcm in `out`. Its UIDs follow from CT and mask, so that the same mask is the same object.

    Raises ImagingError (`results.mask_grid`).
    """
    revision = hashlib.sha256(mask.values.tobytes()).hexdigest()[:16]
    headers = [read_file(file, pixels=False) for file in ct_files]
    segmentation = build_seg(mask, headers, Origin(ct_sha256[:16], revision, now), level=level)
    segmentation.save_as(out / FILE, enforce_file_format=True)
