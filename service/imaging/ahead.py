"""Image files read before they are asked for: a scan is decoded while the rest of it still arrives."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.errors import ImagingError
from service.imaging.dataset import PLAIN_BYTES, READ_FAILURES, read_file
from service.imaging.pixels import modality_values
from service.imaging.scan import checked_header

_MOST_BYTES = 400 << 20
"""About four scans of 192 slices of 512 x 512; what was read for a scan that nobody asked for makes room."""


@dataclass(frozen=True, eq=False)
class _Read:
    header: Any
    frames: tuple[NDArray[Any], ...]


class ReadAhead:
    """Headers and modality values of files that will not change any more, such as those of the image store.

    A file that cannot be read is simply not here: whoever loads the series reads it again, and says what is wrong.
    """

    def __init__(self, most_bytes: int = _MOST_BYTES) -> None:
        self._most_bytes = most_bytes
        self._bytes = 0
        self._read: dict[Path, _Read] = {}

    def add(self, files: Iterable[Path]) -> None:
        for file in files:
            if file not in self._read and (found := _read(file)) is not None:
                size = sum(frame.nbytes for frame in found.frames)
                if self._bytes + size > self._most_bytes:
                    self._read.clear()
                    self._bytes = 0
                self._read[file] = found
                self._bytes += size

    def __contains__(self, file: Path) -> bool:
        return file in self._read

    def header(self, file: Path) -> Any:
        """As `service.imaging.scan.read_header` gives it."""
        return self._read[file].header

    def frames(self, file: Path) -> Sequence[NDArray[Any]]:
        """As `service.imaging.pixels.modality_values` gives them."""
        return self._read[file].frames


def _read(file: Path) -> _Read | None:
    try:
        if file.stat().st_size > PLAIN_BYTES:
            return None  # a multi-frame object arrives whole: nothing is gained
        whole = read_file(file, pixels=True)
        frames = tuple(_small(values) for values in modality_values(whole, file.name))
        header = checked_header(whole)
    except (*READ_FAILURES, ImagingError):
        return None
    if header is None:
        return None
    del header.PixelData
    return _Read(header, frames)


def _small(values: NDArray[Any]) -> NDArray[Any]:
    """Whole numbers in two bytes where they fit; the loader compares values, not types."""
    if values.dtype.kind == "i" and values.min() >= -32768 and values.max() <= 32767:
        return values.astype(np.int16)
    return values
