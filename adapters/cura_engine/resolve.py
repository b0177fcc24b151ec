"""Flatten UltiMaker's printer definitions into the single file CuraEngine reads.

CuraEngine's command line takes the plain default of every setting and ignores the derived values; Cura's
front end computes those. Without it the first layer would be hotter and thicker and the travel slower than
asked (Cura developers, CuraEngine issue 469). So the stack is built here as the front end builds it, lowest
first: printer definition, left extruder, print core AA 0.4, PLA, quality "Draft" (UltiMaker's 0.2 mm
profile), our own settings.
"""

from __future__ import annotations

import configparser
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from adapters.cura_engine.expressions import Evaluator, ExpressionError
from service.errors import ToolMissingError

PRINTER = "ultimaker3"
EXTRUDER = "ultimaker3_extruder_left"
VARIANT = "variants/ultimaker3_aa04.inst.cfg"
QUALITIES = (
    "quality/ultimaker3/um3_global_Draft_Quality.inst.cfg",
    "quality/ultimaker3/um3_aa0.4_PLA_Draft_Print.inst.cfg",
)
REQUIRED_FILES = (
    "definitions/fdmprinter.def.json",
    "definitions/fdmextruder.def.json",
    f"definitions/{PRINTER}.def.json",
    f"extruders/{EXTRUDER}.def.json",
    VARIANT,
    *QUALITIES,
)

# Generic PLA on an Ultimaker 3 with AA 0.4, from UltiMaker's fdm-materials (generic_pla.xml.fdm_material
# version 25, CC0). Nine values do not justify another package.
GENERIC_PLA: Mapping[str, object] = {
    "material_diameter": 2.85,
    "default_material_print_temperature": 200,
    "material_bed_temperature": 60,
    "material_standby_temperature": 175,
    "material_adhesion_tendency": 0,
    "material_surface_energy": 100,
    "build_volume_temperature": 28,
    "cool_fan_speed": 100,
}

_REINSTALL = (
    "Fetch the definitions again (`deploy/fetch-cura-definitions.sh .cache/cura-resources`) or reinstall "
    "UltiMaker Cura."
)


_OTHER_RELEASE = (
    "Use the CuraEngine of Debian or Ubuntu (4.13 or 5.0) with its definitions, or another release of "
    "UltiMaker Cura: [slicer] engine and resources. Please report which release it was."
)


@dataclass(frozen=True)
class FlatDefinition:
    """All settings of one printer with one extruder, every one computed.

    `values` maps setting key to value; `types` to Cura's setting type; `name` and `setting_version` tell
    which definitions they came from.
    """

    name: str
    setting_version: str
    values: Mapping[str, object]
    types: Mapping[str, str]
    ignored: tuple[str, ...] = field(default=())
    """Keys of the stack that this release of the definitions does not have."""

    def to_json(self) -> str:
        """The flat definition file: one category, each value as text in `default_value`."""
        children = {
            key: {"label": key, "type": self.types[key], "default_value": as_engine_text(value)}
            for key, value in sorted(self.values.items())
        }
        document = {
            "name": self.name,
            "version": 2,
            "metadata": {"type": "machine"},
            "settings": {"all": {"label": "All", "type": "category", "children": children}},
        }
        return json.dumps(document, ensure_ascii=True, indent=0, sort_keys=True)


