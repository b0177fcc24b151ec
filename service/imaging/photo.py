"""A photograph that somebody hands in: looked at, bounded, and stripped of everything but its pixels."""

from __future__ import annotations

import io

from PIL import Image, ImageOps, UnidentifiedImageError

from service.errors import InputRefusedError

MOST_BYTES = 15 << 20
_MOST_PIXELS = 50_000_000
_LONGEST_SIDE = 2400
_FORMATS = ("JPEG", "PNG")


def clean_photo(content: bytes) -> bytes:
    """The photograph as a JPEG of at most 2400 pixels a side, turned upright, without metadata (place, time, device).

    Raises InputRefusedError: too large, neither JPEG nor PNG, damaged.
    """
    if len(content) > MOST_BYTES:
        raise _refused(f"The photograph is larger than {MOST_BYTES >> 20} MB.", "photo.size")
    try:
        with Image.open(io.BytesIO(content), formats=_FORMATS) as image:
            if image.width * image.height > _MOST_PIXELS:
                raise _refused("The photograph has more than 50 million pixels.", "photo.size")
            upright = ImageOps.exif_transpose(image).convert("RGB")
    except UnidentifiedImageError as error:
        raise _refused("The file is neither a JPEG nor a PNG picture.", "photo.kind") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise _refused("The photograph is damaged or cut off.", "photo.damaged") from error
    upright.thumbnail((_LONGEST_SIDE, _LONGEST_SIDE))
    # a new picture from the pixels alone: what else the file carried has no way into it
    bare = Image.frombytes("RGB", upright.size, upright.tobytes())
    out = io.BytesIO()
    bare.save(out, "JPEG", quality=88)
    return out.getvalue()


def _refused(message: str, code: str) -> InputRefusedError:
    return InputRefusedError(
        message, next_step="Take the picture again as JPEG or PNG, at most 15 MB.", code=code
    )
