"""What a report says about cement, as label and text; used on paper."""

from __future__ import annotations

from collections.abc import Mapping

from service.results.values import mapping, number

_CONTACT = {
    "A": "both endplates",
    "B1": "the upper endplate only",
    "B2": "the lower endplate only",
    "B3": "neither endplate",
}
_FILL = {
    "volume_body": "of the body's volume",
    "volume_fillable": "of the fillable interior",
    "lateral_area": "of the lateral picture's area",
    "hull_body": "its hull, of the body's volume",
}


def cement_facts(cement: Mapping[str, object]) -> list[tuple[str, str]]:
    """Rows for the `cement` part of a verification report; what is missing is said to be missing."""
    volume, bar = number(cement.get("volume_ml")), number(cement.get("uncertainty_ml"))
    text = "not measured" if volume is None else f"{volume:.2f} ml"
    if volume is not None and bar is not None:
        text += f" ± {bar:.2f} (k = 2)"
    if cement.get("needle_excluded"):
        text += ", needle left out"
    fill = mapping(cement.get("fill_percent"))
    known = [f"{v:.0f} % {words}" for key, words in _FILL.items() if (v := number(fill.get(key))) is not None]
    rows = [("Cement volume", text), ("Fill by measure", "; ".join(known) or "not measured")]
    rows += _distribution(mapping(cement.get("distribution")))
    leaks = cement.get("leaks")
    if isinstance(leaks, list):
        rows.append(("Leaks seen in the scan", "; ".join(_leak(v) for v in leaks) or "none found"))
    else:
        rows.append(("Leaks seen in the scan", "not assessed"))
    for key, label in (("warnings", "Doubtful"), ("not_measured", "Not measured")):
        said = cement.get(key)
        if isinstance(said, list) and said:
            rows.append((label, " ".join(str(s) for s in said)))
    return rows


def _distribution(part: Mapping[str, object]) -> list[tuple[str, str]]:
    shares = [
        f"{name} {v:.0f} %"
        for name in ("left", "right", "anterior", "middle", "posterior")
        if (v := number(part.get(f"{name}_percent"))) is not None
    ]
    if not shares:
        return []
    contact = _CONTACT.get(str(part.get("endplate_contact")), "not assessed")
    return [("Distribution in the body", ", ".join(shares) + f"; touches {contact}")]


def _leak(leak: object) -> str:
    part = mapping(leak)
    if not part:
        return str(leak)
    volume = number(part.get("volume_ml"))
    words = [str(part[k]) for k in ("place", "location") if part.get(k)]
    words += [f"type {part['type']}"] if part.get("type") else []
    return ", ".join(words + ([] if volume is None else [f"{volume:.2f} ml"]))
