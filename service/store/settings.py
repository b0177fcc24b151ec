"""Small facts that must survive a restart."""

from __future__ import annotations

from sqlalchemy import Engine, insert, select, update

from service.store.tables import settings


def load(engine: Engine, key: str) -> str | None:
    with engine.begin() as connection:
        value = connection.execute(select(settings.c.value).where(settings.c.key == key)).scalar_one_or_none()
    return str(value) if value is not None else None


def save(engine: Engine, key: str, value: str) -> None:
    with engine.begin() as connection:
        if (
            connection.execute(update(settings).where(settings.c.key == key).values(value=value)).rowcount
            == 0
        ):
            connection.execute(insert(settings).values(key=key, value=value))
