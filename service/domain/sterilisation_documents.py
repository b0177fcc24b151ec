"""Sterilisation values to and from plain JSON documents, for stores and wires.

Strict when reading: an unknown or missing field is a fault, never skipped.
"""

from __future__ import annotations

import enum
import types
import typing
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from datetime import datetime
from typing import Any, TypeVar

from service.errors import InputRefusedError

T = TypeVar("T")


def to_document(value: Any) -> dict[str, object]:
    """JSON-able form of an Item, Load, BiologicalIndicator, Steriliser, RecallSet or Incident."""
    if not is_dataclass(value) or isinstance(value, type):
        raise TypeError(f"{type(value).__name__} has no document form")
    return {f.name: _plain(getattr(value, f.name)) for f in fields(value)}


def from_document(kind: type[T], document: Mapping[str, object]) -> T:
    """Rebuild a value of `kind`.

    Raises
    ------
    InputRefusedError : with code `sterilisation.document` and the place of the fault.
    """
    return typing.cast(T, _build(kind, document, kind.__name__))


def _plain(value: Any) -> object:
    if is_dataclass(value) and not isinstance(value, type):
        return to_document(value)
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, tuple | list):
        return [_plain(v) for v in value]
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    return typing.cast(object, value)


def _build(kind: Any, raw: Any, where: str) -> Any:
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        options = [k for k in typing.get_args(kind) if k is not type(None)]
        return None if raw is None else _build(options[0], raw, where)
    if typing.get_origin(kind) is tuple:
        return _build_tuple(typing.get_args(kind), raw, where)
    if is_dataclass(kind):
        return _build_dataclass(kind, raw, where)
    if typing.get_origin(kind) is not None or kind is Mapping:
        return dict(raw) if isinstance(raw, Mapping) else _refuse(where, "expected an object")
    return _build_scalar(kind, raw, where)


def _build_dataclass(kind: Any, raw: Any, where: str) -> Any:
    if not isinstance(raw, Mapping):
        _refuse(where, "expected an object")
    hints = typing.get_type_hints(kind)
    names = {f.name for f in fields(kind)}
    if names != set(raw):
        _refuse(where, f"fields differ: {', '.join(sorted(names ^ set(raw)))}")
    return kind(**{n: _build(hints[n], raw[n], f"{where}.{n}") for n in names})


def _build_tuple(arguments: tuple[Any, ...], raw: Any, where: str) -> tuple[Any, ...]:
    if not isinstance(raw, list | tuple):
        _refuse(where, "expected a list")
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        return tuple(_build(arguments[0], v, where) for v in raw)
    if len(arguments) != len(raw):
        _refuse(where, f"expected {len(arguments)} values")
    return tuple(_build(a, v, where) for a, v in zip(arguments, raw, strict=True))


def _build_scalar(kind: Any, raw: Any, where: str) -> Any:
    try:
        if kind is datetime:
            value = datetime.fromisoformat(raw)
            return value if value.tzinfo is not None else _refuse(where, "the time has no zone")
        if isinstance(kind, type) and issubclass(kind, enum.Enum):
            return kind(raw)
    except (TypeError, ValueError):
        _refuse(where, f"not a {kind.__name__}")
    if kind is float and isinstance(raw, int | float) and not isinstance(raw, bool):
        return float(raw)
    if isinstance(raw, bool) is not (kind is bool) or not isinstance(raw, kind):
        _refuse(where, f"not a {kind.__name__}")
    return raw


def _refuse(where: str, what: str) -> typing.NoReturn:
    raise InputRefusedError(
        f"The sterilisation record is not readable at {where}: {what}.",
        next_step="Verify the audit chain of this record; restore it from a backup if it was changed.",
        code="sterilisation.document",
        details={"where": where},
    )
