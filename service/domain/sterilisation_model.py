"""States, evidence records and the four things sterilisation is about: item, load, indicator, steriliser.

Plain frozen values (stdlib only); the rules are in the tables of the neighbouring modules. Times are UTC-aware,
temperatures in degrees Celsius. A record field that is None was not recorded, and no guard accepts None.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime


class ItemState(enum.StrEnum):
    PRINTED = "PRINTED"
    QA_PASSED = "QA_PASSED"
    PACKED = "PACKED"
    LOADED = "LOADED"
    EXPOSED = "EXPOSED"
    AERATING = "AERATING"
    QUARANTINED = "QUARANTINED"
    RELEASED = "RELEASED"
    ISSUED = "ISSUED"
    USED = "USED"
    DISCARDED = "DISCARDED"
    REJECTED = "REJECTED"
    NONSTERILE = "NONSTERILE"
    RECALLED = "RECALLED"


class LoadState(enum.StrEnum):
    OPEN = "OPEN"
    RUNNING = "RUNNING"
    EXPOSED = "EXPOSED"
    ABORTED = "ABORTED"
    AERATING = "AERATING"
    AERATED = "AERATED"
    RELEASED = "RELEASED"
    FAILED = "FAILED"


class BiState(enum.StrEnum):
    PENDING = "PENDING"
    NEGATIVE = "NEGATIVE"
    POSITIVE = "POSITIVE"
    INVALID = "INVALID"


class SteriliserState(enum.StrEnum):
    IN_SERVICE = "IN_SERVICE"
    OUT_OF_SERVICE = "OUT_OF_SERVICE"


@dataclass(frozen=True)
class HistoryEntry:
    """One signed event. `data` is JSON-able (times as ISO 8601); the list is append-only."""

    event: str
    from_state: str
    to_state: str
    actor: str
    role: str
    at: datetime
    reason: str
    data: Mapping[str, object]


@dataclass(frozen=True)
class PrintParameters:
    material: str
    layer_mm: float
    nozzle_c: float
    bed_c: float
    speed_mm_s: float


@dataclass(frozen=True)
class GcodeProof:
    """What the stored audit of the printed G-code measured (`spineprint.gcode-audit/1`).

    `part_over_mesh` is the plastic of the part over the volume of its mesh (1 = solid walls, no sparse filling);
    `layer_off_most` the same layer by layer: how far the layer farthest off is from the mesh's cross-section, as a
    share of it, so that a hollow wall cannot hide behind fat lines elsewhere;
    `channels_free_mm` the free diameter left between the printed lines, one value a channel, None = not measured.
    """

    report_sha256: str
    passed: bool
    part_over_mesh: float | None
    channels_free_mm: tuple[float | None, ...]
    layer_off_most: float | None = None


@dataclass(frozen=True)
class ItemDesign:
    """What was planned and proven on mesh and G-code before printing; the yardstick of the guards.

    `openings_per_cavity` is that of the cavity with the fewest; `narrowest_opening_mm` and `longest_path_mm`
    are the worst of the gas path; `channels_mm` are the needle channels as measured on the mesh, one a channel.
    None means not proven.
    """

    case_id: str
    patient_reference: str
    level: str
    engraved_id: str
    stl_sha256: str
    size_mm: tuple[float, float, float]
    printing: PrintParameters
    family: str
    sealed_cavities: int | None = None
    openings_per_cavity: int | None = None
    narrowest_opening_mm: float | None = None
    longest_path_mm: float | None = None
    channels_mm: tuple[float, ...] | None = None
    gcode: GcodeProof | None = None
    ct_acquired_at: datetime | None = None
    part_weight_g: float | None = None
    """By the G-code that was printed: the part and the lattice that stays inside it, without supports and brim."""


@dataclass(frozen=True)
class QaRecord:
    """`weight_g` and `photos` (SHA-256) are missing on records from before they were asked for."""

    reviewer: str
    at: datetime
    stl_sha256: str
    size_mm: tuple[float, float, float]
    engraved_id: str
    weight_g: float | None = None
    photos: tuple[str, ...] = ()


@dataclass(frozen=True)
class PackRecord:
    pack_id: str
    pouch_material: str
    pouch_lot: str
    pouch_expires_at: datetime
    expires_at: datetime
    packed_by: str
    at: datetime


@dataclass(frozen=True)
class ReleaseRecord:
    released_by: str
    at: datetime


@dataclass(frozen=True)
class IssueRecord:
    issued_by: str
    at: datetime


@dataclass(frozen=True)
class UseRecord:
    opened_by: str
    surgeon: str
    at: datetime


@dataclass(frozen=True)
class Item:
    """One printed model on its way to the operating room. `exposures` counts sterilant exposures so far."""

    id: str
    design: ItemDesign
    printed_by: str
    state: ItemState = ItemState.PRINTED
    qa: QaRecord | None = None
    pack: PackRecord | None = None
    spent_pack_ids: tuple[str, ...] = ()
    load_id: str = ""
    exposures: int = 0
    release: ReleaseRecord | None = None
    issue: IssueRecord | None = None
    use: UseRecord | None = None
    recalled_after_use: bool = False
    history: tuple[HistoryEntry, ...] = ()
    version: int = 0


@dataclass(frozen=True)
class CycleRecord:
    """What the steriliser recorded over one cycle; extremes over the whole exposure."""

    started_at: datetime | None
    ended_at: datetime | None
    exposure_min: float | None
    min_c: float | None
    max_c: float | None
    min_humidity_pct: float | None
    max_humidity_pct: float | None
    eto_mg_l: float | None = None
    dose_g: float | None = None
    alarms: tuple[str, ...] | None = None
    source: str = ""


@dataclass(frozen=True)
class AerationRecord:
    """Aeration so far; `min_c`/`max_c` are the extremes of the log, None until it is closed."""

    aerator_id: str
    set_c: float | None
    started_at: datetime | None
    ended_at: datetime | None = None
    min_c: float | None = None
    max_c: float | None = None


@dataclass(frozen=True)
class Load:
    """One steriliser run. `cycle_number` counts up per steriliser without gaps and orders the recall set.

    `purpose` is `routine` or `qualification` (empty chamber, the only kind an out-of-service device may run).
    """

    id: str
    steriliser_id: str
    cycle_number: int
    cycle_name: str
    planned_aeration_c: float
    purpose: str = "routine"
    state: LoadState = LoadState.OPEN
    item_ids: tuple[str, ...] = ()
    pcd_id: str = ""
    bi_id: str = ""
    operators: tuple[str, ...] = ()
    cycle: CycleRecord | None = None
    aeration: AerationRecord | None = None
    history: tuple[HistoryEntry, ...] = ()
    version: int = 0


@dataclass(frozen=True)
class BiologicalIndicator:
    """A spore indicator of one load, with its unprocessed control."""

    id: str
    product: str
    lot: str
    expires_at: datetime
    load_id: str
    steriliser_id: str
    cycle_number: int
    state: BiState = BiState.PENDING
    incubator_id: str = ""
    incubation_started_at: datetime | None = None
    read_at: datetime | None = None
    incubator_min_c: float | None = None
    incubator_max_c: float | None = None
    growth: bool | None = None
    control_lot: str = ""
    control_growth: bool | None = None
    history: tuple[HistoryEntry, ...] = ()
    version: int = 0


@dataclass(frozen=True)
class Steriliser:
    """A device; `validated` holds (cycle name, item family) pairs the site has validated on it."""

    id: str
    model: str
    validated: tuple[tuple[str, str], ...] = ()
    state: SteriliserState = SteriliserState.IN_SERVICE
    out_of_service_since: datetime | None = None
    last_cycle_before_outage: int | None = None
    history: tuple[HistoryEntry, ...] = ()
    version: int = 0


@dataclass(frozen=True)
class RecallSet:
    """Loads and items that one positive indicator calls into question.

    Cycles strictly between `after_cycle` (last satisfactory before, None = none known) and `before_cycle` (next
    satisfactory, None = none yet: the set still grows).
    """

    steriliser_id: str
    positive_cycle: int
    after_cycle: int | None
    before_cycle: int | None
    load_ids: tuple[str, ...]
    item_ids: tuple[str, ...]

    @property
    def growing(self) -> bool:
        return self.before_cycle is None


@dataclass(frozen=True)
class Incident:
    """A used item whose sterility is in question: infection control and the surgeon must be told."""

    item_id: str
    case_id: str
    load_id: str
    positive_cycle: int
    at: datetime
    notify: tuple[str, ...] = field(default=("infection_control", "surgeon"))
