"""The commented example configuration names every key, shows the real defaults and is accepted."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import BaseModel

from service.config import Config, load_config
from service.config_sterilisation import Stated

EXAMPLE = Path(__file__).parents[2] / "deploy" / "spineprint.example.toml"
_COMMENTED_KEY = re.compile(r"^#(?=[a-z0-9_]+ = )", re.MULTILINE)


@pytest.fixture(scope="module")
def text() -> str:
    return EXAMPLE.read_text("utf-8")


def _model_of(annotation: Any) -> type[BaseModel] | None:
    """The section behind `Section` or `tuple[Section, ...]`."""
    for candidate in (annotation, *get_args(annotation)):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
    return None


def _keys(model: type[BaseModel], prefix: str = "") -> dict[str, Any]:
    """Every key with its default; keys of listed sections are written with []."""
    found: dict[str, Any] = {}
    for name, field in model.model_fields.items():
        section = _model_of(field.annotation)
        if section is None:
            found[prefix + name] = field.default
        elif isinstance(field.default, Stated):
            # A value with its provenance: the three keys have no default of their own, the whole has.
            found |= {f"{prefix}{name}.{k}": v for k, v in field.default.model_dump(mode="json").items()}
        else:
            found |= _keys(section, f"{prefix}{name}{'[]' if section is not field.annotation else ''}.")
    return found


def _given(document: dict[str, Any], prefix: str = "") -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    for name, value in document.items():
        if isinstance(value, dict):
            parts = [(f"{prefix}{name}.", value)]
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            parts = [(f"{prefix}{name}[].", entry) for entry in value]
        else:
            found.setdefault(prefix + name, []).append(value)
            continue
        for place, entry in parts:
            for key, values in _given(entry, place).items():
                found.setdefault(key, []).extend(values)
    return found


def test_example_as_it_stands_is_a_valid_configuration() -> None:
    config = load_config(EXAMPLE, environ={})
    assert {r for p in config.dicom.peers for r in p.roles} == {"planning_ct", "oarm", "pacs"}
    assert config.dicom.require_known_peers
    assert not config.simulation.enabled


def test_example_names_exactly_the_keys_that_exist(text: str) -> None:
    everything = tomllib.loads(_COMMENTED_KEY.sub("", text))
    assert set(_given(everything)) == set(_keys(Config))
    Config.model_validate(everything)


def test_commented_keys_show_the_real_defaults(text: str) -> None:
    active = _given(tomllib.loads(text))
    everything = _given(tomllib.loads(_COMMENTED_KEY.sub("", text)))
    defaults = _keys(Config)
    shown = {k: v[0] for k, v in everything.items() if k not in active and defaults[k] is not None}
    assert len(shown) >= 20
    assert shown == {k: defaults[k] for k in shown}


def test_addresses_are_of_the_range_reserved_for_documentation(text: str) -> None:
    config = load_config(EXAMPLE, environ={})
    hosts = [p.host for p in config.dicom.peers] + [p.url.removeprefix("http://") for p in config.printers]
    assert hosts and all(h.startswith("192.0.2.") for h in hosts)  # RFC 5737
