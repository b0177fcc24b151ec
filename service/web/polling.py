"""ETag, 304 and Retry-After for everything that is polled."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import Request
from fastapi.encoders import jsonable_encoder
from fastapi.responses import Response


def polled(
    request: Request,
    body: Mapping[str, Any] | Sequence[Any],
    *,
    retry_after_s: float,
    volatile: tuple[str, ...] = (),
) -> Response:
    """A JSON answer with a validator over its content.

    `volatile` keys (ages, times of answering), at any depth, are in the body but not in the ETag: they change by
    themselves and the reader can count them on.
    """
    plain = jsonable_encoder(body)
    digest = hashlib.sha256(json.dumps(_stable(plain, volatile), sort_keys=True).encode()).hexdigest()[:20]
    headers = {
        "ETag": f'"{digest}"',
        "Cache-Control": "no-cache, private",
        "Retry-After": f"{max(1, round(retry_after_s))}",
    }
    asked = {t.strip().removeprefix("W/") for t in request.headers.get("if-none-match", "").split(",")}
    if headers["ETag"] in asked or "*" in asked:
        return Response(status_code=304, headers=headers)
    return Response(json.dumps(plain), media_type="application/json", headers=headers)


def _stable(value: Any, volatile: tuple[str, ...]) -> Any:
    if isinstance(value, dict):
        return {k: _stable(v, volatile) for k, v in value.items() if k not in volatile}
    if isinstance(value, list):
        return [_stable(v, volatile) for v in value]
    return value
