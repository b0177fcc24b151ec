"""Putting a run's tables into a page of the documentation, between the markers of that part."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import TextIO

_KEPT = ("|", "PASS", "FAIL", "grade ", "not measurable:", "stated ", "skipped:", "error mean", "tips told")


class Tee(io.TextIOBase):
    """Writes to the terminal and keeps what was written."""

    def __init__(self, terminal: TextIO | None = None) -> None:
        self._terminal = terminal or sys.stdout
        self._parts: list[str] = []

    def write(self, text: str) -> int:
        self._parts.append(text)
        return self._terminal.write(text)

    def flush(self) -> None:
        self._terminal.flush()

    def text(self) -> str:
        return "".join(self._parts)


def put(page: Path, part: str, printed: str) -> None:
    """Replace what stands between `<!-- part -->` and `<!-- /part -->`.

    Raises
    ------
    SystemExit
        When the page has no such markers.
    """
    content = page.read_text("utf-8")
    begin, end = f"<!-- {part} -->\n", f"<!-- /{part} -->"
    if begin not in content or end not in content:
        raise SystemExit(f"{page.name} has no markers {begin.strip()} and {end}")
    head, rest = content.split(begin, 1)
    _, tail = rest.split(end, 1)
    page.write_text(head + begin + _tables(printed) + end + tail, "utf-8")


def _tables(printed: str) -> str:
    """The tables as they are, everything else of worth as a block of plain lines; progress is left out."""
    lines, plain = [], False
    for line in printed.splitlines():
        if not line.startswith(_KEPT) and line:
            continue
        is_plain = bool(line) and not line.startswith("|")
        if is_plain != plain and (is_plain or plain) and line:
            lines.append("```")
            plain = is_plain
        if line or (lines and lines[-1] and not plain):
            lines.append(line)
    if plain:
        lines.append("```")
    return "\n".join(lines).strip() + "\n"
