"""Logging in and out, and who I am; users and tokens for the administrator."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response
from pydantic import BaseModel, ConfigDict, Field, SecretStr

from service.domain.people import Actor, Role
from service.store import people
from service.store.database import reading
from service.web.access import COOKIE, AppDep, PersonDep, has_role, session_secret
from service.workflow import identity

router = APIRouter(prefix="/api/v1", tags=["people"])
AdminDep = Annotated[Actor, Depends(has_role(Role.ADMIN))]


class Login(BaseModel):
    username: Annotated[str, Field(max_length=64, pattern=r"^[^\x00]*$")]
    password: Annotated[SecretStr, Field(max_length=identity.MAX_PASSWORD)]


class NewUser(BaseModel):
    model_config = ConfigDict(extra="forbid")
    username: str
    display_name: str = ""
    roles: list[str]
    password: SecretStr


class NewToken(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: str
    scopes: list[str]
    steriliser: str = ""
    """The device a token with the scope `steriliser` speaks for."""


@router.post("/login")
def log_in(body: Login, app: AppDep, request: Request, response: Response) -> dict[str, Any]:
    secret, person, expires_at = identity.log_in(app, body.username, body.password.get_secret_value())
    response.set_cookie(
        COOKIE,
        secret,
        httponly=True,
        samesite="strict",
        secure=request.url.scheme == "https",
        max_age=int(app.config.web.session_hours * 3600),
        path="/",
    )
    return {
        "token": secret,
        "username": person.username,
        "display_name": person.display_name,
        "roles": sorted(r.value for r in person.roles),
        "expires_at": expires_at,
    }


@router.post("/logout", status_code=204)
def log_out(app: AppDep, request: Request, response: Response) -> None:
    identity.log_out(app, session_secret(request))
    response.delete_cookie(COOKIE, path="/")


@router.get("/me")
def me(actor: PersonDep) -> dict[str, Any]:
    person = actor.person
    assert person is not None
    return {
        "username": person.username,
        "display_name": person.display_name,
        "roles": sorted(r.value for r in person.roles),
    }


@router.get("/users")
def list_users(app: AppDep, _admin: AdminDep) -> list[dict[str, Any]]:
    with reading(app.engine) as connection:
        rows = people.list_users(connection)
    return [
        {"username": u.person.username, "display_name": u.person.display_name,
         "roles": sorted(r.value for r in u.person.roles), "active": u.active}
        for u in rows
    ]  # fmt: skip


@router.post("/users", status_code=201)
def add_user(body: NewUser, app: AppDep, admin: AdminDep) -> dict[str, Any]:
    person = identity.add_user(
        app,
        username=body.username,
        display_name=body.display_name,
        roles=body.roles,
        password=body.password.get_secret_value(),
        by=admin.name,
    )
    return {"username": person.username, "roles": sorted(r.value for r in person.roles)}


@router.post("/tokens", status_code=201)
def add_token(body: NewToken, app: AppDep, admin: AdminDep) -> dict[str, Any]:
    """The secret is shown this once."""
    secret = identity.add_token(app, body.name, body.scopes, admin.name, steriliser=body.steriliser)
    return {"name": body.name, "token": secret}
