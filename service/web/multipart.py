"""Multipart bodies (RFC 2046) of any size, part by part to files, with bounded memory.

The byte-level parser is python-multipart's, which cares only for boundaries and headers and so reads
multipart/related (STOW-RS) as well as forms. The work on each chunk runs on a worker thread: disks may be slow.
"""

from __future__ import annotations

import asyncio
import enum
import shutil
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from python_multipart import MultipartParser
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header
from starlette.concurrency import run_in_threadpool

from service.errors import InputRefusedError, SpineprintError, StorageError

MOST_PARTS = 20_000
#: Longest silence inside a body before the sender is given up.
SILENCE_S = 60.0
_MOST_HEADERS, _LONGEST_HEADER = 16, 8192
_LONGEST_PREAMBLE = 1 << 16
_ROOM_STEP = 16 << 20
"""The disk is asked again for room after so many bytes of one part."""


class BadMultipartError(InputRefusedError):
    """The body is not what its content type says; what came whole before this was handled already."""

    default_code = "upload.multipart"
    http_status = 400


class TooManyPartsError(InputRefusedError):
    default_code = "upload.too_many"
    http_status = 413


class SilentSenderError(InputRefusedError):
    default_code = "upload.silent"
    http_status = 408


class Mark(enum.Enum):
    BEGIN = "begin"
    END = "end"


Event = Mark | Mapping[str, str] | bytes
"""A part begins, its headers, a piece of its content, it ends; in this order."""


def boundary_of(content_type: str, wanted: str) -> tuple[bytes, Mapping[str, str]]:
    """Boundary and parameters of a content type; `wanted` is e.g. multipart/related. Raises BadMultipartError."""
    kind, options = parse_options_header(content_type)
    boundary = options.get(b"boundary", b"")
    if kind != wanted.encode() or not boundary or len(boundary) > 200 or b"\r" in boundary:
        raise BadMultipartError(
            f"The content type must be {wanted} with a boundary.", next_step="Correct the request's header."
        )
    return boundary, {k.decode("latin-1"): v.decode("utf-8", "replace") for k, v in options.items()}


class Splitter:
    """Chunks of a body in, events out. Holds no more than one chunk and one part's headers."""

    def __init__(self, boundary: bytes) -> None:
        self._first = b"--" + boundary
        self._early: bytearray | None = bytearray()
        self._events: list[Event] = []
        self._headers: dict[str, str] = {}
        self._name, self._value = bytearray(), bytearray()
        self.complete = False
        """The closing boundary has been seen."""
        self.fault: BadMultipartError | None = None
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._on_begin,
                "on_header_field": lambda data, start, end: self._name.extend(data[start:end]),
                "on_header_value": lambda data, start, end: self._value.extend(data[start:end]),
                "on_header_end": self._on_header_end,
                "on_headers_finished": lambda: self._events.append(self._headers),
                "on_part_data": lambda data, start, end: self._events.append(bytes(data[start:end])),
                "on_part_end": lambda: self._events.append(Mark.END),
                "on_end": self._on_end,
            },
            max_header_count=_MOST_HEADERS,
            max_header_size=_LONGEST_HEADER,
        )

    def feed(self, chunk: bytes) -> list[Event]:
        """What the chunk brought, up to a fault in it; then `fault` is set and nothing more must be fed."""
        if self._early is not None:
            chunk = self._after_preamble(chunk)
        self._events = []
        try:
            self._parser.write(chunk)
        except FormParserError:
            self.fault = BadMultipartError(
                "The multipart body is not well formed.",
                next_step="Check the boundaries and the headers of the parts.",
            )
        return self._events

    def _after_preamble(self, chunk: bytes) -> bytes:
        """Text before the first boundary is to be ignored (RFC 2046 section 5.1.1); the parser does not."""
        assert self._early is not None
        self._early += chunk
        begin = 0 if self._early.startswith(self._first) else self._early.find(b"\r\n" + self._first)
        if begin < 0:
            if len(self._early) > _LONGEST_PREAMBLE:
                self.fault = BadMultipartError(
                    "The body does not begin with the boundary that the request's header names.",
                    next_step="Correct the boundary.",
                )
            return b""
        rest, self._early = bytes(self._early[begin:]), None
        return rest

    def _on_begin(self) -> None:
        self._headers = {}
        self._events.append(Mark.BEGIN)

    def _on_header_end(self) -> None:
        name = self._name.decode("latin-1").lower()
        self._headers[name] = self._value.decode("utf-8", "replace").strip()
        self._name.clear()
        self._value.clear()

    def _on_end(self) -> None:
        self.complete = True


