"""Ways to spoil a good G-code file of `tests.support_gcode`, each with what the audit must call it."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from service.gcode.audit import AuditReport
from tests.support_gcode import ENTRY, TARGET
from tests.support_spoilt_gcode import (
    ENGINES,
    SECRET,
    Lines,
    codes,
    engine_words,
    in_layers,
    inserted,
    less_plastic,
    replaced,
    scaled,
)
from tests.support_spoilt_unseen import (
    blob_in_support,
    brim_in_the_cavity,
    digits_of_another_script,
    filled_cavity,
    filler_outside,
    heap_in_support,
    hidden_by_a_blank,
    hidden_by_a_carriage_return,
    move_hidden_by_a_blank,
    nozzle_ploughs_upwards,
    nozzle_plunges,
    part_in_the_cavity,
    plate_in_the_cavity,
    plunge_at_the_end,
    primed_again,
    primed_while_printing,
    support_in_the_cavity,
    support_of_the_filler,
)

Mutation = Callable[[Lines, random.Random], Lines]


def hotter_nozzle(lines, _):
    return replaced(lines, r"^M109 S210$", "M109 S230")


def hotter_header(lines, _):
    return replaced(lines, r"INITIAL_TEMPERATURE:210", "INITIAL_TEMPERATURE:215")


def hotter_later(lines, chance):
    return inserted(lines, chance, "M104 S211")


def missing_layer(lines, chance):
    layer = chance.randrange(5, 60)
    begin, end = lines.index(f";LAYER:{layer}"), lines.index(f";LAYER:{layer + 1}")
    return lines[:begin] + lines[end:]


def thicker_layer(lines, chance):
    """One layer is printed 0.05 mm higher."""
    height = chance.randrange(5, 60) * 0.2
    return replaced(lines, rf"^(G0 .*Z){height:.5g}$", rf"\g<1>{height + 0.05:.5g}", count=9)


def blocked_channel(lines, chance, kind="WALL-INNER"):
    """One line through the channel, the extruder's counter consistently moved on after it."""
    share = chance.uniform(0.2, 0.7)
    x, y, z = np.asarray(ENTRY) + share * np.subtract(TARGET, ENTRY) + [116.5, 107.5, 0]
    layer = int(z / 0.2)
    at = lines.index(";TYPE:WALL-INNER", lines.index(f";LAYER:{layer}"))
    while not re.match(r"G1 X\S+ Y\S+ E", lines[at]):
        at += 1
    counter = float(lines[at].split("E")[1])
    back = " ".join(lines[at].split()[1:3])
    x0, x1, push = x - 0.9, x + 0.9, 0.0203
    travel, wall = engine_words(lines).travel, engine_words(lines).inner
    crossing = [
        *travel,
        f"G0 F15000 X{x0:.3f} Y{y:.3f}",
        *wall,
        f";TYPE:{kind}",
        f"G1 F2400 X{x1:.3f} Y{y:.3f} E{counter + push:.5f}",
    ]
    rest = scaled(lines[at + 1 :], "E", 1.0, push)
    return [*lines[: at + 1], *crossing, *travel, f"G0 F15000 {back}", *wall, "G1 F2400", *rest]


def support_in_channel(lines, chance):
    return blocked_channel(lines, chance, "SUPPORT")


def other_flavour(lines, _):
    return replaced(lines, ";FLAVOR:Griffin", ";FLAVOR:Marlin")


def other_machine(lines, _):
    return replaced(lines, "TARGET_MACHINE.NAME:.*", "TARGET_MACHINE.NAME:Ultimaker S5")


def off_the_bed(lines, _):
    moved = scaled(lines, "X", 1.0, 110.0)
    return [re.sub(r"(SIZE\.M..\.X:)([\d.]+)", lambda m: f"{m[1]}{float(m[2]) + 110:g}", t) for t in moved]


def moved_on_the_bed(lines, _):
    """Still on the plate, but no longer where the channels were checked."""
    moved = scaled(lines, "Y", 1.0, 9.0, only=r"^G[01] .*X")
    return [re.sub(r"(SIZE\.M..\.Y:)([\d.]+)", lambda m: f"{m[1]}{float(m[2]) + 9:g}", t) for t in moved]


def doubled_speed(lines, _):
    return scaled(lines, "F", 2.0, only=r"^G1 .*X")


def second_extruder(lines, chance):
    return inserted(lines, chance, "T1")


def second_train(lines, _):
    return replaced(lines, ";BUILD_PLATE.TYPE", ";EXTRUDER_TRAIN.1.NOZZLE.DIAMETER:0.4\n;BUILD_PLATE.TYPE")


