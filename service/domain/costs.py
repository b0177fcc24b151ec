"""What a print is estimated to cost: plastic by weight, printer by time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Prices:
    """As in [costs] of the configuration; None where the hospital states no price."""

    currency: str = "EUR"
    pla_per_kg: float | None = None
    printer_per_h: float | None = None

    @classmethod
    def from_document(cls, document: Mapping[str, Any] | None) -> Prices:
        return cls(**document) if document else cls()


def estimate(prices: Prices, *, weight_g: float, print_time_s: float) -> dict[str, Any] | None:
    """Amounts in `currency`, of what has a price, and their sum; None when nothing has one."""
    parts = {
        "material": None if prices.pla_per_kg is None else prices.pla_per_kg * weight_g / 1000.0,
        "printer": None if prices.printer_per_h is None else prices.printer_per_h * print_time_s / 3600.0,
    }
    known = {name: amount for name, amount in parts.items() if amount is not None}
    if not known:
        return None
    amounts = {name: round(amount, 2) for name, amount in known.items()}
    return {"currency": prices.currency, **amounts, "total": round(sum(known.values()), 2)}
