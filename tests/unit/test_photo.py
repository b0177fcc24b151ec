"""Photographs that are handed in: what is kept of them, and what is refused."""

from __future__ import annotations

import io

import pytest
from PIL import Image

from service.errors import InputRefusedError
from service.imaging import photo as photos
from service.imaging.photo import clean_photo
from tests.support_photo import CAMERA, photo


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_only_the_pixels_are_kept_and_stand_upright(kind: str) -> None:
    given = photo(kind=kind)
    assert CAMERA.encode() in given
    kept = clean_photo(given)
    assert CAMERA.encode() not in kept and b"Exif" not in kept
    with Image.open(io.BytesIO(kept)) as image:
        assert (image.format, image.size, len(image.getexif())) == ("JPEG", (48, 64), 0)
        assert all(abs(a - b) < 6 for a, b in zip(image.getpixel((20, 20)), (180, 170, 150), strict=True))  # type: ignore[arg-type]


def test_a_large_picture_is_made_smaller() -> None:
    with Image.open(io.BytesIO(clean_photo(photo(size=(5000, 1000))))) as image:
        assert max(image.size) == 2400


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"", "photo.kind"),
        (b"%PDF-1.7 nothing of a picture", "photo.kind"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "photo.kind"),
        (photo()[:300], "photo.damaged"),
        (b"\xff" * (photos.MOST_BYTES + 1), "photo.size"),
    ],
    ids=["empty", "pdf", "svg", "cut", "large"],
)
def test_what_is_no_photograph_is_refused_in_words(content: bytes, code: str) -> None:
    with pytest.raises(InputRefusedError) as error:
        clean_photo(content)
    assert error.value.code == code
    assert error.value.next_step


def test_a_picture_of_too_many_pixels_is_not_unpacked() -> None:
    with pytest.raises(InputRefusedError) as error:
        clean_photo(photo(size=(8000, 7000)))
    assert error.value.code == "photo.size"


def test_gif_is_refused_though_it_is_a_picture() -> None:
    out = io.BytesIO()
    Image.new("RGB", (8, 8)).save(out, "GIF")
    with pytest.raises(InputRefusedError):
        clean_photo(out.getvalue())
