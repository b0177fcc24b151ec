"""A zip that somebody uploaded, entry by entry, with limits on everything an attacker chooses.

Names inside are shown, never used as paths. Nothing is unpacked beside the one entry that is being looked at.
"""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from service.errors import InputRefusedError, SpineprintError

MOST_ENTRIES = 20_000
#: The table of contents of so many entries with long names is smaller than this.
_LARGEST_DIRECTORY = 8 << 20
#: CT packs to a half or a third; even an empty image of this size does not pack better than the ratio by chance.
_RATIO, _RATIO_FROM = 200, 32 << 20
_BLOCK = 1 << 20
_READABLE = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}
_ENCRYPTED = 0x1
_DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, struct.error, NotImplementedError, ValueError)


@dataclass(frozen=True)
class Entry:
    """One file of the zip, in words or unpacked: `path` is None when `error` says why not."""

    name: str
    path: Path | None
    error: SpineprintError | None = None


class _Bounded(io.FileIO):
    """A file of which nobody reads more at once than a table of contents may have.

    The library takes that table into memory in one piece, as large as the file claims.
    """

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or size < 0:
            here = self.tell()
            size = self.seek(0, io.SEEK_END) - here
            self.seek(here)
        if size > _LARGEST_DIRECTORY:
            raise zipfile.BadZipFile("table of contents too large")
        return super().read(size) or b""


def is_zip(path: Path) -> bool:
    """Whether it begins like a zip; an empty one begins with its end."""
    with path.open("rb") as stream:
        return stream.read(4) in (b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08")


def entries(
    path: Path, scratch: Path, *, most_bytes: int, require_room: Callable[[int], None]
) -> Iterator[Entry]:
    """Unpack one entry after the other to `scratch`, each removed before the next.

    Raises
    ------
    InputRefusedError : the whole zip, or the rest of it: damaged table of contents, too many entries, encrypted,
        unpacks to more than `most_bytes`, packed like a zip bomb.
    StorageError : no room for the next entry.
    """
    with _Bounded(path) as stream:
        try:
            archive = zipfile.ZipFile(stream)
        except (*_DAMAGE, OSError) as exc:
            raise InputRefusedError(
                "The zip is damaged or cut off: its table of contents cannot be read.",
                next_step="Make the zip again, or upload the folder itself.",
                code="upload.zip_damaged",
            ) from exc
        with archive:
            infos = [i for i in archive.infolist() if not i.is_dir()]
            _require_harmless(infos, most_bytes)
            unpacked = 0
            for info in infos:
                require_room(info.file_size)
                try:
                    entry = _unpack(archive, info, scratch / "entry")
                    unpacked += entry.path.stat().st_size if entry.path else 0
                    yield entry
                finally:
                    (scratch / "entry").unlink(missing_ok=True)
                if unpacked > most_bytes:
                    raise _too_large(most_bytes)


def _require_harmless(infos: list[zipfile.ZipInfo], most_bytes: int) -> None:
    if len(infos) > MOST_ENTRIES:
        raise InputRefusedError(
            f"The zip holds {len(infos)} files; {MOST_ENTRIES} are taken at once.",
            next_step="Upload the study alone, or in parts.",
            code="upload.zip_entries",
        )
    if any(i.flag_bits & _ENCRYPTED for i in infos):
        raise InputRefusedError(
            "The zip is encrypted; no password can be given here.",
            next_step="Unpack it and upload the folder, or zip it without a password.",
            code="upload.zip_encrypted",
        )
    if sum(i.file_size for i in infos) > most_bytes:
        raise _too_large(most_bytes)


def _unpack(archive: zipfile.ZipFile, info: zipfile.ZipInfo, target: Path) -> Entry:
    name = info.filename
    if info.compress_type not in _READABLE:
        return Entry(name, None, InputRefusedError(
            "It is packed with a method that is not read here.",
            next_step="Zip it with the usual method (deflate), or upload the folder itself.",
            code="upload.zip_method",
        ))  # fmt: skip
    got = 0
    try:
        source = archive.open(info)
    except (*_DAMAGE, OSError):
        return Entry(name, None, _damaged())
    try:
        with source, target.open("wb") as out:
            while block := source.read(_BLOCK):
                got += len(block)
                if got > _RATIO_FROM and got > _RATIO * max(1, info.compress_size):
                    raise InputRefusedError(
                        "The zip holds a file that unpacks to very much more than it should (a zip bomb).",
                        next_step="Do not use this zip; ask where it comes from.",
                        code="upload.zip_bomb",
                    )
                out.write(block)
    except _DAMAGE:
        target.unlink(missing_ok=True)
        return Entry(name, None, _damaged())
    return Entry(name, target)


def _damaged() -> InputRefusedError:
    return InputRefusedError(
        "It is damaged inside the zip.",
        next_step="Make the zip again, or upload the folder itself.",
        code="upload.zip_entry_damaged",
    )


def _too_large(most_bytes: int) -> InputRefusedError:
    return InputRefusedError(
        f"The zip unpacks to more than {most_bytes >> 20} MB.",
        next_step="Upload it in parts; the administrator can raise [web] max_upload_mb.",
        code="upload.zip_too_large",
    )
