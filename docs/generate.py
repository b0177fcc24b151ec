"""Rewrites the parts of the documentation that follow from the code.

    .venv/bin/python docs/generate.py          rewrite
    .venv/bin/python docs/generate.py --check  say which pages are behind, change nothing (exit code 1)

A generated part stands between `<!-- generated: NAME -->` and `<!-- end generated -->`.
"""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "docs"))

from dicom_parts import DICOM_PARTS, Part  # noqa: E402 - beside this file, which the tests load by its path

_PART = re.compile(r"(<!-- generated: ([a-z-]+) -->\n)(.*?)(<!-- end generated -->)", re.DOTALL)
_CODE = re.compile(r"[a-z_]+\.[a-z_]+")


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join(lines)


def case_events() -> str:
    from service.domain.case import ACTIVE, RULES

    rows = []
    for event, rule in RULES.items():
        sources = (
            "any active state"
            if len(rule.sources) > len(ACTIVE) - 3
            else ", ".join(s.value for s in rule.sources)
        )
        target = rule.target.value if rule.target else "kept, or where it was parked"
        roles = sorted(r.value for r in rule.roles)
        who = "the service" if not roles else "anyone logged in" if len(roles) > 6 else ", ".join(roles)
        rows.append((f"`{event.value}`", sources, target, who, ", ".join(rule.guards) or "-"))
    return table(("event", "from", "to", "who", "guards"), rows)


def print_states() -> str:
    from service.domain.print_job import NEXT

    return table(
        ("state", "may become"),
        [
            (s.value, ", ".join(sorted(t.value for t in after if t is not s)) or "end")
            for s, after in NEXT.items()
        ],
    )


def sterilisation() -> str:
    from service.domain import sterilisation as rules

    parts = []
    for title, transitions in (
        ("Item", rules.ITEM_TRANSITIONS),
        ("Load", rules.LOAD_TRANSITIONS),
        ("Biological indicator", rules.BI_TRANSITIONS),
        ("Steriliser", rules.STERILISER_TRANSITIONS),
    ):
        rows = [
            (f"`{t.event}`", ", ".join(map(str, t.sources)), str(t.target) or "by its result", ", ".join(t.roles),
             ", ".join(t.guards) or "-")
            for t in transitions
        ]  # fmt: skip
        parts.append(f"**{title}**\n\n{table(('event', 'from', 'to', 'who', 'guards'), rows)}")
    return "\n\n".join(parts)


def sterile_numbers() -> str:
    from service.domain.sterilisation_settings import SterilisationSettings
    from service.workflow.sterile_settings import rows

    return table(
        ("key", "value", "what", "mark", "source"),
        [
            (f"`{r.name}`" if r.group == "numbers" else f"{r.group}: {r.name}", r.value,
             "; ".join(t for t in (r.meaning, r.remark) if t), r.mark, r.source)
            for r in rows(SterilisationSettings())
        ],
    )  # fmt: skip


def layers() -> str:
    tool = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["importlinter"]
    contracts = tool["contracts"]
    lines = ["A layer may import those below it, never one above or (with `|`) beside it:", "", "```"]
    lines += next(c["layers"] for c in contracts if c["type"] == "layers")
    lines += ["```", "", "Besides:", ""]
    lines += [f"- {c['name']}" for c in contracts if c["type"] != "layers"]
    return "\n".join(lines)


def endpoints() -> str:
    from service.web.api import create_web
    from service.workflow.app import App

    # Only the description is asked for; nothing of it touches the wired service.
    paths: Mapping[str, Any] = create_web(cast(App, None), []).openapi()["paths"]
    rows = []
    for path, methods in paths.items():
        for method, about in methods.items():
            text = str(about.get("description") or about.get("summary") or "").strip().split("\n")[0]
            rows.append(("/".join(about.get("tags", ["other"])), f"`{method.upper()} {path}`", text))
    rows.sort(key=lambda r: r[0])
    return table(("topic", "request", "what"), rows)


def error_codes() -> str:
    """What is refused or failed; each with its next step."""
    rows = sorted(
        {
            (f"`{code}`", what, step or "said with the error")
            for path, code, what, step in _raised()
            if not _finds(path, code)
        }
    )
    return table(("code", "what happened", "next step"), rows)


def finding_codes() -> str:
    """What the geometry gate and the G-code audit find; the error that carries the finding has the next step."""
    rows = sorted(
        {(f"`{code}`", what) for path, code, what, step in _raised() if _finds(path, code) and not step}
    )
    return table(("code", "finding"), rows)


def _finds(path: Path, code: str) -> bool:
    return path.parent.name == "gcode" or code.startswith("series.")


