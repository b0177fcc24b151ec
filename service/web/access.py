"""Who is asking: a person with a session, or a screen with a token. Nothing but liveness is open."""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, cast
from urllib.parse import urlparse

from fastapi import Depends, Request
from sqlalchemy.exc import SQLAlchemyError

from service.domain.people import IMAGE_BRINGERS, Actor, Person, Role, Scope, acting
from service.errors import NotAllowedError, NotAuthenticatedError
from service.workflow import identity
from service.workflow.app import App

COOKIE = "spineprint_session"


def get_app(request: Request) -> App:
    return cast(App, request.app.state.spineprint)


AppDep = Annotated[App, Depends(get_app)]


@dataclass(frozen=True)
class Caller:
    """Either `person` is set, or `scopes` of a screen's token are."""

    person: Person | None = None
    screen: str = ""
    scopes: frozenset[Scope] = frozenset()
    bound_to: str = ""
    """The one device a machine's token speaks for."""

    @property
    def actor(self) -> Actor:
        if self.person is None:
            raise NotAllowedError(
                "A screen's token can only read.", code="auth.read_only", next_step="Log in as a person."
            )
        return acting(self.person)


def session_secret(request: Request) -> str:
    """A session's or a token's secret: as a bearer, as the password of basic credentials, or in the cookie.

    Many DICOMweb clients can only do the second; the user name beside it is not looked at.
    """
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return given.strip()
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(given.strip(), validate=True).decode().partition(":")[2]
        except ValueError:
            return ""
    return request.cookies.get(COOKIE, "")


def current_caller(request: Request, app: AppDep) -> Caller:
    secret = session_secret(request)
    if secret:
        person = identity.person_of_session(app, secret)
        if person:
            _refuse_cross_site(request)
            return Caller(person=person)
        token = identity.token_of(app, secret)
        if token:
            return Caller(screen=token.name, scopes=token.scopes, bound_to=token.bound_to)
    raise NotAuthenticatedError(
        "Please log in.", next_step="Log in, or give this screen its token.", code="auth.required"
    )


def _refuse_cross_site(request: Request) -> None:
    """A cookie alone must not let another site act: browsers say where a request comes from (Fetch Metadata)."""
    if request.method in ("GET", "HEAD") or COOKIE not in request.cookies:
        return
    site = request.headers.get("sec-fetch-site")
    if site is None:
        # Older browsers say at least where a form or script came from.
        origin = request.headers.get("origin")
        same = origin is None or urlparse(origin).netloc == request.headers.get("host", "")
    else:
        same = site in ("same-origin", "none")
    if not same:
        raise NotAllowedError(
            "This request came from another site.",
            code="auth.cross_site",
            next_step="Use the service's own pages.",
        )


def caller_if_any(request: Request, app: AppDep) -> Caller | None:
    """Who is asking, or None: for what says more to those who are logged in."""
    try:
        return current_caller(request, app)
    except (NotAuthenticatedError, SQLAlchemyError):
        return None


def current_person(caller: Annotated[Caller, Depends(current_caller)]) -> Actor:
    return caller.actor


PersonDep = Annotated[Actor, Depends(current_person)]


def reader(*scopes: Scope) -> Callable[[Caller], Caller]:
    """A dependency: any person, or a screen whose token has one of `scopes`."""

    def check(caller: Annotated[Caller, Depends(current_caller)]) -> Caller:
        if caller.person is None and not caller.scopes & set(scopes):
            raise NotAllowedError(
                "This screen's token does not cover this page.",
                code="auth.scope",
                next_step="Ask the administrator for a token with the right scope.",
            )
        return caller

    return check


def machine(scope: Scope) -> Callable[[Caller], Caller]:
    """A dependency: a machine whose token has `scope`. No person: what a machine sends is not signed by anybody."""

    def check(caller: Annotated[Caller, Depends(current_caller)]) -> Caller:
        if scope not in caller.scopes:
            raise NotAllowedError(
                f"This is for a machine's token with the scope {scope.value}.",
                code="auth.scope",
                next_step="Ask the administrator for such a token; people bring the file on the page of the load.",
            )
        return caller

    return check


def image_bringer(*scopes: Scope) -> Callable[[Caller], Caller]:
    """A dependency: a person who may bring images, or a machine whose token has one of `scopes`."""

    def check(caller: Annotated[Caller, Depends(current_caller)]) -> Caller:
        if not may_bring_images(caller, *scopes):
            if caller.person is None:
                raise NotAllowedError(
                    "This token cannot store images.",
                    code="auth.scope",
                    next_step="Ask the administrator for a token with the scope dicom_web, for STOW-RS only.",
                )
            raise NotAllowedError(
                "This needs one of these roles: " + ", ".join(sorted(r.value for r in IMAGE_BRINGERS)) + ".",
                code="auth.role",
                next_step="Ask a person with that role.",
            )
        return caller

    return check


def may_bring_images(caller: Caller, *scopes: Scope) -> bool:
    if caller.person is not None:
        return bool(caller.person.roles & IMAGE_BRINGERS)
    return bool(caller.scopes & set(scopes))


def has_role(*roles: Role) -> Callable[[Actor], Actor]:
    """A dependency: a person with one of `roles`."""

    def check(actor: PersonDep) -> Actor:
        if not (actor.roles or frozenset()) & set(roles):
            raise NotAllowedError(
                "This needs one of these roles: " + ", ".join(r.value for r in roles) + ".",
                code="auth.role",
                next_step="Ask a person with that role.",
            )
        return actor

    return check