def as_engine_text(value: object) -> str:
    """A setting value as CuraEngine's command line and definition reader expect it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        # shortest form that reads back the same, without an exponent the engine would misread
        text = repr(round(value, 9))
        return f"{value:.9f}" if "e" in text else text.removesuffix(".0")
    if isinstance(value, list | tuple):
        return "[" + ",".join(as_engine_text(item) for item in value) + "]"
    return str(value)


def setting_version_of(resources: Path) -> int:
    """Which release the definitions are of (19 is Cura 4.13, 20 is 5.0); 0 when they do not say.

    Raises ToolMissingError when they cannot be read.
    """
    _, meta = _definition(resources, "definitions", PRINTER)
    stated = str(meta.get("setting_version", ""))
    return int(stated) if stated.isdecimal() else 0


def flatten(resources: Path, user: Mapping[str, object]) -> FlatDefinition:
    """Build and compute the whole stack from one `resources` folder, `user` on top.

    Raises ToolMissingError when a file is absent or unreadable, a user setting is unknown to these
    definitions, or any expression cannot be computed: a silently wrong temperature is worse than no file.
    """
    settings, meta = _definition(resources, "definitions", PRINTER)
    extruder_settings, _ = _definition(resources, "extruders", EXTRUDER)
    settings.update(extruder_settings)

    layers: list[Mapping[str, object]] = [
        _profile(resources, VARIANT),
        GENERIC_PLA,
        *(_profile(resources, quality) for quality in QUALITIES),
    ]
    overrides: dict[str, object] = {}
    for layer in layers:
        overrides.update(layer)
    ignored = tuple(sorted(key for key in overrides if key not in settings))
    unknown = sorted(key for key in user if key not in settings)
    if unknown:
        raise ToolMissingError(
            f"These printer definitions (setting version {meta.get('setting_version', 'not stated')}) do not have the "
            f"settings {', '.join(unknown)}.",
            next_step=_OTHER_RELEASE,
            code="tool.definitions",
        )
    overrides.update(user)
    values = _Stack(settings, overrides).all_values()
    types = {key: str(entry.get("type", "str")) for key, entry in settings.items()}
    return FlatDefinition(
        name=str(meta.get("name", PRINTER)),
        setting_version=str(meta.get("setting_version", "")),
        values=values,
        types=types,
        ignored=ignored,
    )


class _Stack:
    """Computes settings on demand, each once; a circle of definitions is an error."""

    def __init__(self, settings: Mapping[str, dict[str, object]], overrides: Mapping[str, object]) -> None:
        self._settings = settings
        self._overrides = overrides
        self._known: dict[str, object] = {}
        self._open: list[str] = []
        self._evaluator = Evaluator(self.value)

    def all_values(self) -> dict[str, object]:
        return {key: self.value(key) for key in self._settings}

    def value(self, key: str) -> object:
        if key in self._known:
            return self._known[key]
        if key not in self._settings:
            raise KeyError(key)
        if key in self._open:
            raise ExpressionError(f"settings refer to each other in a circle: {' -> '.join(self._open)}")
        self._open.append(key)
        try:
            value = self._compute(key)
        except ExpressionError as error:
            raise ToolMissingError(
                f"The printer definitions cannot be computed at setting '{key}': {error}.",
                next_step=_REINSTALL,
                code="tool.definitions",
            ) from error
        finally:
            self._open.pop()
        self._known[key] = value
        return value

    def _compute(self, key: str) -> object:
        entry = self._settings[key]
        kind = str(entry.get("type", "str"))
        if key in self._overrides:
            raw = self._overrides[key]
            if isinstance(raw, str) and raw.startswith("="):
                return _typed(self._evaluator.evaluate(raw[1:]), kind)
            return _typed(raw, kind)
        if "value" in entry:
            raw = entry["value"]
            return _typed(self._evaluator.evaluate(raw) if isinstance(raw, str) else raw, kind)
        return _typed(entry.get("default_value", ""), kind)


def _typed(value: object, kind: str) -> object:
    """Literals in the files are sometimes text ("0.2", "True"); give them the type of their setting."""
    if not isinstance(value, str):
        return bool(value) if kind == "bool" else value
    text = value.strip()
    try:
        if kind == "float":
            return float(text)
        if kind == "int":
            return int(float(text))
    except ValueError as error:
        raise ExpressionError(f"'{text}' is not a number") from error
    if kind == "bool":
        return text.lower() in {"true", "yes", "on", "1"}
    if kind.startswith(("[", "polygon")):
        return json.loads(text) if text else []
    return value


def _definition(
    resources: Path, folder: str, name: str
) -> tuple[dict[str, dict[str, object]], dict[str, object]]:
    """Settings of a definition and all it inherits from, children over parents; with merged metadata."""
    path = resources / folder / f"{name}.def.json"
    if not path.exists():
        path = resources / "definitions" / f"{name}.def.json"
    document = _read_json(path)
    settings: dict[str, dict[str, object]] = {}
    metadata: dict[str, object] = {}
    parent = document.get("inherits")
    if isinstance(parent, str):
        settings, metadata = _definition(resources, folder, parent)
    _collect(_mapping(document.get("settings")), settings)
    for key, properties in _mapping(document.get("overrides")).items():
        settings[key] = {**settings.get(key, {}), **_mapping(properties)}
    metadata = {**metadata, **_mapping(document.get("metadata")), "name": document.get("name", name)}
    return settings, metadata


def _collect(tree: Mapping[str, object], into: dict[str, dict[str, object]]) -> None:
    for key, raw in tree.items():
        entry = _mapping(raw)
        if entry.get("type") != "category":
            into[key] = {name: entry[name] for name in ("type", "default_value", "value") if name in entry}
        _collect(_mapping(entry.get("children")), into)


def _profile(resources: Path, relative: str) -> dict[str, object]:
    """The [values] of an instance profile (.inst.cfg)."""
    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read_string((resources / relative).read_text(encoding="utf-8"))
        return dict(parser["values"]) if parser.has_section("values") else {}
    except (OSError, configparser.Error, UnicodeDecodeError) as error:
        raise _unreadable(relative) from error


def _read_json(path: Path) -> dict[str, object]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _unreadable(path.name) from error
    if not isinstance(document, dict):
        raise _unreadable(path.name)
    return document


def _unreadable(name: str) -> ToolMissingError:
    return ToolMissingError(
        f"The printer definition file {name} is missing or cannot be read.",
        next_step=_REINSTALL,
        code="tool.definitions",
    )


def _mapping(value: object) -> dict[str, object]:
    return value if isinstance(value, dict) else {}
