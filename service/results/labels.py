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

from service.results.data_matrix import fits_gs1, matrix_of_gs1, matrix_of_text
from service.results.label_code import PackCode, write_code
from service.results.label_symbols import SYMBOLS, Symbol
from service.results.pdf_page import BOLD, FONT, register_fonts

WIDTH_MM, HEIGHT_MM = 80.0, 50.0
CODE_MM = 24.0
MATRIX_MM = 17.0
SYMBOL_MM = 4.8
SYMBOL_GAP_MM = 0.8
UDI_MM = 4.0
_TOP_MM = 2.5
_CAPITAL = 0.73  # height of a capital of the font, per unit of its size
NOTICE = "Not a medical device. Only for the patient referred to. Do not resterilise."
NOTICE_AGAIN = "Not a medical device. Only for the patient referred to."


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
class _Line:
    """One line of the label's left side, with the symbol that stands before its words, if any."""

    words: str
    size_mm: float
    bold: bool = False
    symbol: str = ""


@dataclass(frozen=True)
class Code:
    """`modules` are rows of dark (1) and light (0) squares, quiet zone included, top row first.

    x, y (mm) is the lower left corner, `side` (mm) the length of an edge.
    """

    modules: tuple[tuple[int, ...], ...]
    x: float
    y: float
    side: float


@dataclass(frozen=True)
class Label:
    """`codes` are the QR code, which the door scans, and the Data Matrix below it."""

    texts: tuple[Text, ...]
    symbols: tuple[Placed, ...]
    codes: tuple[Code, ...]


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
    warmest_c: float | None = None
    """Highest temperature the printed material may see; None: no limit is known, and none is drawn."""
    gtin: str = ""
    """The site's own GTIN; empty: no GS1 string is made, the Data Matrix says what the QR code says."""
    resterilisable: bool = False
    filament_lot: str = ""
    """Of the plastic the part was printed from; empty: not recorded, and the label says nothing of it."""


def lay_out(data: LabelData) -> Label:
    """Texts, symbols and code of one label, every text cut to the room it has."""
    released = bool(data.released_by) and data.released_at is not None
    codes, gs1 = _codes(data)
    texts, symbols, y = [], [], HEIGHT_MM - _TOP_MM
    for line in _lines(data):
        y -= line.size_mm
        x = 3.0
        if line.symbol:
            symbols.append(Placed(line.symbol, x, y - 0.1 * line.size_mm, line.size_mm))
            x += line.size_mm * SYMBOLS[line.symbol].width + 0.8
        room = WIDTH_MM - CODE_MM - 6.0 - x
        texts.append(Text(_cut(line.words, line.size_mm, line.bold, room), x, y, line.size_mm, line.bold))
        y -= 0.8
    texts.append(Text(NOTICE_AGAIN if data.resterilisable else NOTICE, 3.0, 2.2, 1.9))
    row, side = _row(data, released)
    if gs1:
        side.append(Placed("udi", WIDTH_MM - MATRIX_MM - 4.0 - UDI_MM * SYMBOLS["udi"].width, 14.0, UDI_MM))
    return Label(tuple(texts) + tuple(row), tuple(symbols) + tuple(side), codes)


def _lines(data: LabelData) -> list[_Line]:
    lines = [
        _Line(f"{data.case_code}  {data.code.level}", 5.0, bold=True),
        _Line(f"Pack {data.code.pack_id}", 3.2),
        _Line(f"Patient ref. {data.code.patient_reference}", 2.8),
        _Line(f"Use by {_date(data.use_by)}", 3.2, bold=True, symbol="use_by"),
        _Line(f"Packed {_date(data.packed_at)}", 2.6),
        _Line(f"Pouch lot {data.pouch_lot}", 2.6, symbol="lot"),
        *([_Line(f"Filament lot {data.filament_lot}", 2.2)] if data.filament_lot else []),
    ]
    if data.released_by and data.released_at is not None:
        return [
            *lines,
            _Line(f"Released {_date(data.released_at)}, load {data.load_id}", 2.4),
            _Line(f"by {data.released_by}", 2.8, bold=True),
        ]
    return [*lines, _Line("NOT STERILE", 4.2, bold=True), _Line("until released by sterile services", 2.4)]


def _row(data: LabelData, released: bool) -> tuple[list[Text], list[Placed]]:
    """The symbols along the lower edge, and the number at the thermometer."""
    names = ["single_use", *([] if data.resterilisable else ["no_resterilise"])]
    names += [
        "damaged",
        "keep_dry",
        "keep_cool",
        *(["upper_temperature"] if data.warmest_c is not None else []),
    ]
    names += ["single_barrier", "sterile_eo" if released else "non_sterile"]
    texts, placed, x = [], [], 3.0
    for name in names:
        placed.append(Placed(name, x, 6.0, SYMBOL_MM))
        if name == "upper_temperature" and data.warmest_c is not None:
            texts.append(Text(f"{data.warmest_c:g} °C", x + 0.47 * SYMBOL_MM, 6.0 + 0.66 * SYMBOL_MM, 1.4))
        x += SYMBOL_MM * SYMBOLS[name].width + SYMBOL_GAP_MM
    return texts, placed


def _codes(data: LabelData) -> tuple[tuple[Code, ...], bool]:
    """QR code and Data Matrix; and whether the latter is a GS1 element string, so a unique device identifier."""
    text = write_code(data.code)
    qr = segno.make(text, error="m", micro=False)
    modules = tuple(tuple(int(bool(m)) for m in row) for row in qr.matrix_iter(border=4))
    top = HEIGHT_MM - 3.0
    lot, serial = data.load_id or data.pouch_lot, data.code.pack_id
    # A pack number GS1 has no letters for gets our own text: a wrong element string would be worse than none.
    gs1 = bool(data.gtin) and fits_gs1(lot) and fits_gs1(serial)
    matrix = matrix_of_gs1(data.gtin, data.use_by, lot, serial) if gs1 else matrix_of_text(text)
    return (
        Code(modules, WIDTH_MM - CODE_MM - 3.0, top - CODE_MM, CODE_MM),
        Code(matrix, WIDTH_MM - MATRIX_MM - 3.0, top - CODE_MM - 1.5 - MATRIX_MM, MATRIX_MM),
    ), gs1


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
    for code in label.codes:
        _draw_code(canvas, code)
    canvas.save()
    return buffer.getvalue()


def _draw_code(canvas: Canvas, code: Code) -> None:
    step = code.side / len(code.modules)
    for row, modules in enumerate(code.modules):
        for column, dark in enumerate(modules):
            if dark:
                x, y = code.x + column * step, code.y + code.side - (row + 1) * step
                canvas.rect(x * mm, y * mm, step * mm, step * mm, stroke=0, fill=1)


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
