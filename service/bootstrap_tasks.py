"""Joins the heavy computations with the slicer and the site's segmentation model, for the child that does one of them.

Apart from `bootstrap`: a child needs neither database nor network, and loading them takes longer than what it needs.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from adapters.cura_engine import CuraEngineConfig, CuraEngineSlicer
from adapters.segmentation import InstalledSegmenter
from service.config import Config
from service.ports import Segmenter, Slicer
from service.workflow.tasks import all_tasks
from service.workflow.tether import Task


def make_slicer(config: Config) -> Slicer:
    slicer = config.slicer
    return CuraEngineSlicer(
        CuraEngineConfig(engine=slicer.engine, resources=slicer.resources, support_structure=slicer.support)
    )


def make_segmenter(folder: Path | None) -> Segmenter | None:
    """The model in `folder`; read when it is first asked."""
    return InstalledSegmenter(folder) if folder else None


def describe_segmenter(folder: Path) -> str:
    """The model in `folder` in words. Raises ToolMissingError with what is wrong with it."""
    facts = InstalledSegmenter(folder).facts()
    return f"{facts.name}, SHA-256 {facts.sha256[:12]}, {facts.runtime}"


def tasks(config: Config) -> Mapping[str, Task]:
    """Everything a tethered child may be asked to do."""
    return all_tasks(make_slicer(config), make_segmenter(config.isolation.segmentation_model))
