"""The heavy work, as functions from a JSON argument to a JSON result. Run in a tethered child, or by the CLI."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from service.ports import Slicer
from service.workflow.tasks.inspect_task import inspect_study
from service.workflow.tasks.model_task import model_task
from service.workflow.tasks.publish_task import publish_task
from service.workflow.tasks.slice_task import slice_task
from service.workflow.tasks.verify_task import verify_task
from service.workflow.tether import Task


def all_tasks(slicer: Slicer) -> Mapping[str, Task]:
    return {
        "inspect_study": inspect_study,
        "model": model_task,
        "slice": partial(slice_task, slicer),
        "verify": verify_task,
        "publish": publish_task,
    }
