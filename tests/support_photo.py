"""A photograph as a camera writes it, with what must not be kept: place, device, time."""

from __future__ import annotations

import io

from PIL import Image

CAMERA = "SecretCam 3000"


def photo(
    colour: tuple[int, int, int] = (180, 170, 150), kind: str = "JPEG", size: tuple[int, int] = (64, 48)
) -> bytes:
    image = Image.new("RGB", size, colour)
    exif = Image.Exif()
    exif[0x0110] = CAMERA  # model
    exif[0x0112] = 6  # to be shown turned by a quarter
    out = io.BytesIO()
    image.save(out, kind, exif=exif, quality=95)
    return out.getvalue()