def forbidden_command(lines, chance):
    return inserted(lines, chance, chance.choice(["G28", "M140 S90", "M500", "M117 hello", "G2 X1 Y1 I1 J1"]))


def wrong_bed(lines, _):
    return replaced(lines, "BUILD_PLATE.INITIAL_TEMPERATURE:60", "BUILD_PLATE.INITIAL_TEMPERATURE:80")


def path_in_comment(lines, chance):
    return inserted(lines, chance, chance.choice([";MESH:/home/user/case/part.stl", r";C:\scans\a.stl"]))


def name_in_comment(lines, chance):
    return inserted(lines, chance, f";{SECRET.upper()}")


def name_in_known_comment(lines, _):
    return replaced(lines, ";Generated with.*", f";Generated with Cura_SteamEngine {SECRET}")


def truncated(lines, chance):
    return lines[: chance.randrange(len(lines) // 2, len(lines) - 200)]


def tail_cut(lines, _):
    return lines[:-1]


def doubled_extrusion(lines, _):
    twice = scaled(lines, "E", 2.0)
    return [re.sub(r"(VOLUME_USED:)(\d+)", lambda m: f"{m[1]}{int(m[2]) * 2}", t) for t in twice]


def wrong_volume(lines, _):
    return replaced(lines, r"VOLUME_USED:\d+", "VOLUME_USED:900")


def two_colons(lines, _):
    return replaced(lines, "PRINT.TIME:.*", "PRINT.TIME:1:02:03")


def no_time(lines, _):
    return [line for line in lines if not line.startswith(";PRINT.TIME")]


def other_material(lines, _):
    return replaced(lines, "GUID:.*", "GUID:86a89ceb-4159-47f6-ab97-e9953803d70f")


def unreadable_move(lines, chance):
    return inserted(lines, chance, "G1 X12,5 Y3")


def cold_in_the_middle(lines, chance):
    return inserted(lines, chance, "M104 S0")


def mirrored(lines, _):
    """Left for right: the box's outline stays the same, its channel does not."""
    return scaled(lines, "Y", -1.0, 2 * 107.5, only=r"^G[01] .*X")


def nozzle_dives(lines, chance):
    """The nozzle travels through what is printed already."""
    at = lines.index(f";LAYER:{chance.randrange(20, 60)}")
    height = next(m[1] for t in reversed(lines[:at]) if (m := re.search(r"^G0 .*(Z[\d.]+)", t)))
    travel = engine_words(lines).travel
    return [*lines[:at], *travel, "G0 F600 Z1", "G0 F15000 X116.5 Y107.5", f"G0 F600 {height}", *lines[at:]]


def thinned_layer(lines, chance):
    """One layer gets six tenths of its plastic, the extruder's counter consistently less after it."""
    layer = chance.randrange(10, 60)
    begin, end = lines.index(f";LAYER:{layer}"), lines.index(f";LAYER:{layer + 1}")
    return less_plastic(lines, begin, end, 0.6)


def one_wall_missing(lines, chance):
    """The outer wall of one layer is travelled without plastic."""
    layer = chance.randrange(10, 60)
    begin = lines.index(";TYPE:WALL-OUTER", lines.index(f";LAYER:{layer}"))
    end = next(i for i in range(begin + 1, len(lines)) if lines[i].startswith(";"))
    return less_plastic(lines, begin, end, 0.0)


def part_called_support(lines, _):
    """Lines of the part under another name, so that they would not be counted."""
    return replaced(lines, "^;TYPE:WALL-INNER$", ";TYPE:SUPPORT", count=len(lines))


def blob(lines, chance):
    at = lines.index(f";LAYER:{chance.randrange(10, 60)}")
    counter = next(float(m[1]) for t in reversed(lines[:at]) if (m := re.search(r"^G1 .*E([\d.]+)", t)))
    return [*lines[:at], f"G1 F300 E{counter + 30:.5f}", f"G1 F1500 E{counter:.5f}", *lines[at:]]


def layer_renumbered_away(lines, chance):
    """A layer is cut out and the numbers closed up, so that the comments tell a whole story."""
    layer = chance.randrange(10, 55)
    begin, end = lines.index(f";LAYER:{layer}"), lines.index(f";LAYER:{layer + 1}")
    return [
        re.sub(r"^;LAYER:(\d+)$", lambda m: f";LAYER:{int(m[1]) - (int(m[1]) > layer)}", t)
        for t in replaced(lines[:begin] + lines[end:], "^;LAYER_COUNT:65$", ";LAYER_COUNT:64")
    ]


def hot_after_the_last_line(lines, _):
    return replaced(lines, r"^M104 S0$", "M109 S280\nM104 S0")


def hot_at_the_very_end(lines, _):
    return [*lines, "M109 S280", "M104 S0"]


def absurd_travel(lines, _):
    return replaced(lines, r"^G0 F15000 X", "G0 F60000 X", count=len(lines))


def one_absurd_travel(lines, chance):
    at = chance.choice([i for i, t in enumerate(lines) if t.startswith("G0 F15000 X")][1:-1])
    return [*lines[:at], lines[at].replace("F15000", "F18100"), *lines[at + 1 :]]


def fast_lift(lines, _):
    return replaced(lines, r"^G0 F600 ", "G0 F6000 ", count=5)


def fast_retraction(lines, _):
    return replaced(lines, r"^G1 F1500 E", "G1 F9000 E", count=5)


def first_layer_as_fast_as_walls(lines, _):
    return in_layers(lines, 0, 0, r"^G1 F900 ", "G1 F2400 ")


def second_layer_as_fast_as_the_rest(lines, _):
    return in_layers(lines, 1, 1, r"^G1 F1650 ", "G1 F2400 ")


def halved_speeds(lines, _):
    return scaled(lines, "F", 0.5, only=r"^G1 .*X")


def one_layer_at_half_speed(lines, chance):
    layer = chance.randrange(10, 60)
    return in_layers(lines, layer, layer, r"^G1 F2400 ", "G1 F1200 ")


def fan_off(lines, _):
    return [line for line in lines if not line.startswith("M106")]


def fan_off_later(lines, chance):
    return inserted(lines, chance, "M107")


def fan_on_in_the_first_layer(lines, _):
    return replaced(lines, r"^M107$", "M106 S255")


def wild_acceleration(lines, _):
    return replaced(lines, f"^{engine_words(lines).inner[0]}$", "M204 S50000")


def acceleration_of_another_feature(lines, _):
    words = engine_words(lines)
    return in_layers(lines, 20, 20, f"^{words.outer}$", words.infill)


def wild_jerk(lines, _):
    return replaced(lines, r"^M205 X20 Y20$", "M205 X200 Y20")


def jerk_of_another_feature(lines, _):
    return in_layers(lines, 20, 20, r"^;TYPE:WALL-INNER$", ";TYPE:WALL-INNER\nM205 X5 Y5")


def another_engine(lines, _):
    """The file says that another engine wrote it, whose accelerations are others."""
    other = "5.0.0" if engine_words(lines) is ENGINES["4"] else "4.13.0"
    return replaced(lines, ";GENERATOR.VERSION:.*", f";GENERATOR.VERSION:{other}")


def patient_in_header(lines, _):
    return replaced(lines, "^;GENERATOR.NAME", ";PATIENT.NAME:DOE JANE\n;GENERATOR.NAME")


def patient_as_generator(lines, _):
    return replaced(lines, "GENERATOR.NAME:.*", "GENERATOR.NAME:DOE JANE 19610304")


def patient_as_version(lines, _):
    return replaced(lines, "GENERATOR.VERSION:.*", "GENERATOR.VERSION:4.13.0 DOE")


def birth_date_as_build_date(lines, _):
    return replaced(lines, "BUILD_DATE:.*", "BUILD_DATE:1961-03-04")


def patient_as_plate(lines, _):
    return replaced(lines, "BUILD_PLATE.TYPE:.*", "BUILD_PLATE.TYPE:doe")


def patient_twice_in_header(lines, _):
    return replaced(lines, "^;GENERATOR.NAME", f";{SECRET}:1\n;{SECRET}:2\n;GENERATOR.NAME")


def patient_as_engine(lines, _):
    return replaced(lines, ";Generated with.*", ";Generated with Cura_SteamEngine DOE_JANE_19610304")


def patient_as_feature(lines, chance):
    return inserted(lines, chance, f";TYPE:{SECRET}")


def birth_date_as_time(lines, _):
    return replaced(lines, "^;TIME_ELAPSED:.*", ";TIME_ELAPSED:19610304")


MUTATIONS: list[tuple[Mutation, str]] = [
    (hotter_nozzle, "temperature.nozzle"),
    (missing_layer, "layer.missing"),
    (blocked_channel, "channel.blocked"),
    (other_flavour, "header.flavour"),
    (off_the_bed, "extent.bed"),
    (doubled_speed, "speed.high"),
    (second_extruder, "extruder.second"),
    (forbidden_command, "command.forbidden"),
    (wrong_bed, "temperature.bed"),
    (path_in_comment, "comment.path"),
    (truncated, "file.end"),
    (doubled_extrusion, "extrusion.volume"),
    # further ones, each the only thing wrong with the file
    (hotter_header, "temperature.nozzle"),
    (hotter_later, "temperature.nozzle"),
    (thicker_layer, "layer.height"),
    (support_in_channel, "channel.support"),
    (other_machine, "header.machine"),
    (moved_on_the_bed, "extent.model"),
    (second_train, "extruder.second"),
    (name_in_comment, "comment.forbidden"),
    (name_in_known_comment, "comment.forbidden"),
    (tail_cut, "temperature.end"),
    (wrong_volume, "extrusion.header"),
    (two_colons, "header.form"),
    (no_time, "header.form"),
    (other_material, "header.material"),
    (unreadable_move, "command.unreadable"),
    (hidden_by_a_blank, "command.unreadable"),
    (move_hidden_by_a_blank, "command.unreadable"),
    (hidden_by_a_carriage_return, "command.unreadable"),
    (digits_of_another_script, "command.unreadable"),
    (cold_in_the_middle, "temperature.nozzle"),
    (mirrored, "channel.blocked"),
    (nozzle_dives, "extent.dive"),
    (nozzle_plunges, "extent.dive"),
    (plunge_at_the_end, "extent.dive"),
    (nozzle_ploughs_upwards, "extent.dive"),
    (thinned_layer, "extrusion.layer"),
    (one_wall_missing, "extrusion.layer"),
    (part_called_support, "extrusion.volume"),
    (blob, "extrusion.blob"),
    (blob_in_support, "extrusion.width"),
    (heap_in_support, "extrusion.heap"),
    (primed_again, "command.priming"),
    (primed_while_printing, "command.priming"),
    (filled_cavity, "filler.dense"),
    (filled_cavity, "filler.deep"),
    (plate_in_the_cavity, "filler.layer"),
    (part_in_the_cavity, "filler.other"),
    (support_in_the_cavity, "filler.other"),
    (brim_in_the_cavity, "filler.other"),
    (support_of_the_filler, "filler.other"),
    (filler_outside, "filler.outside"),
    (layer_renumbered_away, "layer.height"),
    (hot_after_the_last_line, "temperature.nozzle"),
    (hot_at_the_very_end, "temperature.nozzle"),
    (absurd_travel, "speed.travel"),
    (one_absurd_travel, "speed.travel"),
    (fast_lift, "speed.travel"),
    (fast_retraction, "speed.travel"),
    (first_layer_as_fast_as_walls, "speed.high"),
    (second_layer_as_fast_as_the_rest, "speed.high"),
    (halved_speeds, "speed.low"),
    (one_layer_at_half_speed, "speed.low"),
    (fan_off, "motion.fan"),
    (fan_off_later, "motion.fan"),
    (fan_on_in_the_first_layer, "motion.fan"),
    (wild_acceleration, "motion.acceleration"),
    (acceleration_of_another_feature, "motion.acceleration"),
    (wild_jerk, "motion.jerk"),
    (jerk_of_another_feature, "motion.jerk"),
    (another_engine, "motion.acceleration"),
    (patient_in_header, "header.text"),
    (patient_as_generator, "header.text"),
    (patient_as_version, "header.text"),
    (birth_date_as_build_date, "header.text"),
    (patient_as_plate, "header.text"),
    (patient_twice_in_header, "header.text"),
    (patient_as_engine, "comment.unknown"),
    (patient_as_feature, "comment.unknown"),
    (birth_date_as_time, "file.time"),
]
#: Spoilt in one point only, so that nothing but the check for it may speak.
ONE_FINDING = {
    nozzle_plunges, nozzle_ploughs_upwards, plunge_at_the_end, heap_in_support, primed_again,
    primed_while_printing, plate_in_the_cavity, part_in_the_cavity, filler_outside,
    hot_after_the_last_line, hot_at_the_very_end, one_absurd_travel, fast_lift, fast_retraction,
    first_layer_as_fast_as_walls, one_layer_at_half_speed, fan_off, fan_off_later, fan_on_in_the_first_layer,
    wild_acceleration, acceleration_of_another_feature, wild_jerk, jerk_of_another_feature,
    patient_as_generator, patient_as_version, birth_date_as_build_date, birth_date_as_time,
}  # fmt: skip


def spoilt(lines: Sequence[str], mutation: Mutation, folder: Path) -> Path:
    """The file spoilt in one way; which place is hit goes by the name of the way."""
    path = folder / "spoilt.gcode"
    # as bytes: nothing of it may be changed into the line ends of the system
    path.write_bytes("\n".join([*mutation(list(lines), random.Random(mutation.__name__)), ""]).encode())
    return path


def check_caught(report: AuditReport, mutation: Mutation, code: str) -> None:
    """Refused, by the right name, by nothing else where nothing else is wrong, and without a person's name."""
    assert not report.passed
    assert code in codes(report)
    if mutation in ONE_FINDING:
        assert codes(report) == {code}
    assert SECRET.casefold() not in json.dumps(report.to_document()).casefold()
