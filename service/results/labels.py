"""Labels of a pack: one model of what stands where, drawn as PDF here and as printer language in `label_zpl`.

Two kinds. The label of a pack that is on its way says NOT STERILE and bears no sterile symbol; the one printed after
the release names who released it, on which load. The software never calls a pack sterile by itself.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from datetime import datetime

import segno
from reportlab.lib.units import mm
from reportlab.pdfbase.pdfmetrics import stringWidth
from reportlab.pdfgen.canvas import Canvas

from service.results.label_code import PackCode, write_code
from service.results.label_symbols import SYMBOLS, Symbol
from service.results.pdf_page import BOLD, FONT, register_fonts

WIDTH_MM, HEIGHT_MM = 80.0, 50.0
CODE_MM = 24.0
SYMBOL_MM = 6.5
_CAPITAL = 0.73  # height of a capital of the font, per unit of its size
NOTICE = "Not a medical device. For the patient referred to only."


@dataclass(frozen=True)
class Text:
    """A line of text; x, y (mm, from the lower left corner) is the start of its base line."""

    text: str
    x: float
    y: float
    size_mm: float
    bold: bool = False


@dataclass(frozen=True)
class Placed:
    """A symbol of height `size` with its lower left corner at x, y; mm."""

    name: str
    x: float
    y: float
    size: float


@dataclass(frozen=True)
class Label:
    """`modules` is the code as rows of dark (1) and light (0) squares, quiet zone included, top row first."""

    texts: tuple[Text, ...]
    symbols: tuple[Placed, ...]
    modules: tuple[tuple[int, ...], ...]
    code_x: float
    code_y: float


@dataclass(frozen=True)
class LabelData:
    """`released_by` empty: the pack is not released. Times are UTC; `case_code` is what people call the case."""

    code: PackCode
    case_code: str
    packed_at: datetime
    use_by: datetime
    pouch_lot: str
    load_id: str = ""
    released_by: str = ""
    released_at: datetime | None = None


def lay_out(data: LabelData) -> Label:
    """Texts, symbols and code of one label, every text cut to the room it has."""
    released = bool(data.released_by) and data.released_at is not None
    lines = [
        (f"{data.case_code}  {data.code.level}", 5.0, True),
        (f"Pack {data.code.pack_id}", 3.2, False),
        (f"Patient ref. {data.code.patient_reference}", 2.8, False),
        (f"Use by {_date(data.use_by)}", 3.2, True),
        (f"Packed {_date(data.packed_at)}", 2.6, False),
        (f"Pouch lot {data.pouch_lot}", 2.6, False),
    ]
    if released and data.released_at is not None:
        lines += [
            (f"Released {_date(data.released_at)}, load {data.load_id}", 2.4, False),
            (f"by {data.released_by}", 2.8, True),
        ]
    else:
        lines += [("NOT STERILE", 4.2, True), ("until released by sterile services", 2.4, False)]
    texts, y = [], HEIGHT_MM - 4.0
    room = WIDTH_MM - CODE_MM - 9.0
    for words, size, bold in lines:
        y -= size
        texts.append(Text(_cut(words, size, bold, room), 3.0, y, size, bold))
        y -= 0.8
    texts.append(Text(NOTICE, 3.0, 2.2, 2.2))
    names = ["use_by", "single_use", "damaged", "keep_dry", *(["sterile_eo"] if released else [])]
    symbols, x = [], 3.0
    for name in names:
        symbols.append(Placed(name, x, 6.0, SYMBOL_MM))
        x += SYMBOL_MM * SYMBOLS[name].width + 2.0
    qr = segno.make(write_code(data.code), error="m", micro=False)
    modules = tuple(tuple(int(bool(m)) for m in row) for row in qr.matrix_iter(border=4))
    return Label(tuple(texts), tuple(symbols), modules, WIDTH_MM - CODE_MM - 3.0, HEIGHT_MM - CODE_MM - 3.0)


def label_pdf(label: Label) -> bytes:
    """One page of the label's size. The same label gives the same bytes."""
    register_fonts()
    buffer = io.BytesIO()
    canvas = Canvas(buffer, pagesize=(WIDTH_MM * mm, HEIGHT_MM * mm), invariant=1)
    canvas.setTitle("Pack label")
    for text in label.texts:
        canvas.setFont(BOLD if text.bold else FONT, text.size_mm * mm)
        canvas.drawString(text.x * mm, text.y * mm, text.text)
    for placed in label.symbols:
        _draw_symbol(canvas, SYMBOLS[placed.name], placed)
    side = CODE_MM / len(label.modules)
    for row, modules in enumerate(label.modules):
        for column, dark in enumerate(modules):
            if dark:
                x = label.code_x + column * side
                y = label.code_y + CODE_MM - (row + 1) * side
                canvas.rect(x * mm, y * mm, side * mm, side * mm, stroke=0, fill=1)
    canvas.save()
    return buffer.getvalue()


def _draw_symbol(canvas: Canvas, symbol: Symbol, placed: Placed) -> None:
    scale = placed.size * mm
    canvas.setLineWidth(0.35 * mm)
    for line in symbol.lines:
        path = canvas.beginPath()
        for index, (x, y) in enumerate(line):
            move = path.lineTo if index else path.moveTo
            move(placed.x * mm + x * scale, placed.y * mm + y * scale)
        canvas.drawPath(path, stroke=1, fill=0)
    for letters in symbol.letters:
        size = letters.height * scale / _CAPITAL
        canvas.setFont(BOLD, size)
        x, y = letters.at
        base = placed.y * mm + (y - letters.height / 2) * scale
        canvas.drawCentredString(placed.x * mm + x * scale, base, letters.text)


def _cut(words: str, size_mm: float, bold: bool, room_mm: float) -> str:
    """The words, shortened with an ellipsis where they would run into the code."""
    register_fonts()
    font, cut = BOLD if bold else FONT, words
    while cut and stringWidth(cut, font, size_mm * mm) > room_mm * mm:
        cut = cut[:-2].rstrip("…") + "…" if len(cut) > 2 else ""
    return cut


def _date(at: datetime) -> str:
    return at.strftime("%Y-%m-%d")
