"""Stored pixels of one image to modality values (Hounsfield units for CT).

Modality LUT: PS3.3 C.11.1; padding: PS3.3 C.7.5.1.1.2. The decoder of each compressed syntax is named, so that
the same file gives the same numbers on every machine.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.encaps import generate_frames
from pydicom.pixels import iter_pixels

from service.errors import ImagingError
from service.imaging import codestream
from service.imaging.dataset import MOST_PIXELS, READ_FAILURES, unsafe
from service.imaging.headers import Dataset, FrameView, frame_count, number, whole

AIR_HU = -1024
"""Lowest meaningful Hounsfield value of a 12-bit CT; padding becomes this, so that it looks like air."""

_PACKED_BITS = (8, 16)
"""Bits allocated that a compressed grey picture may have (PS3.5 section 8.2)."""
_DECODER = {
    "1.2.840.10008.1.2.4.50": "gdcm",
    "1.2.840.10008.1.2.4.57": "gdcm",
    "1.2.840.10008.1.2.4.70": "gdcm",
    # pyjpegls spends seconds on some damaged frames of 900 bytes, which gdcm gives up at once
    "1.2.840.10008.1.2.4.80": "gdcm",
    "1.2.840.10008.1.2.4.81": "gdcm",
    "1.2.840.10008.1.2.4.90": "pylibjpeg",
    "1.2.840.10008.1.2.4.91": "pylibjpeg",
    "1.2.840.10008.1.2.4.201": "pylibjpeg",
    "1.2.840.10008.1.2.4.202": "pylibjpeg",
    "1.2.840.10008.1.2.4.203": "pylibjpeg",
    # pylibjpeg's decoder ends in a panic of its own kind on damaged run lengths, which no except clause expects
    "1.2.840.10008.1.2.5": "pydicom",
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


def modality_values(ds: Dataset, who: str) -> Iterator[NDArray[Any]]:
    """Values of every frame in turn, each (rows, columns), int32 or float32; padding replaced by air.

    Parameters
    ----------
    ds : complete data set with pixel data.
    who : the image in words, for messages.

    Raises ImagingError (`imaging.pixels`) when the pixel data is missing, short, damaged or in a syntax that
    cannot be decoded; `imaging.unsafe` when a frame would unpack to more than the header says.
    """
    padding = _padding_range(ds)
    for index, stored in enumerate(_stored(ds, who)):
        view = FrameView(ds, index)
        slope, intercept = number(view, "RescaleSlope"), number(view, "RescaleIntercept")
        rescale = _Rescale(1.0 if slope is None else slope, 0.0 if intercept is None else intercept)
        if rescale.slope == 0:
            raise ImagingError(
                f"The rescale slope of {who} is zero: its values have no meaning.",
                next_step="Ask for the original series from the scanner.",
                code="imaging.pixels",
            )
        yield _rescaled(stored, rescale, padding, is_hu(view, ds))


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


def _stored(ds: Dataset, who: str) -> Iterator[NDArray[Any]]:
    """Stored values of each frame, (rows, columns)."""
    syntax = check_encoding(ds, who)
    shape = (whole(ds, "Rows") or 0, whole(ds, "Columns") or 0)
    found = 0
    try:
        for frame in iter_pixels(ds, decoding_plugin=_DECODER.get(syntax, "")):
            if frame.size != np.prod(shape) or found == frame_count(ds):
                raise ValueError(f"frame of {frame.size} pixels")
            found += 1
            yield frame.reshape(shape)
    except (*READ_FAILURES, RuntimeError) as error:
        # decoders report damage with all of these; the cause stays attached for the log
        raise ImagingError(
            f"The pixels of {who} cannot be decoded: the file is cut off or damaged.",
            next_step="Send the series again; if it fails again, ask for it uncompressed.",
            code="imaging.pixels",
        ) from error
    if found != frame_count(ds):
        raise ImagingError(
            f"{who} holds {found} frames instead of the {frame_count(ds)} its header promises.",
            next_step="Send the series again.",
            code="imaging.pixels",
        )


def check_encoding(ds: Dataset, who: str) -> str:
    """The transfer syntax, after everything that can be told without decoding was found in order.

    Raises ImagingError: no pixel data, colour, an unknown syntax, too short, or frames that would unpack to
    something else than the header says.
    """
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
    expected = codestream.Expected(
        whole(ds, "Rows") or 0, whole(ds, "Columns") or 0, whole(ds, "BitsAllocated") or 16
    )
    stored = whole(ds, "BitsStored") or expected.bits_allocated
    if not 1 <= stored <= expected.bits_allocated or (
        syntax in _DECODER and expected.bits_allocated not in _PACKED_BITS
    ):
        # GDCM ends the process when it is asked for more bits than it has a decoder for
        raise ImagingError(
            f"{who} says {stored} of {expected.bits_allocated} bits a pixel, which it cannot have.",
            next_step="Send the series again; if it fails again, ask for it uncompressed.",
            code="imaging.pixels",
        )
    frames = frame_count(ds)
    if expected.rows * expected.columns * frames > MOST_PIXELS:
        raise unsafe(f"it announces {float(expected.rows * expected.columns * frames):.1e} pixels")
    short = _native_shortfall(ds, expected, frames) if syntax in _NATIVE else 0
    if short:
        raise ImagingError(
            f"The pixels of {who} cannot be read: the file is cut off, {short} bytes are missing.",
            next_step="Send the series again.",
            code="imaging.pixels",
        )
    if syntax in _DECODER:
        _check_frames(ds, who, syntax, expected, frames)
    return syntax


def _native_shortfall(ds: Dataset, expected: codestream.Expected, frames: int) -> int:
    needed = expected.rows * expected.columns * frames * expected.bits_allocated // 8
    return max(0, needed - len(ds.PixelData or b""))


def _check_frames(ds: Dataset, who: str, syntax: str, expected: codestream.Expected, frames: int) -> None:
    found = 0
    table = ds.get("ExtendedOffsetTable"), ds.get("ExtendedOffsetTableLengths")
    try:
        for frame in generate_frames(
            ds.PixelData, number_of_frames=frames, extended_offsets=table if all(table) else None
        ):
            found += 1
            fault = codestream.fault(frame, syntax, expected)
            if fault is not None:
                raise unsafe(f"in {who}, its {fault}")
    except READ_FAILURES as error:
        raise ImagingError(
            f"The compressed frames of {who} cannot be told apart: the file is cut off or damaged.",
            next_step="Send the series again; if it fails again, ask for it uncompressed.",
            code="imaging.pixels",
        ) from error
    if found != frames:
        raise ImagingError(
            f"{who} holds {found} compressed frame(s) instead of the {frames} its header promises.",
            next_step="Send the series again.",
            code="imaging.pixels",
        )
