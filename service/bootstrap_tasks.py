"""Joins the heavy computations with the slicer, for the child that does one of them.

Apart from `bootstrap`: a child needs neither database nor network, and loading them takes longer than what it needs.
"""

from __future__ import annotations

from collections.abc import Mapping

from adapters.cura_engine import CuraEngineConfig, CuraEngineSlicer
from service.config import Config
from service.ports import Slicer
from service.workflow.tasks import all_tasks
from service.workflow.tether import Task


def make_slicer(config: Config) -> Slicer:
    slicer = config.slicer
    return CuraEngineSlicer(
        CuraEngineConfig(engine=slicer.engine, resources=slicer.resources, support_structure=slicer.support)
    )


def tasks(config: Config) -> Mapping[str, Task]:
    """Everything a tethered child may be asked to do."""
    return all_tasks(make_slicer(config))
