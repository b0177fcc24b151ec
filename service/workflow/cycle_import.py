"""End the cycle of a load with the steriliser's own record instead of a form."""

from __future__ import annotations

import hashlib

from service.domain.people import Actor
from service.domain.sterilisation import Load
from service.store import sterile
from service.store.database import reading
from service.workflow.app import App
from service.workflow.cycle_record import read_cycle_record
from service.workflow.sterilise import SETTINGS, load_event


def import_cycle(app: App, load_id: str, text: str, actor: Actor) -> Load:
    """The load after its cycle; the record is judged like one entered by hand.

    The record's hash stays with the load, so that the file kept elsewhere can be proven to be the one read.
    Errors as `read_cycle_record` and `load_event`.
    """
    with reading(app.engine) as connection:
        load = sterile.get(connection, Load, load_id)
    data = read_cycle_record(text, load, SETTINGS.cycle(load.cycle_name))
    data["record_source"] = f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"
    return load_event(app, load_id, "finish_cycle", data, actor)