@dataclass(frozen=True)
class Part:
    """A whole part on disk; removed when the next one is asked for. `error`: why it could not be kept."""

    headers: Mapping[str, str]
    path: Path
    error: SpineprintError | None = None

    @property
    def media_type(self) -> str:
        return parse_options_header(self.headers.get("content-type", ""))[0].decode("latin-1")

    @property
    def file_name(self) -> str | None:
        """Of a form's file field; None for anything else."""
        name = parse_options_header(self.headers.get("content-disposition", ""))[1].get(b"filename")
        return None if name is None else name.decode("utf-8", "replace")


@contextmanager
def scratch_folder(scratch: Path) -> Iterator[Path]:
    """A folder for one request, gone at its end."""
    folder = Path(tempfile.mkdtemp(prefix="request-", dir=scratch))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


async def parts_of(
    stream: AsyncIterator[bytes], boundary: bytes, folder: Path, require_room: Callable[[int], None]
) -> AsyncGenerator[Part, None]:
    """The parts of a body as it arrives.

    Raises
    ------
    BadMultipartError : not well formed, or cut off; TooManyPartsError; SilentSenderError.
    """
    splitter, writer, count = Splitter(boundary), _Writer(folder, require_room), 0
    try:
        while (chunk := await _next_chunk(stream)) is not None:
            for part in await run_in_threadpool(lambda data: writer.take(splitter.feed(data)), chunk):
                count += 1
                if count > MOST_PARTS:
                    raise TooManyPartsError(
                        f"The request has more than {MOST_PARTS} parts.",
                        next_step="Send it in several requests.",
                    )
                yield part
                part.path.unlink(missing_ok=True)
            if splitter.fault is not None:
                raise splitter.fault
        if not splitter.complete:
            raise BadMultipartError(
                "The request was cut off: its last boundary is missing.",
                next_step="Send it again; what came whole is kept and will be recognised.",
            )
    finally:
        writer.close()


async def _next_chunk(stream: AsyncIterator[bytes]) -> bytes | None:
    try:
        async with asyncio.timeout(SILENCE_S):
            return await anext(stream, None)
    except TimeoutError as error:
        raise SilentSenderError(
            f"Nothing came for {SILENCE_S:.0f} s in the middle of the request.", next_step="Send it again."
        ) from error


class _Writer:
    """Events to files in `folder`, one after the other."""

    def __init__(self, folder: Path, require_room: Callable[[int], None]) -> None:
        self._folder = folder
        self._require_room = require_room
        self._number = 0
        self._headers: Mapping[str, str] = {}
        self._out: BinaryIO | None = None
        self._size = 0
        self._error: SpineprintError | None = None

    def take(self, events: list[Event]) -> list[Part]:
        done = []
        for event in events:
            if event is Mark.BEGIN:
                self._begin()
            elif event is Mark.END:
                done.append(self._end())
            elif isinstance(event, bytes):
                self._write(event)
            elif not isinstance(event, Mark):
                self._headers = event
        return done

    def close(self) -> None:
        if self._out is not None:
            self._out.close()
            self._out = None

    def _begin(self) -> None:
        self.close()
        self._number += 1
        self._headers, self._size, self._error = {}, 0, None
        self._out = self._path.open("wb")
        self._check_room()

    def _write(self, data: bytes) -> None:
        if self._error is None and self._size // _ROOM_STEP != (self._size + len(data)) // _ROOM_STEP:
            self._check_room()
        self._size += len(data)
        if self._out is not None and self._error is None:
            self._out.write(data)

    def _check_room(self) -> None:
        try:
            self._require_room(_ROOM_STEP)
        except StorageError as error:
            # The rest of the part is read and dropped, so that the sender hears about every part.
            self._error = error
            if self._out is not None:
                self._out.truncate(0)

    def _end(self) -> Part:
        self.close()
        return Part(self._headers, self._path, self._error)

    @property
    def _path(self) -> Path:
        return self._folder / f"{self._number:06d}"
