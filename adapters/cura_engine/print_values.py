"""What we ask of the engine: the print settings on top of UltiMaker's profile, for each release of its definitions."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from service.ports import SliceSettings

CURA_4_LAST_SETTING_VERSION = 19


@dataclass(frozen=True)
class Releases:
    """Setting versions, both ends included: 19 is Cura 4.13, 20 is 5.0 to 5.2, 21 is 5.3, 26 is 5.12."""

    first: int = 0
    last: int = sys.maxsize


#: Settings of ours that not every release has or wants. By Cura's own upgrade steps up to 5.13 (plugins/VersionUpgrade,
#: removed and renamed settings) only the first was taken away: from 5.0 on lines of varying width fill what it filled.
#: Why the others are given to 5.0 and later: `_from_5_0`.
ONLY_IN: Mapping[str, Releases] = {
    "fill_perimeter_gaps": Releases(last=CURA_4_LAST_SETTING_VERSION),
    "speed_equalize_flow_width_factor": Releases(first=CURA_4_LAST_SETTING_VERSION + 1),
    "retraction_combing": Releases(first=CURA_4_LAST_SETTING_VERSION + 1),
}


@dataclass(frozen=True)
class CuraEngineConfig:
    """How to run the engine. `engine` and `resources` come from [slicer] of the configuration.

    The print values below are not clinical: they are Cura's, or measured on shells of 2 mm (see
    `solid_values`). `threads` is 1 because lightning infill of 4.13 depends on the order in which threads
    finish: with 2, eight runs gave eight files; with 1, one. It costs little: 26 s against 25 s on two busy
    cores for a part of 77,000 faces. CuraEngine 5.0 gives another file each time also with 1: on a small part a dozen
    lines have a point more or less, the figures are the same.
    """

    engine: Path | None = None
    resources: Path | None = None
    threads: int = 1
    timeout_s: float = 1800.0
    support_structure: Literal["tree", "normal"] = "tree"
    support_angle_deg: float = 60.0
    brim_mm: float = 7.0
    filler_line_distance_mm: float = 4.2
    work_folder: Path | None = None


def solid_values() -> dict[str, object]:
    """Walls without voids.

    A 2 mm wall is filled by lines that follow its faces (three from each side), gap filling between them,
    and skin lines wherever room is left; "every layer is bottom skin" is what Cura's window does at 100 %
    infill. Measured on a curved 2 mm shell with a sleeve, 4.13, share of the section not under a line /
    radius of the largest void / print time: two walls with 100 % infill 6.3 % / 0.38 mm / 36 min, the profile's
    three walls 3.8 % / 0.23 mm / 38 min;
    these values 2.2 % / 0.12 mm / 41 min; two walls with skin 1.4 % / 0.07 mm / 48 min.
    """
    return {
        "infill_sparse_density": 100,
        "wall_line_count": 6,
        "fill_perimeter_gaps": "everywhere",
        "top_layers": 0,
        "bottom_layers": 999999,
    }


def _from_5_0() -> dict[str, object]:
    """What lines of varying width (from Cura 5.0 on) need besides.

    The profile prints a narrow line faster than a wide one (up to 66 mm/s where 40 were ordered); at 0 every line has
    the speed that was ordered, as in 4.13. Where the nozzle may travel inside the part without drawing back (combing)
    is worked out with two margins, and CuraEngine 5.0.0 ends with a failed assertion (Comb.cpp, "The part we end up
    inside when combing should have been computed already!") where a point is inside by the one and not by the other:
    on a vertebra as soon as the cavity's body is there, with "all", "noskin" and the profile's "no_outer_surfaces".
    "infill" has no margins. "off" works too; the print then takes 4.5 h instead of 3.8.
    """
    return {"speed_equalize_flow_width_factor": 0.0, "retraction_combing": "infill"}


def filler_values(line_distance_mm: float) -> dict[str, object]:
    """Settings of the cavity body: no walls or skin, sparse lightning infill under its roof only.

    The engine's command line derives nothing for one mesh, so each derived value is given.
    """
    return {
        "wall_line_count": 0,
        "top_layers": 0,
        "bottom_layers": 0,
        "initial_bottom_layers": 0,
        "infill_pattern": "lightning",
        "infill_sparse_density": 10,
        "infill_line_distance": line_distance_mm,
        "infill_material_flow": 100,
        "support_enable": False,
    }


def blocker_values() -> dict[str, object]:
    """Settings of the body that keeps supports out of channels and vents."""
    return {"anti_overhang_mesh": True}


def print_values(
    settings: SliceSettings, config: CuraEngineConfig, setting_version: int
) -> dict[str, object]:
    """The user layer on top of UltiMaker's profile: the paper's print settings, literally.

    The profile would print the first layer hotter (+5 C) and thicker (0.27 mm); both are pinned. That of Cura 5 would
    also make every layer 0.02 mm smaller all round (`xy_offset`): the part has the size of the model instead.
    `setting_version` is that of the definitions: settings which they do not have are left out (`ONLY_IN`).
    """
    values = {
        "machine_extruder_count": 1,
        "extruders_enabled_count": 1,
        "extruder_nr": 0,
        "material_guid": settings.material_guid,
        "layer_height": settings.layer_mm,
        "layer_height_0": settings.layer_mm,
        "speed_print": settings.print_speed_mm_s,
        **dict.fromkeys(
            (
                "material_print_temperature",
                "material_print_temperature_layer_0",
                "material_initial_print_temperature",
                "material_final_print_temperature",
            ),
            settings.nozzle_c,
        ),
        "material_bed_temperature": settings.bed_c,
        "material_bed_temperature_layer_0": settings.bed_c,
        "adhesion_type": "brim" if settings.brim else "none",
        "brim_width": config.brim_mm,
        "support_enable": settings.support,
        "support_structure": config.support_structure,
        # "everywhere" fills the channel with a metre of support (reference/slicing.md, section 3)
        "support_type": "buildplate",
        "support_angle": config.support_angle_deg,
        "prime_tower_enable": False,
        "xy_offset": 0.0,
        **solid_values(),
        **_from_5_0(),
    }
    return {key: value for key, value in values.items() if _there(key, setting_version)}


def _there(key: str, setting_version: int) -> bool:
    releases = ONLY_IN.get(key)
    return releases is None or releases.first <= setting_version <= releases.last


def by_hand(settings: SliceSettings, config: CuraEngineConfig) -> dict[str, object]:
    """All of the above as a document, for somebody who slices with Cura's own window.

    Nothing is known about that Cura: settings that are only for some releases are all there, and named with the first
    and the last of them (None: no last one).
    """
    every = {**print_values(settings, config, 0), **print_values(settings, config, sys.maxsize)}
    return {
        "schema": "spineprint.print-settings/1",
        "printer": "Ultimaker 3, left head with print core AA 0.4",
        "material": "PLA, 2.85 mm",
        "profile": "Draft (0.2 mm)",
        "print": asdict(settings),
        "cura": {
            "all": every,
            "filler": filler_values(config.filler_line_distance_mm),
            "blocker": blocker_values(),
        },
        "only_in_setting_versions": {
            key: [releases.first, releases.last if releases.last < sys.maxsize else None]
            for key, releases in ONLY_IN.items()
            if key in every
        },
    }
