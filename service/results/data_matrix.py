"""Data Matrix (ISO/IEC 16022, ECC 200) of a pack: our own text, or a GS1 element string where the site owns a GTIN."""

from __future__ import annotations

from datetime import datetime

from pystrich.datamatrix import DataMatrixData, DataMatrixEncoder
from pystrich.gs1 import GS1Fixed, GS1Variable

Modules = tuple[tuple[int, ...], ...]
QUIET = 2
"""White modules around the code; the standard asks for one."""


def matrix_of_text(text: str) -> Modules:
    """Rows of dark (1) and light (0) modules, quiet zone included, top row first. `text` is plain ASCII."""
    return _modules(DataMatrixData(text, encoding="ascii"))


def matrix_of_gs1(gtin: str, use_by: datetime, lot: str, serial: str) -> Modules:
    """The element string (01) GTIN, (17) use-by, (10) lot, (21) serial, with FNC1 first.

    The two of variable length go last, so that one separator is enough (GS1 General Specifications, 7.8). Raises
    ValueError when lot or serial cannot be written in GS1 (see `fits_gs1`).
    """
    if not (fits_gs1(lot) and fits_gs1(serial)):
        raise ValueError("lot and serial are 1 to 20 characters without blanks")
    return _modules(
        DataMatrixData.gs1(
            GS1Fixed("01", gtin), GS1Fixed("17", use_by.strftime("%y%m%d")), GS1Variable("10", lot),
            GS1Variable("21", serial),
        )
    )  # fmt: skip


def fits_gs1(value: str) -> bool:
    """Whether a lot or serial number is one GS1 allows: up to 20 of its character set 82."""
    return 1 <= len(value) <= 20 and all(c.isascii() and (c.isalnum() or c in _SIGNS) for c in value)


_SIGNS = "!\"%&'()*+,-./:;<=>?_"


def _modules(data: DataMatrixData) -> Modules:
    # The renderer adds finder pattern and quiet zone to the data; nothing is drawn by it.
    rows = DataMatrixEncoder(data, quiet_zone=QUIET).init_renderer().matrix
    return tuple(tuple(int(bool(m)) for m in row) for row in rows)
