"""A sheet of facts and tables that is written as PDF for a file and as CSV for a spreadsheet, from one source."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass

from reportlab.lib.units import mm
from reportlab.platypus import CondPageBreak, Flowable, Paragraph, Spacer, Table, TableStyle

from service.results.pdf_page import (
    GREY,
    RULE,
    WIDTH,
    facts_table,
    heading,
    render,
    safe,
    text_style,
    title_line,
)

#: A cell that a spreadsheet would take for a formula is written as text.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


@dataclass(frozen=True)
class Section:
    """`columns` and `rows` as text; `widths` are shares of the page, equal when empty."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    widths: tuple[float, ...] = ()


@dataclass(frozen=True)
class Sheet:
    """`signatures` are lines left free for people to sign."""

    title: str
    facts: tuple[tuple[str, str], ...]
    sections: tuple[Section, ...]
    signatures: tuple[str, ...] = ()
    warning: str = ""


def sheet_pdf(sheet: Sheet) -> bytes:
    """A4 pages with the notice at the foot. The same sheet gives the same bytes."""
    story: list[Flowable] = [title_line(sheet.title), Spacer(1, 3 * mm)]
    if sheet.warning:
        story += [Paragraph(safe(sheet.warning), text_style(14, "VeraBd")), Spacer(1, 2 * mm)]
    story.append(facts_table(sheet.facts))
    for section in sheet.sections:
        # a title never stands alone at the foot of a page
        story += [CondPageBreak(28 * mm), heading(section.title)]
        story.append(_table(section))
    for who in sheet.signatures:
        story += [Spacer(1, 12 * mm), Paragraph(safe(f"{'_' * 40}  {who}, date, time"), text_style(8.5))]
    return render(story, sheet.title, sheet.title)


def sheet_csv(sheet: Sheet) -> bytes:
    """UTF-8 with a byte order mark; facts first, then each section under its title and column names."""
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow([_cell(sheet.title)])
    writer.writerows([_cell(k), _cell(v)] for k, v in sheet.facts)
    for section in sheet.sections:
        writer.writerow([])
        writer.writerow([_cell(section.title)])
        writer.writerow([_cell(c) for c in section.columns])
        writer.writerows([_cell(v) for v in row] for row in section.rows)
    return out.getvalue().encode("utf-8-sig")


def _cell(value: str) -> str:
    return f"'{value}" if value.startswith(_FORMULA) else value


def _table(section: Section) -> Table:
    shares: Sequence[float] = section.widths or (1.0,) * len(section.columns)
    widths = [WIDTH * share / sum(shares) for share in shares]
    small, grey = text_style(7.5), text_style(7.5, colour=GREY)
    body = section.rows or (("none", *[""] * (len(section.columns) - 1)),)
    rows = [[Paragraph(safe(c), grey) for c in section.columns]]
    rows += [[Paragraph(safe(c), small) for c in row] for row in body]
    style = [
        ("LINEBELOW", (0, 0), (-1, -1), 0.4, RULE),
        ("VALIGN", (0, 0), (-1, -1), "TOP"),
        ("LEFTPADDING", (0, 0), (-1, -1), 0),
        ("RIGHTPADDING", (0, 0), (-1, -1), 4),
        ("TOPPADDING", (0, 0), (-1, -1), 1.5),
        ("BOTTOMPADDING", (0, 0), (-1, -1), 2),
    ]
    return Table(rows, colWidths=widths, style=TableStyle(style), hAlign="LEFT", repeatRows=1)
