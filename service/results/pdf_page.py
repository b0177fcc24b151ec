"""The page of our printed reports: fonts, styles, tables, the verdict box, the notice at the foot.

Fonts are embedded. The verdict is told by word, shape and colour together, never by colour alone.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from xml.sax.saxutils import escape

import reportlab
from reportlab.lib import colors
from reportlab.lib.enums import TA_LEFT
from reportlab.lib.pagesizes import A4
from reportlab.lib.styles import ParagraphStyle
from reportlab.lib.units import mm
from reportlab.pdfbase import pdfmetrics
from reportlab.pdfbase.cidfonts import UnicodeCIDFont
from reportlab.pdfbase.ttfonts import TTFont
from reportlab.pdfgen.canvas import Canvas
from reportlab.platypus import Flowable, Paragraph, SimpleDocTemplate, Table, TableStyle

from service import NOTICE

FONT, BOLD, CJK = "Vera", "VeraBd", "STSong-Light"
WIDTH = A4[0] - 36 * mm
INK, GREY, RULE = colors.HexColor("#1d2733"), colors.HexColor("#5c6875"), colors.HexColor("#c9d0d8")

#: verdict -> (word, shape, colour, what it means)
VERDICTS = {
    "accurate": ("WITHIN TOLERANCE", "tick", colors.HexColor("#17693a"), "The surgeon decides."),
    "reposition": (
        "REPOSITION RECOMMENDED",
        "triangle",
        colors.HexColor("#a81e1e"),
        "At least one value is beyond its tolerance.",
    ),
    "review": (
        "REVIEW NEEDED",
        "diamond",
        colors.HexColor("#8a5a00"),
        "A clinician must look at the images.",
    ),
    "not_measurable": (
        "NOT MEASURABLE",
        "bar",
        colors.HexColor("#3d4854"),
        "No number can be given for this scan.",
    ),
}

#: word in the result column -> verdict whose colour the line takes
_LOUD = {"BEYOND": "reposition", "UNSURE": "review"}


class VerdictBox(Flowable):  # type: ignore[misc]  # reportlab carries no types
    """Coloured box: shape and word in large letters, the advice below."""

    def __init__(self, verdict: str, advice: str) -> None:
        super().__init__()
        self.word, self.shape, self.colour, meaning = VERDICTS[verdict]
        self.text = Paragraph(safe(advice.strip() or meaning), text_style(10.5, colour=colors.white))
        self.text_height = 0.0

    def wrap(self, available_width: float, available_height: float) -> tuple[float, float]:
        self.width = available_width
        _, self.text_height = self.text.wrap(available_width - 36 * mm, available_height)
        self.height = max(24 * mm, self.text_height + 17 * mm)
        return self.width, self.height

    def draw(self) -> None:
        canvas = self.canv
        canvas.setFillColor(self.colour)
        canvas.roundRect(0, 0, self.width, self.height, 3 * mm, stroke=0, fill=1)
        canvas.setFillColor(colors.white)
        canvas.setStrokeColor(colors.white)
        _draw_shape(canvas, self.shape, 15 * mm, self.height / 2, 7 * mm)
        canvas.setFont(BOLD, 19)
        canvas.drawString(30 * mm, self.height - 11 * mm, self.word)
        self.text.drawOn(canvas, 30 * mm, self.height - 14 * mm - self.text_height)


def _draw_shape(canvas: Canvas, shape: str, x: float, y: float, size: float) -> None:
    canvas.setLineWidth(2.2 * mm)
    canvas.setLineCap(1)
    canvas.setLineJoin(1)
    path = canvas.beginPath()
    if shape == "tick":
        corners = [(-0.8, 0.0), (-0.25, -0.6), (0.85, 0.65)]
    elif shape == "triangle":
        corners = [(-0.95, -0.75), (0.95, -0.75), (0.0, 0.95), (-0.95, -0.75)]
    elif shape == "diamond":
        corners = [(0.0, 1.0), (1.0, 0.0), (0.0, -1.0), (-1.0, 0.0), (0.0, 1.0)]
    else:
        corners = [(-0.9, 0.0), (0.9, 0.0)]
    path.moveTo(x + corners[0][0] * size, y + corners[0][1] * size)
    for dx, dy in corners[1:]:
        path.lineTo(x + dx * size, y + dy * size)
    canvas.drawPath(path, stroke=1, fill=0)
    if shape in ("triangle", "diamond"):
        canvas.setFont(BOLD, 15)
        canvas.drawCentredString(x, y - 2.6 * mm, "!" if shape == "triangle" else "?")


def facts_table(facts: Sequence[tuple[str, str]]) -> Table:
    rows = [
        [Paragraph(safe(k), text_style(8, colour=GREY)), Paragraph(safe(_breakable(v)), text_style(8))]
        for k, v in facts
    ]
    table = Table(rows, colWidths=[52 * mm, WIDTH - 52 * mm], hAlign="LEFT")
    table.setStyle(
        TableStyle(
            [
                ("LEFTPADDING", (0, 0), (-1, -1), 0),
                ("TOPPADDING", (0, 0), (-1, -1), 0),
                ("BOTTOMPADDING", (0, 0), (-1, -1), 1.5),
            ]
        )
    )
    return table


def ruled_table(rows: list[list[str]], widths_mm: list[float], marks: int | None = None) -> Table:
    style = [
        ("FONT", (0, 0), (-1, -1), FONT, 9),
        ("FONT", (0, 0), (-1, 0), FONT, 8),
        ("TEXTCOLOR", (0, 0), (-1, 0), GREY),
        ("TEXTCOLOR", (0, 1), (-1, -1), INK),
        ("LINEBELOW", (0, 0), (-1, -1), 0.4, RULE),
        ("LEFTPADDING", (0, 0), (0, -1), 0),
        ("TOPPADDING", (0, 0), (-1, -1), 1.5),
        ("BOTTOMPADDING", (0, 0), (-1, -1), 2.5),
    ]
    for i, row in enumerate(rows):
        if marks is not None and row[marks] in _LOUD:
            colour = VERDICTS[_LOUD[row[marks]]][2]
            style += [("FONT", (0, i), (-1, i), BOLD, 9), ("TEXTCOLOR", (0, i), (-1, i), colour)]
    return Table(rows, colWidths=[w * mm for w in widths_mm], style=TableStyle(style), hAlign="LEFT")


# --- page ------------------------------------------------------------------------------------------------


def render(story: list[Flowable], title: str, running: str) -> bytes:
    """PDF bytes; `running` (whose report it is) and the notice stand at the foot of every page."""
    register_fonts()
    buffer = io.BytesIO()
    document = SimpleDocTemplate(
        buffer,
        pagesize=A4,
        leftMargin=18 * mm - 6,  # a frame pads by 6 points
        rightMargin=18 * mm - 6,
        topMargin=12 * mm,
        bottomMargin=25 * mm,
        title=title,
        author="spineprint",
        invariant=1,
    )
    foot = partial(_foot, running)
    document.build(story, onFirstPage=foot, onLaterPages=foot)
    return buffer.getvalue()


def _foot(running: str, canvas: Canvas, document: SimpleDocTemplate) -> None:
    notice = Paragraph(safe(NOTICE), text_style(7.5, colour=GREY))
    _, height = notice.wrap(WIDTH - 22 * mm, 20 * mm)
    canvas.saveState()
    canvas.setStrokeColor(RULE)
    canvas.line(18 * mm, 20 * mm, 18 * mm + WIDTH, 20 * mm)
    notice.drawOn(canvas, 18 * mm, 18 * mm - height)
    whose = Paragraph(safe(running), text_style(7.5))
    whose.wrap(WIDTH, 10 * mm)
    whose.drawOn(canvas, 18 * mm, 20.7 * mm)
    canvas.setFont(FONT, 7.5)
    canvas.setFillColor(GREY)
    canvas.drawRightString(18 * mm + WIDTH, 15.5 * mm, f"page {document.page}")
    canvas.restoreState()


def register_fonts() -> None:
    if FONT in pdfmetrics.getRegisteredFontNames():
        return
    folder = Path(reportlab.__file__).parent / "fonts"
    pdfmetrics.registerFont(TTFont(FONT, str(folder / "Vera.ttf")))
    pdfmetrics.registerFont(TTFont(BOLD, str(folder / "VeraBd.ttf")))
    # For names in Chinese characters; the viewer supplies the glyphs.
    pdfmetrics.registerFont(UnicodeCIDFont(CJK))


def text_style(size: float, font: str = FONT, colour: colors.Color = INK) -> ParagraphStyle:
    register_fonts()
    return ParagraphStyle(
        f"{font}{size}", fontName=font, fontSize=size, leading=size * 1.3, textColor=colour, alignment=TA_LEFT
    )


def title_line(text: str) -> Paragraph:
    return Paragraph(safe(text), text_style(15, BOLD))


def heading(text: str) -> Flowable:
    style = text_style(10.5, BOLD)
    style.spaceBefore, style.spaceAfter = 3 * mm, 0.5 * mm
    return Paragraph(safe(text), style)


def safe(text: str) -> str:
    """Escaped for reportlab's markup; runs that the embedded font lacks go to the CJK font."""
    parts: list[str] = []
    for character in text:
        # Vera covers Latin-1 and a few marks; CJK blocks begin at U+2E80.
        piece = escape(character)
        parts.append(f'<font name="{CJK}">{piece}</font>' if ord(character) >= 0x2E80 else piece)
    return "".join(parts)


def _breakable(text: str) -> str:
    """Long hashes in groups of 8, so that they wrap and can be compared by eye."""
    if len(text) >= 40 and text.isalnum():
        return " ".join(text[i : i + 8] for i in range(0, len(text), 8))
    return text
