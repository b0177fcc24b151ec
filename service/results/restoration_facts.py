"""What a report says about height and angle after the cement, as label and text; used on paper."""

from __future__ import annotations

from collections.abc import Mapping

from service.results.values import mapping, number

_PLACES = ("anterior", "middle", "posterior")


def restoration_facts(part: Mapping[str, object]) -> list[tuple[str, str]]:
    """Rows for the `restoration` part of a verification report; what is missing is said to be missing."""
    rows = [("Height before, mm", _by_place(part, "before_mm"))]
    after = [_with_bar(part, place) for place in _PLACES]
    rows.append(("Height after cement, mm", ", ".join(after) + " (k = 2)"))
    rows.append(("Intact neighbours, mm", _by_place(part, "normal_mm")))
    rows.append(("Height regained, %", _by_place(part, "recovery_percent", 0)))
    cobb = mapping(part.get("cobb_deg"))
    before, now, bar = (number(cobb.get(k)) for k in ("before", "after", "uncertainty"))
    if before is not None and now is not None and bar is not None:
        rows.append(
            ("Cobb angle", f"{before:.1f}° before, {now:.1f}° ± {bar:.1f}° after (k = 2), kyphosis positive")
        )
    else:
        rows.append(("Cobb angle", "not measured"))
    reasons = part.get("reasons")
    if isinstance(reasons, list) and reasons:
        rows.append(("Height and angle", " ".join(str(r) for r in reasons)))
    return rows


def _by_place(part: Mapping[str, object], key: str, digits: int = 1) -> str:
    values = mapping(part.get(key))
    return ", ".join(f"{p} {_text(number(values.get(p)), digits)}" for p in _PLACES)


def _with_bar(part: Mapping[str, object], place: str) -> str:
    value = number(mapping(part.get("after_mm")).get(place))
    bar = number(mapping(part.get("uncertainty_mm")).get(place))
    return f"{place} {_text(value, 1)}" + ("" if value is None or bar is None else f" ± {bar:.1f}")


def _text(value: float | None, digits: int) -> str:
    return "not measured" if value is None else f"{value:.{digits}f}"
