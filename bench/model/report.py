"""Acceptance lines, tables, and the measured sections of docs/accuracy.md."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

PAGE = Path(__file__).resolve().parents[2] / "docs" / "accuracy.md"


@dataclass(frozen=True)
class Line:
    """One line of acceptance with its measured figure."""

    wanted: str
    measured: str
    met: bool

    def __str__(self) -> str:
        return f"{'met' if self.met else 'NOT MET'}: {self.wanted}: {self.measured}"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def acceptance(lines: Sequence[Line]) -> str:
    return table(
        ["acceptance", "measured", ""],
        [(line.wanted, line.measured, "met" if line.met else "**not met**") for line in lines],
    )


def write_section(name: str, text: str, page: Path = PAGE) -> None:
    """Replace the section between `<!-- measured: NAME -->` and `<!-- end measured -->`."""
    whole = page.read_text("utf-8")
    pattern = re.compile(rf"(<!-- measured: {name} -->\n).*?(<!-- end measured -->)", re.DOTALL)
    if not pattern.search(whole):
        raise SystemExit(f"{page.name} has no section for '{name}'.")
    page.write_text(pattern.sub(lambda m: f"{m[1]}{text}\n{m[2]}", whole), "utf-8")
