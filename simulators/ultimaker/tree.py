"""The resource tree behind the GETs: every leaf of a returned object can be fetched on its own (sheet 1, 2.3)."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from simulators.ultimaker.cluster import GROUP_UUID, HOSTNAME
from simulators.ultimaker.heat import Heater
from simulators.ultimaker.machine import Machine, Slot
from simulators.ultimaker.simulator import Simulator


class NoSuchLeafError(Exception):
    pass


def lookup(tree: Any, path: Sequence[str]) -> Any:
    """Walk names and list numbers. Raises NoSuchLeafError."""
    for name in path:
        if isinstance(tree, dict) and name in tree:
            tree = tree[name]
        elif isinstance(tree, list) and name.isdigit() and int(name) < len(tree):
            tree = tree[int(name)]
        else:
            raise NoSuchLeafError(name)
    return tree


def status_word(sim: Simulator) -> str:
    odd = sim.faults.told("odd_status")
    if odd is not None:
        return odd.value
    return "idle" if sim.faults.told("false_idle") else sim.machine.status


def printer_tree(sim: Simulator) -> dict[str, Any]:
    machine = sim.machine
    bed: dict[str, Any] = {"temperature": _temperature(machine.bed, machine.now_s())}
    tree: dict[str, Any] = {
        "bed": bed,
        "beep": {},
        "diagnostics": {},
        "heads": [_head(machine)],
        "led": {**sim.led, "blink": {}},
        "network": {
            "ethernet": {"connected": True, "enabled": True},
            "wifi": {"connected": False, "enabled": False, "mode": "CABLE", "ssid": "UM-NO-HOTSPOT-NAME-SET"},
            "wifi_networks": [],
        },
        "status": status_word(sim),
    }
    if sim.options.early_firmware:
        for extruder in tree["heads"][0]["extruders"]:
            del extruder["hotend"]["serial"], extruder["hotend"]["statistics"]
    else:
        bed.update({"pre_heat": {"active": False}, "type": "glass"})
        tree["validate_header"] = {}
    return tree


def _temperature(heater: Heater, now_s: float) -> dict[str, float]:
    return {"current": round(heater.current_c(now_s), 1), "target": heater.target_c}


def _head(machine: Machine) -> dict[str, Any]:
    now_s = machine.now_s()
    job = machine.job
    layer = None if job is None or job.phase != "printing" else job.gcode.layer_at(job.file_s(now_s))
    return {
        "acceleration": 3000.0,
        "extruders": [
            _extruder(slot, heater, number, now_s)
            for number, (slot, heater) in enumerate(zip(machine.slots, machine.nozzles, strict=True))
        ],
        "fan": 0.0 if layer is None or layer.number < 1 else 100.0,
        "jerk": {"x": 20.0, "y": 20.0, "z": 0.4},
        "max_speed": {"x": 300.0, "y": 300.0, "z": 40.0},
        "position": {"x": 210.7, "y": 172.8, "z": 16.0}
        if layer is None
        else {"x": 107.5, "y": 107.5, "z": round(layer.z_mm, 3)},
    }


def _extruder(slot: Slot, heater: Heater, number: int, now_s: float) -> dict[str, Any]:
    return {
        "active_material": {
            "GUID": slot.material,
            "guid": slot.material,
            "length_remaining": slot.length_mm,
        },
        "feeder": {"acceleration": 3000.0, "jerk": 5.0, "max_speed": 45.0},
        "hotend": {
            "id": slot.core,
            "offset": {
                "state": "valid",
                "x": 18.0 * number,
                "y": 0.0,
                "z": 1.5 * number,
            },
            "serial": slot.serial,
            "statistics": {
                "last_material_guid": slot.material,
                "material_extruded": 0,
                "max_temperature_exposed": int(max(heater.target_c, 0.0)),
                "time_spent_hot": 0,
            },
            "temperature": _temperature(heater, now_s),
        },
    }


def job_tree(sim: Simulator) -> dict[str, Any] | None:
    """The job object, or None = 404."""
    machine = sim.machine
    if machine.job is None or sim.faults.told("job_404"):
        return None
    options = sim.options
    shown = machine.job.view(
        machine.now_s(),
        early=options.early_firmware,
        scale=options.progress_scale,
        none_word=options.none_word,
    )
    odd = sim.faults.told("odd_state")
    if odd is not None:
        shown["state"] = odd.value
    told: dict[str, Any] = told_times(sim, shown)
    return told


def told_times(sim: Simulator, found: Any) -> Any:
    """The same with every time as the machine's own clock tells it (`Options.clock_offset_s`)."""
    if not sim.options.clock_offset_s:
        return found
    if isinstance(found, list):
        return [told_times(sim, item) for item in found]
    return {
        key: _shifted(value, sim.options.clock_offset_s)
        if key == "time" or key.startswith("datetime_")
        else value
        for key, value in found.items()
    }


def _shifted(value: object, seconds: float) -> object:
    if not isinstance(value, str) or not value:
        return value
    return (datetime.fromisoformat(value) + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%S")


def system_tree(sim: Simulator) -> dict[str, Any]:
    machine = sim.machine
    return {
        "country": "",
        "display_message": {},
        "firmware": sim.options.firmware,
        "guid": GROUP_UUID,
        "hardware": {"revision": 0, "typeid": sim.options.typeid},
        "hostname": HOSTNAME,
        "is_country_locked": False,
        "language": "en",
        "log": [],
        "memory": {"total": 524288000, "used": 181403648},
        "name": sim.options.name,
        "platform": "Linux",
        "time": {"utc": machine.now_s() + sim.options.clock_offset_s},
        "type": "3D printer",
        "uptime": int(machine.now_s() - machine.booted_s),
        "variant": sim.options.variant,
    }


def camera_tree(host: str) -> dict[str, Any]:
    """Where the stream is: on port 8080 of a real printer, here on the simulator's own."""
    return {"feed": f"http://{host}/?action=stream"}


def material_xml(guid: str, brand: str, name: str, colour: str) -> str:
    return (
        '<?xml version="1.0" encoding="utf-8"?>'
        '<fdmmaterial xmlns="http://www.ultimaker.com/material" version="1.3"><metadata><name>'
        f"<brand>{brand}</brand><material>{name}</material><color>{colour}</color></name>"
        f"<GUID>{guid}</GUID><version>1</version></metadata>"
        "<properties><diameter>2.85</diameter></properties></fdmmaterial>"
    )


BUILT_IN_MATERIALS = {
    guid: material_xml(guid, brand, name, colour)
    for guid, brand, name, colour in (
        ("506c9f0d-e3aa-4bd4-b2d2-23e2425b1aa9", "Generic", "PLA", "Generic"),
        ("9d5d2d7c-4e77-441c-85a0-e9eefd4aa68c", "Generic", "Tough PLA", "Generic"),
        ("3ee70a86-77d8-4b87-8005-e4a1bc57d2ce", "Ultimaker", "PLA", "Black"),
        ("e509f649-9fe6-4b14-ac45-d441438cb4ef", "Ultimaker", "PLA", "White"),
        ("86a89ceb-4159-47f6-ab97-e9953803d70f", "Generic", "PVA", "Generic"),
    )
}
