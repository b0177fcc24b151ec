"""What somebody needs who slices by hand, because there is no engine here."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from service.errors import ToolMissingError

SETTINGS_FILE = "print.settings.json"
_MESHES = {"part": "print_mesh", "filler": "filler", "blocker": "blocker"}


def hand_over(missing: ToolMissingError, argument: Mapping[str, Any]) -> ToolMissingError:
    """`missing` with the names of the meshes and the settings; the settings are also written as a file.

    The file goes to the folder `by_hand` of the task's argument (where the meshes lie), else to `out`. No path is
    told in the details: they are shown to people who have no access to it, and a folder may bear a name.
    """
    files = {words: Path(argument[key]).name for words, key in _MESHES.items() if argument.get(key)}
    settings = missing.details.get("settings")
    step = f"{missing.next_step} Until then slice {', '.join(files.values())} by hand in Cura"
    if settings is not None and _written(settings, Path(argument.get("by_hand") or argument["out"])):
        step += f" with the settings in {SETTINGS_FILE}"
    where = f"; all are in {argument['by_hand']}" if argument.get("by_hand") else ""
    return ToolMissingError(
        missing.message,
        next_step=f"{step}{where}.",
        code=missing.code,
        details={**missing.details, "files": files},
    )


def _written(settings: object, folder: Path) -> bool:
    try:
        (folder / SETTINGS_FILE).write_text(json.dumps(settings, indent=2, sort_keys=True), "utf-8")
    except OSError:  # what is missing stays the message; the settings are in its details too
        return False
    return True