def _default_codes() -> dict[str, str]:
    """Class name -> code used when a call names none."""
    import adapters.ultimaker.faults  # noqa: F401 - its classes join the tree
    from service.errors import SpineprintError

    found, waiting = {}, [SpineprintError]
    while waiting:
        cls = waiting.pop()
        found[cls.__name__] = cls.default_code
        waiting += cls.__subclasses__()
    return found


def _raised() -> Iterator[tuple[Path, str, str, str]]:
    """(file, code, message, next step) wherever the code makes an error: by keyword, by position, or as a tuple."""
    defaults = _default_codes()
    for folder in ("service", "adapters"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            tree = ast.parse(path.read_text("utf-8"))
            constants = _constants(tree)
            for node in ast.walk(tree):
                if isinstance(node, ast.Call):
                    for code, what, step in _from_call(node, defaults, constants):
                        yield path, code, what, step
                elif isinstance(node, ast.Tuple) and len(node.elts) == 3:
                    code, what, step = (_text(e, constants) for e in node.elts)
                    if _CODE.fullmatch(code) and len(what.split()) > 3:
                        yield path, code, what, step


def _constants(tree: ast.Module) -> dict[str, str]:
    """Sentences that a module keeps under a name."""
    return {
        target.id: _text(node.value, {})
        for node in tree.body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }


def _from_call(
    node: ast.Call, defaults: Mapping[str, str], constants: Mapping[str, str]
) -> Iterator[tuple[str, str, str]]:
    if isinstance(node.func, ast.Name) and node.func.id == "_fault":  # a place in a document, not a code
        return
    given = {k.arg: k.value for k in node.keywords if k.arg}
    texts = [_text(a, constants) for a in node.args]
    named = given.get("code") or given.get("reason_code")
    if isinstance(named, ast.IfExp):
        codes = [_text(named.body, constants), _text(named.orelse, constants)]
    elif named is not None:
        codes = [_text(named, constants)]
    else:
        codes = [t for t in texts if _CODE.fullmatch(t)][:1]
    if not codes and isinstance(node.func, ast.Name):
        codes = [defaults.get(node.func.id, "")]
    sentences = [t for t in texts if " " in t]
    what = _text(given["reason"], constants) if "reason" in given else (sentences[0] if sentences else "")
    step = (
        _text(given["next_step"], constants)
        if "next_step" in given
        else (sentences[1] if sentences[1:] else "")
    )
    for code in codes:
        if len(what.split()) > 3 and (_CODE.fullmatch(code) or code in defaults.values()):
            yield code, what, step


def _text(node: ast.expr, constants: Mapping[str, str]) -> str:
    """A literal as it reads; what is filled in at run time shows as `...`."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value.strip()
    if isinstance(node, ast.Name):
        return constants.get(node.id, "")
    if isinstance(node, ast.JoinedStr):
        parts = [v.value if isinstance(v, ast.Constant) else "..." for v in node.values]
        return re.sub(r"\.{4,}", "...", "".join(str(p) for p in parts)).strip()
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return f"{_text(node.left, constants) or '...'} {_text(node.right, constants) or '...'}"
    return ""


def _as_table(part: Part) -> str:
    return table(*part())


PARTS: Mapping[str, Callable[[], str]] = {
    "case-events": case_events,
    "print-states": print_states,
    "sterilisation": sterilisation,
    "sterile-numbers": sterile_numbers,
    "layers": layers,
    "endpoints": endpoints,
    "error-codes": error_codes,
    "finding-codes": finding_codes,
    **{name: partial(_as_table, part) for name, part in DICOM_PARTS.items()},
}


def renewed(text: str) -> str:
    """`text` with each generated part made again. Raises KeyError for a part nobody makes."""
    return _PART.sub(lambda m: f"{m[1]}{PARTS[m[2]]()}\n{m[4]}", text)


def pages() -> list[Path]:
    return sorted((ROOT / "docs").rglob("*.md"))


def behind() -> list[Path]:
    """Pages whose generated parts differ from the code."""
    return [p for p in pages() if renewed(text := p.read_text("utf-8")) != text]


def main() -> int:
    old = behind()
    names = ", ".join(str(p.relative_to(ROOT)) for p in old)
    if "--check" in sys.argv[1:]:
        if old:
            print(f"behind the code: {names}; run .venv/bin/python docs/generate.py")
        return int(bool(old))
    for page in old:
        page.write_text(renewed(page.read_text("utf-8")), "utf-8")
    print(f"rewritten: {names}" if old else "all pages are current")
    return 0


if __name__ == "__main__":
    sys.exit(main())
