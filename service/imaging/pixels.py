"""Stored pixels of one image to modality values (Hounsfield units for CT).

Modality LUT: PS3.3 C.11.1; padding: PS3.3 C.7.5.1.1.2. The decoder of each compressed syntax is named, so that
the same file gives the same numbers on every machine.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.pixels import pixel_array

from service.errors import ImagingError
from service.imaging.headers import Dataset, FrameView, frame_count, number, whole

AIR_HU = -1024
"""Lowest meaningful Hounsfield value of a 12-bit CT; padding becomes this, so that it looks like air."""

_DECODER = {
    "1.2.840.10008.1.2.4.50": "gdcm",
    "1.2.840.10008.1.2.4.57": "gdcm",
    "1.2.840.10008.1.2.4.70": "gdcm",
    "1.2.840.10008.1.2.4.80": "pyjpegls",
    "1.2.840.10008.1.2.4.81": "pyjpegls",
    "1.2.840.10008.1.2.4.90": "pylibjpeg",
    "1.2.840.10008.1.2.4.91": "pylibjpeg",
    "1.2.840.10008.1.2.4.201": "pylibjpeg",
    "1.2.840.10008.1.2.4.202": "pylibjpeg",
    "1.2.840.10008.1.2.4.203": "pylibjpeg",
    "1.2.840.10008.1.2.5": "pylibjpeg",
}
_NATIVE = {
    "1.2.840.10008.1.2",
    "1.2.840.10008.1.2.1",
    "1.2.840.10008.1.2.1.99",
    "1.2.840.10008.1.2.2",
}


@dataclass(frozen=True)
class _Rescale:
    slope: float
    intercept: float

    @property
    def keeps_integers(self) -> bool:
        return self.slope == 1.0 and self.intercept == round(self.intercept)


def modality_values(ds: Dataset, who: str) -> list[NDArray[Any]]:
    """Values of every frame, each (rows, columns), int32 or float32; padding replaced by air.

    Parameters
    ----------
    ds : complete data set with pixel data.
    who : the image in words, for messages.

    Raises ImagingError (`imaging.pixels`) when the pixel data is missing, short, damaged or in a syntax that
    cannot be decoded.
    """
    stored = _stored(ds, who)
    padding = _padding_range(ds)
    frames = []
    for index in range(stored.shape[0]):
        view = FrameView(ds, index)
        slope, intercept = number(view, "RescaleSlope"), number(view, "RescaleIntercept")
        rescale = _Rescale(1.0 if slope is None else slope, 0.0 if intercept is None else intercept)
        if rescale.slope == 0:
            raise ImagingError(
                f"The rescale slope of {who} is zero: its values have no meaning.",
                next_step="Ask for the original series from the scanner.",
                code="imaging.pixels",
            )
        frames.append(_rescaled(stored[index], rescale, padding, is_hu(view, ds)))
    return frames


def is_hu(view: FrameView, ds: Dataset) -> bool:
    """Hounsfield units: said so, or a CT image that says nothing else (PS3.3 C.8.2.1: required when not HU)."""
    kind = view.get("RescaleType")
    return ds.get("Modality") == "CT" and (not kind or str(kind).strip().upper() == "HU")


def _rescaled(
    stored: NDArray[Any], rescale: _Rescale, padding: tuple[int, int] | None, hounsfield: bool
) -> NDArray[Any]:
    if rescale.keeps_integers:
        values: NDArray[Any] = stored.astype(np.int32) + int(rescale.intercept)
    else:
        values = (stored * np.float64(rescale.slope) + rescale.intercept).astype(np.float32)
    outside = None if padding is None else (stored >= padding[0]) & (stored <= padding[1])
    if hounsfield:
        # scanners also fill the corners with values below air without declaring them as padding
        np.maximum(values, AIR_HU, out=values)
        if outside is not None:
            values[outside] = AIR_HU
    elif outside is not None and outside.any() and not outside.all():
        values[outside] = values[~outside].min()
    return values


def _padding_range(ds: Dataset) -> tuple[int, int] | None:
    first = whole(ds, "PixelPaddingValue")
    if first is None:
        return None
    last = whole(ds, "PixelPaddingRangeLimit")
    first = _as_stored(ds, first)
    last = first if last is None else _as_stored(ds, last)
    return min(first, last), max(first, last)


def _as_stored(ds: Dataset, value: int) -> int:
    """Some writers give the unsigned bit pattern of a signed padding value (63536 for -2000)."""
    bits = whole(ds, "BitsAllocated") or 16
    signed = (whole(ds, "PixelRepresentation") or 0) == 1
    if signed and value >= 1 << (bits - 1):
        return value - (1 << bits)
    if not signed and value < 0:
        return value + (1 << bits)
    return value


def _stored(ds: Dataset, who: str) -> NDArray[Any]:
    """Stored values (frames, rows, columns)."""
    syntax = str(ds.file_meta.get("TransferSyntaxUID", "")) if hasattr(ds, "file_meta") else ""
    if "PixelData" not in ds:
        raise ImagingError(
            f"{who} has no pixel data; the file may be cut off.",
            next_step="Send the series again.",
            code="imaging.pixels",
        )
    if (whole(ds, "SamplesPerPixel") or 1) != 1:
        raise ImagingError(
            f"{who} is a colour picture, not a measured slice.",
            next_step="Choose the original CT series.",
            code="imaging.pixels",
        )
    if syntax not in _DECODER and syntax not in _NATIVE:
        raise ImagingError(
            f"{who} is compressed in a way this service cannot decode (transfer syntax {syntax or 'missing'}).",
            next_step="Let the PACS send it uncompressed or with a lossless JPEG syntax.",
            code="imaging.syntax",
        )
    try:
        found = np.asarray(pixel_array(ds, decoding_plugin=_DECODER.get(syntax, "")))
    except (
        ValueError,
        RuntimeError,
        AttributeError,
        KeyError,
        TypeError,
        EOFError,
        OSError,
        IndexError,
    ) as error:
        # decoders report damage with all of these; the cause stays attached for the log
        raise ImagingError(
            f"The pixels of {who} cannot be decoded: the file is cut off or damaged.",
            next_step="Send the series again; if it fails again, ask for it uncompressed.",
            code="imaging.pixels",
        ) from error
    shape = (frame_count(ds), whole(ds, "Rows") or 0, whole(ds, "Columns") or 0)
    if found.size != np.prod(shape):
        raise ImagingError(
            f"{who} holds {found.size} pixels instead of the {np.prod(shape)} its header promises.",
            next_step="Send the series again.",
            code="imaging.pixels",
        )
    return found.reshape(shape)
