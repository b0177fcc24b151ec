"""`spineprint case ...`: the same steps as on the pages, as a named person, on this machine's data."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from service.cli_common import (
    EDITS_HELP,
    ENDPLATES_HELP,
    SURFACE_POINTS_HELP,
    ConfigOption,
    config_of,
    parse_endplates,
    parse_point,
    parse_surface_points,
    read_edits,
    read_password,
)
from service.domain.people import Actor, acting
from service.errors import InputRefusedError

if TYPE_CHECKING:
    from service.store.pulls import Pull
    from service.workflow.app import App

case_app = typer.Typer(help="Look at cases and give inputs.", no_args_is_help=True)
console = Console(highlight=False)

UserOption = Annotated[str, typer.Option("--user", help="who acts")]
StdinOption = Annotated[bool, typer.Option("--password-stdin", help="read the password from standard input")]


def _open(config: Path | None) -> App:
    from service.bootstrap import open_app

    return open_app(config_of(config))


def _actor(app: App, user: str, from_stdin: bool) -> Actor:
    from service.workflow import identity

    secret, person, _ = identity.log_in(app, user, read_password(from_stdin))
    identity.log_out(app, secret)
    return acting(person)


@case_app.command("list")
def list_cases(config: ConfigOption = None) -> None:
    """All cases, newest first."""
    from service.store import cases, studies
    from service.store.database import reading
    from service.web.views import waiting_sentence

    app = _open(config)
    table = Table("code", "id", "state", "level", "waiting for")
    with reading(app.engine) as connection:
        for case in cases.listed(connection):
            study = studies.need(connection, case.study_uid)
            table.add_row(
                case.code, case.id, case.state.value, case.level, waiting_sentence(connection, case, study)
            )
    console.print(table)


@case_app.command("show")
def show(case_id: str, config: ConfigOption = None) -> None:
    """One case as JSON, with its history (no patient identity)."""
    from fastapi.encoders import jsonable_encoder

    from service.store import audit, cases
    from service.store.database import reading
    from service.web.views import case_detail

    app = _open(config)
    with reading(app.engine) as connection:
        case = cases.get(connection, case_id)
        body = case_detail(app, connection, case, roles=None)
        body["events"] = [
            {"seq": r.seq, "at": r.at, "actor": r.actor, "event": r.event, "data": r.data}
            for r in audit.history(connection, case.subject)
        ]
    print(json.dumps(jsonable_encoder(body), indent=2))


@case_app.command("pull")
def pull_study(
    accession: Annotated[str, typer.Option(help="accession number, as the PACS shows it")],
    source: Annotated[str, typer.Option("--from", help="AE title of the PACS")],
    user: UserOption,
    study_uid: Annotated[str, typer.Option(help="which one, when several share the number")] = "",
    wait_s: Annotated[float, typer.Option(help="how long to watch; the transfer goes on without us")] = 600.0,
    password_stdin: StdinOption = False,
    config: ConfigOption = None,
) -> None:
    """Have a PACS send the study with this accession number; the running service does it."""
    from service.store import pulls
    from service.store.database import reading
    from service.workflow import pull

    app = _open(config)
    actor = _actor(app, user, password_stdin)
    asked = pull.ask(app, accession_number=accession, peer=source, actor=actor, study_uid=study_uid)
    end, shown = time.monotonic() + wait_s, ""
    while True:
        with reading(app.engine) as connection:
            now = pulls.need(connection, asked.id)
        line = f"{now.state}: {now.completed + now.warned} of {now.expected or '?'} sent, {now.failed} failed"
        if line != shown:
            shown = line
            console.print(line)
        if now.state not in pulls.OPEN or time.monotonic() >= end:
            break
        time.sleep(0.5)
    _tell_pull(now)


def _tell_pull(pull: Pull) -> None:
    """What came of it. Raises when the study did not come."""
    from service.errors import from_document
    from service.store import pulls

    if pull.state == pulls.AMBIGUOUS:
        table = Table("study UID", "date", "modalities", "images", "description")
        for found in pull.candidates:
            table.add_row(
                found["study_uid"], found["study_date"], " ".join(found["modalities"]), str(found["instances"] or "?"),
                escape(found["description"]),
            )  # fmt: skip
        console.print(table)
        raise InputRefusedError(
            f"{len(pull.candidates)} studies have this accession number.",
            next_step="Choose one with --study-uid.", code="pull.ambiguous",
        )  # fmt: skip
    if pull.error:
        raise from_document(pull.error)
    if pull.state in pulls.OPEN:
        console.print("Not finished yet; the service goes on with it. Is `spineprint serve` running?")


@case_app.command("inputs")
def inputs(
    case_id: str,
    level: Annotated[str, typer.Option()],
    user: UserOption,
    target: Annotated[str | None, typer.Option(help="X,Y,Z LPS mm")] = None,
    above: Annotated[str | None, typer.Option()] = None,
    below: Annotated[str | None, typer.Option()] = None,
    endplates: Annotated[str | None, typer.Option(help=ENDPLATES_HELP)] = None,
    surface_points: Annotated[str | None, typer.Option(help=SURFACE_POINTS_HELP)] = None,
    edits: Annotated[Path | None, typer.Option(exists=True, help=EDITS_HELP)] = None,
    mask: Annotated[Path | None, typer.Option(exists=True)] = None,
    mask_label: Annotated[int | None, typer.Option()] = None,
    password_stdin: StdinOption = False,
    config: ConfigOption = None,
) -> None:
    """Give level and points (or a mask); the running service builds the model."""
    from service.domain.plan import known_level
    from service.workflow import build

    app = _open(config)
    given = build.ModelInputs(
        level=known_level(level), target=parse_point("--target", target), above=parse_point("--above", above),
        below=parse_point("--below", below), endplates=parse_endplates(endplates),
        surface_points=parse_surface_points(surface_points), mask=mask, mask_label=mask_label, edits=read_edits(edits),
    )  # fmt: skip
    case = build.give_inputs(app, case_id, given, _actor(app, user, password_stdin))
    console.print(f"{case.code}: {case.state.value}")


@case_app.command("resume")
def resume(
    case_id: str, user: UserOption, password_stdin: StdinOption = False, config: ConfigOption = None
) -> None:
    """Continue a case that needs attention."""
    from service.workflow import person_steps

    app = _open(config)
    case = person_steps.resume(app, case_id, _actor(app, user, password_stdin))
    console.print(f"{case.code}: {case.state.value}")


@case_app.command("cancel")
def cancel(case_id: str, user: UserOption, reason: Annotated[str, typer.Option()], password_stdin: StdinOption = False,
           config: ConfigOption = None) -> None:  # fmt: skip
    """Give a case up, with the reason."""
    from service.workflow import person_steps

    app = _open(config)
    case = person_steps.cancel(app, case_id, _actor(app, user, password_stdin), reason)
    console.print(f"{case.code}: {case.state.value}")
