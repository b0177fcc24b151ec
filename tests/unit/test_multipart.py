"""Multipart bodies as they come: whole, in any pieces, damaged, hostile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import SpineprintError, StorageError
from service.web import multipart
from service.web.multipart import (
    BadMultipartError,
    SilentSenderError,
    TooManyPartsError,
    boundary_of,
    parts_of,
)
from tests.support_web import BOUNDARY, related


def room(_size: int) -> None:
    return None


def read(
    chunks: Iterable[bytes], folder: Path, require_room: object = room
) -> tuple[list[tuple[dict[str, str], bytes, str]], SpineprintError | None]:
    """(headers, content, error code) of every part, and how it ended."""

    async def stream() -> AsyncIterator[bytes]:
        for chunk in chunks:
            yield chunk

    async def run() -> tuple[list[tuple[dict[str, str], bytes, str]], SpineprintError | None]:
        found = []
        try:
            async for part in parts_of(stream(), BOUNDARY.encode(), folder, require_room):  # type: ignore[arg-type]
                error = part.error.code if part.error else ""
                found.append((dict(part.headers), part.path.read_bytes(), error))
        except SpineprintError as exc:
            return found, exc
        return found, None

    return asyncio.run(run())


@given(
    parts=st.lists(st.binary(max_size=300), min_size=1, max_size=5),
    sizes=st.lists(st.integers(1, 200), min_size=1, max_size=20),
    preamble=st.sampled_from([b"", b"\r\n", b"This is a multi-part message.\r\n"]),
)
def test_parts_come_out_as_they_went_in_whatever_the_pieces(
    tmp_path_factory: pytest.TempPathFactory, parts: list[bytes], sizes: list[int], preamble: bytes
):
    mark = b"\r\n--" + BOUNDARY.encode()
    parts = [p.replace(mark, b"") for p in parts]
    body, chunks, at = preamble + related(*parts), [], 0
    while at < len(body):
        size = sizes[len(chunks) % len(sizes)]
        chunks.append(body[at : at + size])
        at += size
    found, ended = read(chunks, tmp_path_factory.mktemp("parts"))
    assert ended is None
    assert [content for _, content, _ in found] == parts
    assert all(headers == {"content-type": "application/dicom"} for headers, _, _ in found)


def test_content_that_looks_almost_like_a_boundary_is_content(tmp_path: Path):
    tricky = b"\r\n--" + BOUNDARY.encode()[:-1] + b"\r\n\r--\r\n\r\n-" * 1000
    found, ended = read([related(tricky, b"", tricky)], tmp_path)
    assert (ended, [c for _, c, _ in found]) == (None, [tricky, b"", tricky])


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"x" * 70_000,
        b"--other\r\n\r\nx\r\n--other--\r\n",
        related(b"x").replace(b"Content-Type:", b"Content Type:"),
        related(b"x").replace(b"Content-Type", b""),
        related(b"x", headers={"X": "y" * 9000}),
        related(b"x", headers={f"X-{n}": "y" for n in range(40)}),
        related(b"x", end=False),
        related(b"x" * 1000)[:-40],
    ],
    ids=["empty", "no boundary", "other boundary", "bad name", "no name", "giant header", "many headers", "no end",
         "cut off"],
)  # fmt: skip
def test_bad_bodies_end_in_words(tmp_path: Path, body: bytes):
    _, ended = read([body[i : i + 1000] for i in range(0, len(body), 1000)], tmp_path)
    assert isinstance(ended, BadMultipartError)
    assert ended.message and ended.next_step and ended.http_status == 400


def test_what_came_whole_before_the_damage_is_given_out(tmp_path: Path):
    body = related(b"one", b"two", end=False) + b"--" + BOUNDARY.encode() + b"\r\n: none\r\n\r\nthree"
    found, ended = read([body], tmp_path)
    assert [c for _, c, _ in found] == [b"one", b"two"]
    assert isinstance(ended, BadMultipartError)


def test_ten_thousand_tiny_parts_are_read_and_leave_nothing(tmp_path: Path):
    found, ended = read([related(*[b"x"] * 10_000)], tmp_path)
    assert ended is None
    assert len(found) == 10_000
    assert list(tmp_path.iterdir()) == []


def test_too_many_parts_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(multipart, "MOST_PARTS", 5)
    found, ended = read([related(*[b"x"] * 6)], tmp_path)
    assert (len(found), type(ended)) == (5, TooManyPartsError)


def test_a_silent_sender_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(multipart, "SILENCE_S", 0.05)

    async def stream() -> AsyncIterator[bytes]:
        yield related(b"x", end=False)
        await asyncio.sleep(30)

    async def run() -> None:
        async for _ in parts_of(stream(), BOUNDARY.encode(), tmp_path, room):
            pass

    with pytest.raises(SilentSenderError):
        asyncio.run(run())


def test_without_room_every_part_is_refused_and_none_is_written(tmp_path: Path):
    def full(_size: int) -> None:
        raise StorageError("full", next_step="free", code="storage.full")

    found, ended = read([related(b"a" * 5000, b"b")], tmp_path, full)
    assert ended is None
    assert [(content, code) for _, content, code in found] == [(b"", "storage.full")] * 2


def test_room_is_asked_for_again_in_a_long_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    asked = []

    def twice(size: int) -> None:
        asked.append(size)
        if len(asked) > 2:
            raise StorageError("full", next_step="free", code="storage.full")

    monkeypatch.setattr(multipart, "_ROOM_STEP", 1000)
    found, _ = read([related(b"x" * 500 * n) for n in (8,)], tmp_path, twice)
    assert found[0][1:] == (b"x" * 4000, "")  # one piece: asked at its beginning and once in it
    body = related(b"x" * 5000)
    found, _ = read([body[i : i + 500] for i in range(0, len(body), 500)], tmp_path, twice)
    assert found[0][1:] == (b"", "storage.full")


@pytest.mark.parametrize(
    ("content_type", "wanted"),
    [
        ("multipart/related", "multipart/related"),
        ("multipart/related; boundary=", "multipart/related"),
        ("multipart/form-data; boundary=x", "multipart/related"),
        ("application/json", "multipart/form-data"),
        (f"multipart/related; boundary={'x' * 300}", "multipart/related"),
        ("", "multipart/related"),
        ("\xff;;;==", "multipart/related"),
    ],
)
def test_a_content_type_without_a_usable_boundary_is_refused(content_type: str, wanted: str):
    with pytest.raises(BadMultipartError):
        boundary_of(content_type, wanted)


def test_a_quoted_boundary_and_its_parameters_are_read():
    boundary, options = boundary_of(
        'Multipart/Related; type="application/dicom"; boundary="a b:c"', "multipart/related"
    )
    assert (boundary, options["type"]) == (b"a b:c", "application/dicom")
