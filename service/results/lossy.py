"""That a result was made from images compressed with loss, said in the places each kind of object has for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydicom.dataset import Dataset

from service.domain.series import LOSSY_METHODS, LOSSY_SYNTAXES

SHORT = "source images compressed with loss"


@dataclass(frozen=True)
class LossyHistory:
    """Ratios and methods of the lossy compressions the source went through (PS3.3 C.7.6.1.1.5), where known."""

    ratios: tuple[float, ...] = ()
    methods: tuple[str, ...] = ()

    @classmethod
    def of(cls, headers: Sequence[Dataset]) -> LossyHistory | None:
        """Of the first source that was compressed with loss; None when none says so."""
        for header in headers:
            syntax = str(getattr(header, "file_meta", {}).get("TransferSyntaxUID") or "")
            if str(header.get("LossyImageCompression") or "") == "01" or syntax in LOSSY_SYNTAXES:
                ratios = _floats(header.get("LossyImageCompressionRatio"))
                methods = _words(header.get("LossyImageCompressionMethod"))
                if not methods and syntax in LOSSY_METHODS:
                    methods = (LOSSY_METHODS[syntax],)
                return cls(ratios or _measured_ratio(header, syntax), methods)
        return None

    def write_to(self, image: Dataset) -> None:
        """Into the General Image module of a result; ratio and method only where they are known."""
        image.LossyImageCompression = "01"
        if self.ratios:
            image.LossyImageCompressionRatio = list(self.ratios)
        if self.methods:
            image.LossyImageCompressionMethod = list(self.methods)


def _measured_ratio(header: Dataset, syntax: str) -> tuple[float, ...]:
    """Native size over the size of the file, where the source is still in its lossy form."""
    name = getattr(header, "filename", None)
    if syntax not in LOSSY_SYNTAXES or not name or not Path(str(name)).is_file():
        return ()
    pixels = (
        int(header.get("Rows") or 0)
        * int(header.get("Columns") or 0)
        * int(header.get("NumberOfFrames") or 1)
    )
    native = pixels * int(header.get("BitsAllocated") or 16) // 8
    return (round(native / Path(str(name)).stat().st_size, 2),) if native else ()


def _floats(value: object) -> tuple[float, ...]:
    try:
        return tuple(float(word) for word in _words(value))
    except ValueError:
        return ()


def _words(value: object) -> tuple[str, ...]:
    if value is None or value == "":
        return ()
    several = [value] if isinstance(value, str | int | float) else value
    return (
        tuple(str(word) for word in several if str(word)) if isinstance(several, Sequence) else (str(value),)
    )
