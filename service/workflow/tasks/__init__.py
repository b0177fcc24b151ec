"""The heavy work, as functions from a JSON argument to a JSON result. Run in a tethered child, or by the CLI.

Each function loads what it needs when it is called: the packages of all of them take seconds, and a child does one.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from importlib import import_module
from typing import Any

from service.geometry.progress import Progress
from service.ports import Segmenter, Slicer
from service.workflow.tether import Ahead, Task

#: Kind of work -> (module of this package, function).
_TASKS: Mapping[str, tuple[str, str]] = {
    "inspect_study": ("inspect_task", "inspect_study"),
    "model": ("model_task", "model_task"),
    "verify": ("verify_task", "verify_task"),
    "correct": ("correct_task", "correct_task"),
    "scan_pictures": ("scan_pictures_task", "scan_pictures_task"),
    "publish": ("publish_task", "publish_task"),
}


def all_tasks(slicer: Slicer, segmenter: Segmenter | None = None) -> Mapping[str, Task]:
    """`segmenter`: the site's own model for isolating a vertebra, if one is installed."""
    return {
        **{kind: partial(_run, module, function) for kind, (module, function) in _TASKS.items()},
        "model": partial(_model, segmenter),
        "slice": partial(_slice, slicer),
    }


def load(kind: str) -> Ahead | None:
    """Load the packages of one kind of work before it is asked for; what it can do before then, if anything."""
    if kind not in _TASKS:
        return None
    ahead: Ahead | None = getattr(import_module(f"{__name__}.{_TASKS[kind][0]}"), "read_ahead", None)
    return ahead


def _run(module: str, function: str, argument: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
    task: Task = getattr(import_module(f"{__name__}.{module}"), function)
    return task(argument, progress)


def _model(segmenter: Segmenter | None, argument: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
    from service.workflow.tasks.model_task import model_task

    return model_task(argument, progress, segmenter)


def _slice(slicer: Slicer, argument: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
    from service.workflow.tasks.slice_task import slice_task

    return slice_task(slicer, argument, progress)
