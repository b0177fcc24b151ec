"""A picture as a Secondary Capture, because most viewers show neither SR nor STL (PS3.3 A.8.1)."""

from __future__ import annotations

import numpy as np
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.uid import SecondaryCaptureImageStorage

from service.results.context import Origin, SourceContext, body_part, new_result


def secondary_capture(
    image: Image.Image,
    context: SourceContext,
    origin: Origin,
    *,
    level: str,
    kind: str,
    description: str,
    series: str = "",
    number: int = 1,
    comment: str = "",
) -> Dataset:
    """8-bit RGB capture of a picture, its pixels as they are.

    Parameters
    ----------
    description : of the series.
    series : several captures with the same name here share one series; empty, it is a series of its own.
    number, comment : of the instance.

    Laterality stays absent: BodyPartExamined is an unpaired part (PS3.3 C.7.3.1). BurnedInAnnotation is YES
    because a picture may show text.
    """
    pixels = np.asarray(image.convert("RGB"), dtype=np.uint8)
    dataset = new_result(context, origin, kind, SecondaryCaptureImageStorage, "OT")
    dataset.SeriesNumber = 9004
    dataset.SeriesDescription = description[:64]
    dataset.InstanceNumber = number
    if series:
        dataset.SeriesInstanceUID = origin.uid(series, "series")
        dataset.SeriesNumber = 9005
    if comment:
        dataset.ImageComments = comment
    dataset.BodyPartExamined = body_part(level)
    dataset.ConversionType = "WSD"
    dataset.ImageType = ["DERIVED", "SECONDARY"]
    dataset.PatientOrientation = ""
    dataset.BurnedInAnnotation = "YES"
    dataset.SamplesPerPixel = 3
    dataset.PhotometricInterpretation = "RGB"
    dataset.PlanarConfiguration = 0
    dataset.Rows, dataset.Columns = int(pixels.shape[0]), int(pixels.shape[1])
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit = 7
    dataset.PixelRepresentation = 0
    if context.lossy is not None:
        context.lossy.write_to(dataset)
    content = pixels.tobytes()
    dataset.add_new(0x7FE00010, "OB", content + b"\0" * (len(content) % 2))
    return dataset
