"""Ethylene-oxide sterilisation: the one module to import from.

Four machines (item, load, biological indicator, steriliser), each a table of transitions with roles, guards and
required data, and one `apply_...` function that judges an event and returns the changed value. Rules only, no
clock, no store: the caller passes the time and keeps the values (`to_document`, `from_document`).
"""

from service.domain.sterilisation_bi import (
    BI_TRANSITIONS,
    STERILISER_TRANSITIONS,
    apply_bi,
    apply_steriliser,
)
from service.domain.sterilisation_documents import from_document, to_document
from service.domain.sterilisation_failed_load import fail_item
from service.domain.sterilisation_item import apply_item, replay_item
from service.domain.sterilisation_item_table import IN_PROCESS, ITEM_TRANSITIONS
from service.domain.sterilisation_load import LOAD_RELEASE_GUARDS, LOAD_TRANSITIONS, apply_load
from service.domain.sterilisation_model import (
    AerationRecord,
    BiologicalIndicator,
    BiState,
    CycleRecord,
    GcodeProof,
    HistoryEntry,
    Incident,
    IssueRecord,
    Item,
    ItemDesign,
    ItemState,
    Load,
    LoadState,
    PackRecord,
    PrintParameters,
    QaRecord,
    RecallSet,
    ReleaseRecord,
    Steriliser,
    SteriliserState,
    UseRecord,
)
from service.domain.sterilisation_recall import RecallOutcome, apply_recall, open_recalls, recall_set
from service.domain.sterilisation_settings import SterilisationSettings
from service.domain.sterilisation_table import FieldSpec, Transition, allowed, describe, events_of

__all__ = [
    "BI_TRANSITIONS",
    "IN_PROCESS",
    "ITEM_TRANSITIONS",
    "LOAD_RELEASE_GUARDS",
    "LOAD_TRANSITIONS",
    "STERILISER_TRANSITIONS",
    "AerationRecord",
    "BiState",
    "BiologicalIndicator",
    "CycleRecord",
    "FieldSpec",
    "GcodeProof",
    "HistoryEntry",
    "Incident",
    "IssueRecord",
    "Item",
    "ItemDesign",
    "ItemState",
    "Load",
    "LoadState",
    "PackRecord",
    "PrintParameters",
    "QaRecord",
    "RecallOutcome",
    "RecallSet",
    "ReleaseRecord",
    "SterilisationSettings",
    "Steriliser",
    "SteriliserState",
    "Transition",
    "UseRecord",
    "allowed",
    "apply_bi",
    "apply_item",
    "apply_load",
    "apply_recall",
    "apply_steriliser",
    "describe",
    "events_of",
    "fail_item",
    "from_document",
    "open_recalls",
    "recall_set",
    "replay_item",
    "to_document",
]
