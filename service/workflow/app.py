"""What every use case needs, joined once in `service.bootstrap` and handed around."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from sqlalchemy import Engine

from service.config import Config
from service.domain.series import SeriesInfo
from service.domain.sterilisation_settings import SterilisationSettings
from service.geometry.progress import Progress
from service.ports import (
    Camera,
    Clock,
    CommitmentRequester,
    ImageNode,
    ImageSender,
    InstanceIntake,
    Notifier,
    Printer,
    PrinterDiscovery,
    StudyFinder,
)

#: (series, roles of the sender) -> `planning_ct` | `oarm` | `unknown`.
ScanRecogniser = Callable[[SeriesInfo, Sequence[str]], str]
TaskRunner = Callable[[str, Mapping[str, Any], Progress], dict[str, Any]]


@dataclass(frozen=True, eq=False)
class App:
    """The wired service. `run_task` runs heavy work in a tethered child process."""

    config: Config
    engine: Engine
    clock: Clock
    notifier: Notifier
    run_task: TaskRunner
    recognise: ScanRecogniser
    printers: Mapping[str, Printer] = field(default_factory=dict)
    cameras: Mapping[str, Camera] = field(default_factory=dict)
    """Of the printers, by their names."""
    discovery: PrinterDiscovery | None = None
    sender: ImageSender | None = None
    web_senders: Mapping[str, ImageSender] = field(default_factory=dict)
    """STOW-RS destinations by name."""
    committer: CommitmentRequester | None = None
    finder: StudyFinder | None = None
    node: ImageNode | None = None
    door: InstanceIntake | None = None
    """Where images that come by HTTP are kept; None in processes without the web role."""

    @cached_property
    def sterile_settings(self) -> SterilisationSettings:
        """The numbers of sterile services in force."""
        return self.config.sterilisation.settings()

    def case_folder(self, case_id: str) -> Path:
        return self.config.data_dir / "cases" / case_id

    def work_folder(self, key: str) -> Path:
        """Where a job writes before its results are kept; emptied at the start of each run."""
        return self.config.data_dir / "work" / key
