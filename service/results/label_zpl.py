"""The same label in ZPL II for a thermal label printer: plain commands for texts, graphics for code and symbols.

The code is sent as a bitmap of whole dots a module, so that any printer prints the very code we made. Characters with a
meaning in the language are escaped: nothing a person typed into a pack number can become a command.
"""

from __future__ import annotations

from PIL import Image, ImageDraw

from service.results.label_symbols import SYMBOLS
from service.results.labels import HEIGHT_MM, WIDTH_MM, Code, Label, Placed

DOTS_PER_MM = 8
"""203 dpi, the common resolution; finer printers scale the label by their own setting."""
_PEN_DOTS = 3


def label_zpl(label: Label) -> bytes:
    """One label (^XA to ^XZ), UTF-8."""
    parts = ["^XA^CI28", f"^PW{_dots(WIDTH_MM)}^LL{_dots(HEIGHT_MM)}^LH0,0"]
    for text in label.texts:
        top = HEIGHT_MM - text.y - text.size_mm
        height = _dots(text.size_mm)
        parts.append(
            f"^FO{_dots(text.x)},{_dots(top)}^A0N,{height},{round(height * 0.85)}^FH^FD{_escaped(text.text)}^FS"
        )
    for placed in label.symbols:
        top = HEIGHT_MM - placed.y - placed.size
        parts.append(f"^FO{_dots(placed.x)},{_dots(top)}{_graphic(_symbol_image(placed))}^FS")
    for code in label.codes:
        top = HEIGHT_MM - code.y - code.side
        parts.append(f"^FO{_dots(code.x)},{_dots(top)}{_graphic(_code_image(code))}^FS")
    return ("\n".join([*parts, "^XZ"]) + "\n").encode("utf-8")


def _dots(length_mm: float) -> int:
    return round(length_mm * DOTS_PER_MM)


def _escaped(text: str) -> str:
    """^FH: `_` and two hexadecimal digits stand for a byte."""
    return "".join(
        "".join(f"_{byte:02X}" for byte in character.encode("utf-8"))
        if character in "^~_\\" or ord(character) < 32 or ord(character) > 126
        else character
        for character in text
    )


def _code_image(code: Code) -> Image.Image:
    modules = code.modules
    dots = max(1, int(code.side * DOTS_PER_MM) // len(modules))
    image = Image.new("1", (len(modules) * dots, len(modules) * dots), 1)
    draw = ImageDraw.Draw(image)
    for row, line in enumerate(modules):
        for column, dark in enumerate(line):
            if dark:
                x, y = column * dots, row * dots
                draw.rectangle((x, y, x + dots - 1, y + dots - 1), fill=0)
    return image


def _symbol_image(placed: Placed) -> Image.Image:
    symbol = SYMBOLS[placed.name]
    height = _dots(placed.size)
    image = Image.new("1", (round(symbol.width * height) + 1, height + 1), 1)
    draw = ImageDraw.Draw(image)
    for line in symbol.lines:
        draw.line([(x * height, (1 - y) * height) for x, y in line], fill=0, width=_PEN_DOTS, joint="curve")
    for letters in symbol.letters:
        x, y = letters.at
        draw.text(
            (x * height, (1 - y) * height), letters.text, fill=0, anchor="mm",
            font_size=letters.height * height / 0.73,
        )  # fmt: skip
    return image


def _graphic(image: Image.Image) -> str:
    """^GFA: total bytes twice, bytes a row, then the bits as hexadecimal digits; 1 is black."""
    row_bytes = (image.width + 7) // 8
    padded = Image.new("1", (row_bytes * 8, image.height), 1)
    padded.paste(image, (0, 0))
    bits = bytes(byte ^ 0xFF for byte in padded.tobytes())
    return f"^GFA,{len(bits)},{len(bits)},{row_bytes},{bits.hex().upper()}"
