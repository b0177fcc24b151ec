"""POST /printer/validate_header: what the machine has to say about a file (reference sheet section 6.4)."""

from __future__ import annotations

from typing import Any

from simulators.ultimaker.gcode import GcodeFile
from simulators.ultimaker.machine import Machine
from simulators.ultimaker.options import Options


def header_findings(gcode: GcodeFile, machine: Machine, options: Options) -> list[dict[str, Any]]:
    """Findings in the printer's own words; empty = fine. Levels and data as the switches have them."""
    return [_switched(finding, options) for finding in _found(gcode, machine, options)]


def _switched(finding: dict[str, Any], options: Options) -> dict[str, Any]:
    level = options.finding_level
    if "=" in level:
        levels = dict(item.split("=", 1) for item in level.split(","))
        level = levels.get(finding["fault_code"], "")
    data = {"dict": finding["data"], "none": ""}.get(options.finding_data, "[{'slot': 1, 'expects': 'this'}]")
    return finding | {"fault_level": level or finding["fault_level"], "data": data}


def _found(gcode: GcodeFile, machine: Machine, options: Options) -> list[dict[str, Any]]:
    if not gcode.has_header:
        return [_finding("HEADER_NOT_PRESENT", "ERROR", "No header found")]
    found = [
        _finding("HEADER_MISSING_ITEM", "ERROR", "Header item missing or wrong", {"item": item})
        for item in gcode.header_faults
    ]
    room = {"X": options.width_mm, "Y": options.depth_mm, "Z": options.height_mm}
    for axis, size_mm in room.items():
        if gcode.number(f"PRINT.SIZE.MAX.{axis}") > size_mm or gcode.number(f"PRINT.SIZE.MIN.{axis}") < 0:
            found.append(
                _finding("MACHINE_TOO_SMALL_FOR_GCODE", "ERROR", "Print does not fit", {"axis": axis})
            )
    if len([s for s in machine.slots if s.core]) < len(machine.slots):
        found.append(_finding("NOZZLE_AMOUNT_MISMATCH", "ERROR", "A print core is missing"))
    for index in gcode.trains:
        found += _slot_findings(gcode, machine, index)
    return found


def _slot_findings(gcode: GcodeFile, machine: Machine, index: int) -> list[dict[str, Any]]:
    slot = machine.slots[index]
    core = gcode.header.get(f"EXTRUDER_TRAIN.{index}.NOZZLE.NAME", "")
    guid = gcode.header.get(f"EXTRUDER_TRAIN.{index}.MATERIAL.GUID", "").lower()
    found = []
    if core and core != slot.core:
        found.append(
            _finding("NOZZLE_MISMATCH", "WARNING", "Other print core", {"index": index, "wanted": core})
        )
    if not slot.material:
        found.append(_finding("MATERIAL_NOT_LOADED", "ERROR", "No material loaded", {"index": index}))
    elif guid and guid != slot.material.lower():
        found.append(_finding("GUID_MISMATCH", "WARNING", "Other material", {"index": index, "wanted": guid}))
    return found


def _finding(code: str, level: str, message: str, data: dict[str, Any] | None = None) -> dict[str, Any]:
    # the printer writes the dictionary as a text
    return {"fault_code": code, "fault_level": level, "message": message, "data": str(data) if data else ""}
