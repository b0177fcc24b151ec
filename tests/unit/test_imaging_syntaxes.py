"""Every transfer syntax gives the same Hounsfield values, encoded by programs other than the reader's own."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import FileDataset
from pydicom.encaps import encapsulate
from pydicom.uid import JPEG2000, HTJ2KLossless, JPEG2000Lossless

from service.errors import ImagingError
from service.imaging.instance_header import read_header
from service.imaging.series import LoadedSeries, is_whole, load_series
from tests.fixtures.make_htj2k import SIZE, stored_values
from tests.support_dicom import run, write_series

FIXTURE = Path(__file__).parents[1] / "fixtures" / "htj2k_32x32.j2c"
COUNT = 10


def signed_hu(index: int, ds: FileDataset) -> None:
    """Stored values are HU, below zero in air."""
    pixels = np.frombuffer(ds.PixelData, "<i2") - 1024
    ds.PixelData, ds.RescaleIntercept = pixels.astype("<i2").tobytes(), "0"


def unsigned_12(index: int, ds: FileDataset) -> None:
    """12 bits of 16, without a sign, as most scanners write them."""
    ds.PixelRepresentation, ds.BitsStored, ds.HighBit = 0, 12, 11


def sloped(index: int, ds: FileDataset) -> None:
    ds.RescaleSlope, ds.RescaleIntercept = "2", "-1000"


FORMS: dict[str, Callable[[int, FileDataset], None]] = {
    "signed": signed_hu,
    "unsigned": unsigned_12,
    "sloped": sloped,
}


def by(program: str, *options: str) -> Callable[[Path, Path], None]:
    def encode(source: Path, target: Path) -> None:
        run(program, *options, source, target)

    return encode


def by_pydicom(syntax: pydicom.uid.UID, **options: object) -> Callable[[Path, Path], None]:
    def encode(source: Path, target: Path) -> None:
        ds = pydicom.dcmread(source)
        ds.compress(syntax, generate_instance_uid=False, **options)
        ds.save_as(target)

    return encode


UID = "1.2.840.10008.1.2"
LOSSLESS = {
    f"{UID}": by("dcmconv", "+ti"),
    f"{UID}.1": by("dcmconv", "+te"),
    f"{UID}.2": by("dcmconv", "+tb"),
    f"{UID}.1.99": by("dcmconv", "+td"),
    f"{UID}.5": by("dcmcrle"),
    f"{UID}.4.57": by("dcmcjpeg", "+el"),
    f"{UID}.4.70": by("dcmcjpeg", "+e1"),
    f"{UID}.4.80": by("dcmcjpls", "+el"),
    f"{UID}.4.90": by_pydicom(JPEG2000Lossless),
}
LOSSY = {
    f"{UID}.4.81": (by("dcmcjpls", "+en", "+md", "2"), 2),
    f"{UID}.4.91": (by_pydicom(JPEG2000, j2k_cr=[2]), 60),
}


Plain = Callable[[str], LoadedSeries]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Plain:
    """plain(form): the series as it is before it is encoded, written and loaded once."""

    @cache
    def made(form: str) -> LoadedSeries:
        folder = tmp_path_factory.mktemp(form)
        write_series(folder, COUNT, size=64, seed=5, change=FORMS[form])
        return load_series(folder)

    return made


def encoded(folder: Path, plain: LoadedSeries, encode: Callable[[Path, Path], None]) -> LoadedSeries:
    for file in plain.files:
        encode(file, folder / file.name)
    return load_series(folder)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("syntax", LOSSLESS)
def test_lossless_syntaxes_give_the_same_values(tmp_path: Path, plain: Plain, syntax: str, form: str) -> None:
    source = plain(form)
    packed = encoded(tmp_path, source, LOSSLESS[syntax])
    assert packed.info.transfer_syntax_uids == (syntax,)
    np.testing.assert_array_equal(packed.volume.values, source.volume.values)
    np.testing.assert_array_equal(packed.volume.lps_from_ijk, source.volume.lps_from_ijk)
    assert packed.info.lossy is not True
    assert source.volume.values.std() > 50
    for file in packed.files:
        assert read_header(file).info.rows == 64 and is_whole(file)


@pytest.mark.parametrize(
    ("syntax", "form"),
    # dcmcjpls encodes near-lossless without a sign only
    [(f"{UID}.4.81", "unsigned"), (f"{UID}.4.91", "unsigned"), (f"{UID}.4.91", "signed")],
)
def test_lossy_syntaxes_are_near_and_marked(tmp_path: Path, plain: Plain, syntax: str, form: str) -> None:
    encode, most = LOSSY[syntax]
    packed = encoded(tmp_path, plain(form), encode)
    assert packed.info.transfer_syntax_uids == (syntax,)
    apart = np.abs(packed.volume.values.astype(int) - plain(form).volume.values)
    assert 0 < apart.max() <= most
    assert packed.info.lossy is True


def eight_bits(index: int, ds: FileDataset) -> None:
    rows, columns = np.indices((64, 64))
    ds.PixelData = (2 * columns + rows + index).astype(np.uint8).tobytes()
    ds.BitsAllocated = ds.BitsStored = 8
    ds.HighBit, ds.PixelRepresentation = 7, 0
    ds.RescaleSlope, ds.RescaleIntercept = "4", "-100"
    ds["PixelData"].VR = "OB"


@pytest.mark.parametrize("frame_header", [b"\xff\xc0", b"\xff\xc1"])
def test_jpeg_baseline_with_eight_bits_is_near_and_marked(tmp_path: Path, frame_header: bytes) -> None:
    """Some encoders write the header of the extended process, which for eight bits means the same."""
    files = write_series(tmp_path / "plain", COUNT, size=64, change=eight_bits)
    (tmp_path / "packed").mkdir()
    for file in files:
        target = tmp_path / "packed" / file.name
        run("dcmcjpeg", "+eb", "+q", 95, file, target)
        whole = target.read_bytes()
        assert whole.count(b"\xff\xc0\x00\x0b") == 1
        target.write_bytes(whole.replace(b"\xff\xc0\x00\x0b", frame_header + b"\x00\x0b"))
    plain, packed = load_series(tmp_path / "plain"), load_series(tmp_path / "packed")
    assert packed.info.transfer_syntax_uids == (f"{UID}.4.50",)
    apart = np.abs(packed.volume.values.astype(int) - plain.volume.values)
    assert apart.max() <= 4 * 6 and packed.info.lossy is True


def test_twelve_bit_jpeg_is_refused_with_what_to_ask_for(tmp_path: Path) -> None:
    files = write_series(tmp_path / "plain", COUNT, size=64, change=unsigned_12)
    (tmp_path / "packed").mkdir()
    for file in files:
        run("dcmcjpeg", "+ee", file, tmp_path / "packed" / file.name)
    with pytest.raises(ImagingError) as refused:
        load_series(tmp_path / "packed")
    assert refused.value.code == "imaging.syntax" and f"{UID}.4.51" in refused.value.message
    assert "lossless" in refused.value.next_step


def htj2k(index: int, ds: FileDataset) -> None:
    ds.RescaleIntercept = str(index)
    ds.file_meta.TransferSyntaxUID = HTJ2KLossless
    ds.PixelData = encapsulate([FIXTURE.read_bytes()])
    ds["PixelData"].is_undefined_length = True


def test_htj2k_gives_the_values_that_were_encoded(tmp_path: Path) -> None:
    write_series(tmp_path, COUNT, size=SIZE, change=htj2k)
    loaded = load_series(tmp_path)
    assert loaded.info.transfer_syntax_uids == (f"{UID}.4.201",)
    for k in range(COUNT):
        np.testing.assert_array_equal(loaded.volume.values[k], stored_values() + k)


@pytest.mark.parametrize("syntax", [f"{UID}.5", f"{UID}.4.70", f"{UID}.4.80"])
def test_a_frame_in_many_fragments_is_put_together(tmp_path: Path, plain: Plain, syntax: str) -> None:
    """PS3.5 A.4: a frame may come in several fragments (RLE: exactly one)."""
    program = {".5": "dcmcrle", "70": "dcmcjpeg", "80": "dcmcjpls"}[syntax[-2:]]
    source = plain("unsigned")
    packed = encoded(tmp_path, source, by(program, "+fs", "1"))
    np.testing.assert_array_equal(packed.volume.values, source.volume.values)


@pytest.mark.parametrize("syntax", [s for s in LOSSLESS if s.startswith((f"{UID}.4", f"{UID}.5"))])
def test_a_cut_off_frame_is_not_whole(tmp_path: Path, plain: Plain, syntax: str) -> None:
    packed = encoded(tmp_path, plain("unsigned"), LOSSLESS[syntax])
    file = packed.files[4]
    file.write_bytes(file.read_bytes()[:-400])
    assert not is_whole(file)
    with pytest.raises(ImagingError, match=r"cut off|missing"):
        load_series(tmp_path)
