"""How long slicing and its proof take: the audit alone, and STL to audited G-code against the engine's own time."""

from __future__ import annotations

from pathlib import Path


def slice_argument(case: Path, out: Path) -> dict[str, str | None]:
    """What `slice_task` takes, for a case folder as `spineprint model --out` makes it."""

    def there(name: str) -> str | None:
        return str(case / name) if (case / name).is_file() else None

    return {
        "print_mesh": str(case / "print.stl"),
        "mesh": str(case / "model.stl"),
        "layout": str(case / "print.json"),
        "plan": str(case / "plan.json"),
        "blocker": there("blocker.stl"),
        "filler": there("filler.stl"),
        "outer": there("outer.nii.gz"),
        "model_report": there("report.json"),
        "out": str(out),
    }
