"""Heaters in closed form: a steady climb to the target, a slow fall to the room."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass
class Heater:
    """Temperature in degrees C over machine time in seconds."""

    rate_c_s: float
    cooling_tau_s: float
    ambient_c: float
    target_c: float = 0.0
    _from_c: float = math.nan
    _since_s: float = 0.0

    def current_c(self, now_s: float) -> float:
        start = self.ambient_c if math.isnan(self._from_c) else self._from_c
        goal = max(self.target_c, self.ambient_c)
        passed_s = max(0.0, now_s - self._since_s)
        if goal >= start:
            return min(goal, start + self.rate_c_s * passed_s)
        return goal + (start - goal) * math.exp(-passed_s / self.cooling_tau_s)

    def set_target(self, target_c: float, now_s: float) -> None:
        self._from_c, self._since_s = self.current_c(now_s), now_s
        self.target_c = target_c

    def seconds_to(self, target_c: float, now_s: float) -> float:
        """Heating time from the temperature at `now_s`; 0 when already hot enough."""
        return max(0.0, target_c - self.current_c(now_s)) / self.rate_c_s
