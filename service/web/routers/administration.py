"""What the administrator takes back: accounts, tokens."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends
from pydantic import BaseModel, ConfigDict, SecretStr

from service.domain.people import Actor, Role
from service.web.access import AppDep, has_role
from service.workflow import identity

router = APIRouter(prefix="/api/v1", tags=["people"])
AdminDep = Annotated[Actor, Depends(has_role(Role.ADMIN))]


class UserChange(BaseModel):
    """What is given is changed; a new password or a switched-off account ends all sessions of the user."""

    model_config = ConfigDict(extra="forbid")
    active: bool | None = None
    password: SecretStr | None = None
    roles: list[str] | None = None


@router.patch("/users/{username}", status_code=204)
def change_user(username: str, body: UserChange, app: AppDep, admin: AdminDep) -> None:
    """Switch an account off or on, give it a new password or other roles."""
    password = body.password.get_secret_value() if body.password else None
    identity.change_user(
        app, username, active=body.active, password=password, roles=body.roles, by=admin.name
    )


@router.get("/tokens")
def list_tokens(app: AppDep, _admin: AdminDep) -> list[dict[str, Any]]:
    """All tokens ever made, without their secrets: what each may do, for which steriliser, and whether it holds."""
    return [
        {
            "name": t.name, "scopes": sorted(s.value for s in t.scopes), "steriliser": t.bound_to,
            "created_at": t.created_at.isoformat(),
            "revoked_at": t.revoked_at.isoformat() if t.revoked_at else None,
        }
        for t in identity.list_tokens(app)
    ]  # fmt: skip


@router.delete("/tokens/{name}", status_code=204)
def revoke_token(name: str, app: AppDep, admin: AdminDep) -> None:
    """A screen with this token can read no more, a machine send no more."""
    identity.revoke_token(app, name, admin.name)
