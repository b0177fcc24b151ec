"""The pages for people: shells that load their content from the API.

Pages about a person's work need a session. The board and the operating room's page hold no data of their own
and are handed to any screen; what they show needs the screen's token (or a session) at the API.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, Response
from fastapi.templating import Jinja2Templates

from service import NOTICE, __version__
from service.domain.people import IMAGE_BRINGERS, Person, Role
from service.domain.plan import LEVELS
from service.errors import NotFoundError
from service.store import cases
from service.store.database import reading
from service.web.access import AppDep, PersonDep
from service.workflow import sterile_settings
from service.workflow.app import App

router = APIRouter(include_in_schema=False)

_templates = Jinja2Templates(directory=Path(__file__).parents[1] / "templates")
SHORT_NOTICE = "Research and engineering software. Not a medical device."


def _page(
    request: Request, name: str, *, person: Person | None = None, status: int = 200, **values: Any
) -> HTMLResponse:
    context = {
        "person": person,
        "roles": sorted(r.value for r in person.roles) if person else [],
        "notice": NOTICE,
        "short_notice": SHORT_NOTICE,
        "version": __version__,
        **values,
    }
    # Pages name people and cases: nothing of them stays in a shared computer's cache.
    return _templates.TemplateResponse(
        request, f"{name}.html", context, status_code=status, headers={"Cache-Control": "no-store"}
    )


def _case_page(request: Request, app: App, actor: PersonDep, case_id: str, name: str) -> HTMLResponse:
    try:
        with reading(app.engine) as connection:
            case = cases.get(connection, case_id)
    except NotFoundError as exc:
        return _page(
            request, "missing", person=actor.person, status=404, title=exc.message, next_step=exc.next_step
        )
    return _page(request, name, person=actor.person, case_id=case.id, code=case.code, levels=LEVELS)


@router.get("/login")
def login_page(request: Request) -> Response:
    return _page(request, "login")


@router.get("/")
def cases_page(request: Request, actor: PersonDep) -> Response:
    return _page(
        request, "cases", person=actor.person, may_upload=bool((actor.roles or frozenset()) & IMAGE_BRINGERS)
    )


@router.get("/upload")
def upload_page(request: Request, app: AppDep, actor: PersonDep) -> Response:
    if not (actor.roles or frozenset()) & IMAGE_BRINGERS:
        roles = ", ".join(sorted(r.value for r in IMAGE_BRINGERS))
        return _page(
            request,
            "missing",
            person=actor.person,
            status=403,
            title=f"Uploading images needs one of these roles: {roles}.",
            next_step="Ask a person with that role.",
        )
    return _page(request, "upload", person=actor.person, max_upload_mb=app.config.web.max_upload_mb)


@router.get("/cases/{case_id}")
def case_page(case_id: str, request: Request, app: AppDep, actor: PersonDep) -> Response:
    return _case_page(request, app, actor, case_id, "case")


@router.get("/cases/{case_id}/plan")
def plan_page(case_id: str, request: Request, app: AppDep, actor: PersonDep) -> Response:
    return _case_page(request, app, actor, case_id, "plan")


@router.get("/cases/{case_id}/review")
def review_page(case_id: str, request: Request, app: AppDep, actor: PersonDep) -> Response:
    return _case_page(request, app, actor, case_id, "review")


@router.get("/cssd")
def cssd_page(request: Request, app: AppDep, actor: PersonDep) -> Response:
    site = app.sterile_settings
    held = {r.value for r in (actor.roles or frozenset())}
    return _page(
        request,
        "cssd",
        person=actor.person,
        functions=[name for name, holders in site.role_holders.items() if holders & held],
        aeration=[[row.from_c, row.hours] for row in site.aeration],
        incubation={spec.name: spec.hours for spec in site.indicators},
    )


@router.get("/cssd/settings")
def cssd_settings_page(request: Request, app: AppDep, actor: PersonDep) -> Response:
    groups: dict[str, list[sterile_settings.Row]] = {}
    for row in sterile_settings.rows(app.sterile_settings):
        groups.setdefault(row.group, []).append(row)
    return _page(request, "cssd_settings", person=actor.person, groups=groups, marks=sterile_settings.MARKS)


@router.get("/door")
def door_page(request: Request, actor: PersonDep) -> Response:
    return _page(request, "door", person=actor.person)


@router.get("/operations")
def operations_page(request: Request, actor: PersonDep) -> Response:
    if not (actor.roles or frozenset()) & {Role.ADMIN, Role.TECHNICIAN}:
        return _page(
            request,
            "missing",
            person=actor.person,
            status=403,
            title="The operations page is for technicians and administrators.",
            next_step="Ask a person with one of these roles.",
        )
    return _page(request, "operations", person=actor.person)


@router.get("/board")
def board_page(request: Request) -> Response:
    return _page(request, "board")


@router.get("/or/{case_id}")
def or_page(case_id: str, request: Request) -> Response:
    return _page(request, "or", case_id=case_id)
