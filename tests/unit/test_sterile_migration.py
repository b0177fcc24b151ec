"""Migrations 0006 to 0008 on an item that was written before it: still readable, without proofs it never had."""

from __future__ import annotations

import json
from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import text

from service.domain.sterilisation import Item, from_document, to_document
from service.store.database import MIGRATIONS, open_engine
from tests.unit.test_sterilisation_machines import new_item

_NEWEST_BEFORE = "0003"


def test_items_from_before_are_read_and_have_no_proof(tmp_path: Path) -> None:
    engine = open_engine(f"sqlite:///{tmp_path / 'old.sqlite3'}")
    settings = Config()
    settings.set_main_option("script_location", str(MIGRATIONS))
    old = to_document(new_item())
    design = dict(old["design"])  # type: ignore[call-overload]
    del design["channels_mm"], design["gcode"], design["part_weight_g"]
    old["design"] = design
    with engine.begin() as connection:
        settings.attributes["connection"] = connection
        command.upgrade(settings, _NEWEST_BEFORE)
        connection.execute(
            text(
                "INSERT INTO sterile_records (kind, id, version, state, document, updated_at) "
                "VALUES ('item', 'i1', 0, 'PRINTED', :document, 'x')"
            ),
            {"document": json.dumps(old)},
        )
    with engine.begin() as connection:
        settings.attributes["connection"] = connection
        command.upgrade(settings, "head")
        kept = connection.execute(text("SELECT document FROM sterile_records")).scalar_one()
        item = from_document(Item, json.loads(kept))
        assert (item.design.gcode, item.design.channels_mm, item.design.part_weight_g) == (None, None, None)
        command.downgrade(settings, _NEWEST_BEFORE)
        assert (
            json.loads(connection.execute(text("SELECT document FROM sterile_records")).scalar_one()) == old
        )
    engine.dispose()


def test_proofs_from_before_say_nothing_of_single_layers(tmp_path: Path) -> None:
    engine = open_engine(f"sqlite:///{tmp_path / 'old.sqlite3'}")
    settings = Config()
    settings.set_main_option("script_location", str(MIGRATIONS))
    old = to_document(new_item())
    del old["design"]["gcode"]["layer_off_most"], old["design"]["part_weight_g"]  # type: ignore[index]
    with engine.begin() as connection:
        settings.attributes["connection"] = connection
        command.upgrade(settings, "0006")
        connection.execute(
            text(
                "INSERT INTO sterile_records (kind, id, version, state, document, updated_at) "
                "VALUES ('item', 'i1', 0, 'PRINTED', :document, 'x')"
            ),
            {"document": json.dumps(old)},
        )
    with engine.begin() as connection:
        settings.attributes["connection"] = connection
        command.upgrade(settings, "head")
        kept = connection.execute(text("SELECT document FROM sterile_records")).scalar_one()
        proof = from_document(Item, json.loads(kept)).design.gcode
        assert proof is not None and proof.layer_off_most is None
        command.downgrade(settings, "0006")
        assert (
            json.loads(connection.execute(text("SELECT document FROM sterile_records")).scalar_one()) == old
        )
    engine.dispose()
