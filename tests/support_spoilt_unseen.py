"""Further ways to spoil a good G-code file: hidden commands, a plunging nozzle, blobs, and a cavity that is filled."""

from __future__ import annotations

import re

from tests.support_spoilt_gcode import EXPECTED, inserted, more_used, replaced, solid_block


def _within_a_wall(lines, chance):
    """Some place among the moves of an outer wall, and the height of that layer."""
    layer = chance.randrange(20, 60)
    at = lines.index(";TYPE:WALL-OUTER", lines.index(f";LAYER:{layer}")) + 5
    return at, f"Z{(layer + 1) * 0.2:.5g}"


#: A solid block of 3.2 by 11 by 8.6 mm in the cavity of 16 by 12 by 9 mm.
_BLOCK = ((-7.6, -5.6), (-4.4, 5.4), range(11, 54))


def nozzle_plunges(lines, chance):
    """Straight down into the part and up again, at the speed of the wall afterwards."""
    at, height = _within_a_wall(lines, chance)
    return [*lines[:at], "G0 F600 Z0.2", f"G0 F600 {height}", "G1 F2160", *lines[at:]]


def plunge_at_the_end(lines, _):
    return replaced(lines, "^G91$", "G91\nG0 F600 Z-5\nG0 F600 Z5")


def nozzle_ploughs_upwards(lines, chance):
    """Straight down, and out on a slant that ends where a travel may end."""
    begin = lines.index(f";LAYER:{chance.randrange(20, 60)}")
    at = next(i for i in range(begin + 6, len(lines)) if lines[i].startswith("G0 F15000 X"))
    height = next(m[1] for t in reversed(lines[:at]) if (m := re.search(r"^G0 .*(Z[\d.]+)", t)))
    slant = ["G0 F600 Z0.2", f"G0 F15000 X118 Y110 {height}", re.sub(r" Z\S+", "", lines[at])]
    return [*lines[: at + 1], *slant, *lines[at + 1 :]]


def blob_in_support(lines, chance):
    """100 mm of filament in a move of 0.2 mm, known to the header; afterwards the counter is set back."""
    at = lines.index(";TYPE:SUPPORT", lines.index(f";LAYER:{chance.randrange(10, 30)}")) + 4
    x, y, counter = (float(v) for v in re.search(r"X(\S+) Y(\S+) E(\S+)", lines[at]).groups())
    pushed = [f"G1 X{x + 0.2:.3f} Y{y} E{counter + 100:.5f}", f"G92 E{counter}"]
    return more_used([*lines[: at + 1], *pushed, *lines[at + 1 :]], 100 * EXPECTED.filament_mm2)


def heap_in_support(lines, chance):
    """A move of 0.2 mm to and fro 4000 times, each of a right width: 64 mm3 on one spot."""
    at = lines.index(";TYPE:SUPPORT", lines.index(f";LAYER:{chance.randrange(10, 30)}")) + 4
    x, y, counter = (float(v) for v in re.search(r"X(\S+) Y(\S+) E(\S+)", lines[at]).groups())
    push = 0.2 * 0.4 * EXPECTED.layer_mm / EXPECTED.filament_mm2
    moves = [f"G1 X{x + 0.2 * (i % 2):.3f} Y{y:.3f} E{counter + i * push:.5f}" for i in range(1, 4001)]
    heap = [*lines[: at + 1], *moves, f"G92 E{counter}", *lines[at + 1 :]]
    return more_used(heap, 4000 * push * EXPECTED.filament_mm2)


def primed_again(lines, _):
    return replaced(lines, "^G280$", "G280\nG280")


def primed_while_printing(lines, chance):
    return inserted([t for t in lines if t != "G280"], chance, chance.choice(["G280", "G280 S1"]))


def filled_cavity(lines, _):
    return solid_block(lines, *_BLOCK, [";MESH:filler.stl", ";TYPE:FILL"])


def part_in_the_cavity(lines, _):
    return solid_block(lines, (-7.4, 2.0), (-6.2, 4.0), range(11, 54), [";MESH:part.stl", ";TYPE:FILL"])


def support_in_the_cavity(lines, _):
    return solid_block(lines, *_BLOCK, [";MESH:NONMESH", ";TYPE:SUPPORT"])


def brim_in_the_cavity(lines, _):
    return solid_block(lines, *_BLOCK, [";MESH:NONMESH", ";TYPE:SKIRT"])


def support_of_the_filler(lines, _):
    return solid_block(lines, *_BLOCK, [";MESH:filler.stl", ";TYPE:SUPPORT"])


def plate_in_the_cavity(lines, _):
    """Two layers from wall to wall, far below its roof."""
    label = [";MESH:filler.stl", ";TYPE:FILL"]
    return solid_block(lines, (-7.6, -5.6), (-3.6, 5.4), range(14, 16), label)


def filler_outside(lines, _):
    """Inside the ring of the brim, beside the part."""
    return solid_block(lines, (11.5, -7.5), (13.0, -4.5), range(11, 20), [";MESH:filler.stl", ";TYPE:FILL"])


def hidden_by_a_blank(lines, chance):
    """A printer skips leading blanks."""
    return inserted(lines, chance, chance.choice([" M104 S300", "\tM104 S300", " T1", " G28", " G92 X0"]))


def move_hidden_by_a_blank(lines, chance):
    return inserted(lines, chance, " G1 F9000 X10 Y10 Z0.1 E999")


def hidden_by_a_carriage_return(lines, chance):
    """A printer takes it for the end of the line; one after a move is the end of its last number here."""
    moves = [i for i, t in enumerate(lines) if re.match(r"G1 X\S+ Y\S+ E", t)]
    at = chance.choice(moves)
    return [*lines[:at], lines[at] + chance.choice(["\rM104S300", "\rG28"]), *lines[at + 1 :]]


def digits_of_another_script(lines, chance):
    return inserted(lines, chance, "M104 S２１０")
