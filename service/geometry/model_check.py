"""What the self-check of a model measures, its limits, and what each failure means in words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from service.domain.plan import Plan


@dataclass(frozen=True)
class CheckSettings:
    """Limits: acceptance of the solid (wall, channel) and facts sheet `vents`."""

    wall_mean_tolerance_mm: float = 0.05
    wall_p1_below_mm: float = 0.15
    """How far the first percentile may lie below the shell."""
    thicker_mm: float = 0.3
    """Wall more than this above the shell does not enter the mean but `thicker_share`."""
    max_thicker_share: float = 0.25
    min_feature_mm: float = 0.8
    max_thin_share: float = 0.02
    """Share of the outer surface that may be thinner than that: edges seen by a ray at a slant."""
    axis_mm: float = 0.1
    axis_deg: float = 0.1
    diameter_mm: float = 0.05
    depth_mm: float = 0.3
    needle_diameter_mm: float = 2.41
    """13 G (paper)."""
    gas_ball_mm: float = 2.5
    min_vent_mm: float = 3.0
    openings_per_cavity: int = 2
    min_cavity_mm3: float = 50.0
    """Hollows smaller than this need no vents of their own, only to be reached."""
    pocket_mm3: float = 5.0
    """Crevices up to this volume beyond the ball's reach are let pass."""
    surface_p99_mm: float = 0.3
    missing_reach_mm: float = 0.8
    """Bone farther than this from the model's material and not around its hollow is missing from it: two voxels,
    so that neither voxels nor the thickness of a line count."""
    missing_ml: float = 0.5
    """More missing bone than this is a process, not a crumb."""
    least_relief_mm: float = 0.35
    """A mark that stands out less cannot be read on a print of 0.2 mm layers."""
    voxel_mm: float = 0.4
    rays: int = 12000


@dataclass(frozen=True)
class WallCheck:
    """Thickness in mm. `mean`, `p1`, `min` from the hollow outward; `thin_share` from the outer surface inward."""

    mean_mm: float | None
    sd_mm: float | None
    p1_mm: float | None
    min_mm: float | None
    thicker_share: float
    thin_share: float
    samples: int


@dataclass(frozen=True)
class ChannelCheck:
    pedicle: str
    axis_mm: float | None
    axis_deg: float | None
    diameter_mm: float | None
    clear_diameter_mm: float
    depth_error_mm: float | None
    open: bool


@dataclass(frozen=True)
class VentCheck:
    diameter_mm: float
    reaches_hollow: bool
    cavity: int


@dataclass(frozen=True)
class ModelCheck:
    """What was measured; `failures` in words, empty when the model passes."""

    watertight: bool
    winding_consistent: bool
    bodies: int
    closed_voids: int
    closed_void_mm3: float
    volume_ml: float
    extents_mm: tuple[float, float, float]
    faces: int
    wall: WallCheck
    channels: tuple[ChannelCheck, ...]
    vents: tuple[VentCheck, ...]
    hollow_ml: float
    cavities: int
    unreached_mm3: float
    surface_p99_mm: float | None
    """Deviation of the outside from the isolated bone; None when no bone was given."""
    mark_relief_mm: tuple[float, ...] = ()
    """How far each mark stands out of the bone; empty when no bone was given or nothing is written."""
    missing_ml: float | None = None
    """Isolated bone that the model does not hold, away from channels, vents and marks; None when no bone was given."""
    failures: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        return not self.failures

    def to_document(self) -> dict[str, object]:
        """JSON form for `report.json`; floats rounded to 1e-4."""
        document: dict[str, Any] = _rounded(asdict(self))
        return {"passed": self.passed, **document}


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 4)
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(item) for item in value]
    return value


def failures_of(
    check: ModelCheck, plan: Plan, settings: CheckSettings, cavity_mm3: Sequence[float]
) -> Iterator[str]:
    """Every reason in words not to print this model. `cavity_mm3` are the volumes of the numbered cavities."""
    yield from _mesh_failures(check)
    yield from _wall_failures(check, plan, settings)
    for channel in check.channels:
        yield from _channel_failures(channel, plan, settings)
    yield from _gas_failures(check, settings, cavity_mm3)
    if check.surface_p99_mm is not None and check.surface_p99_mm > settings.surface_p99_mm:
        yield (
            f"The outside of the model lies up to {check.surface_p99_mm:.2f} mm (99th percentile) from the bone; "
            f"{settings.surface_p99_mm:g} mm are allowed: wrong size, place or mirrored."
        )
    if check.missing_ml is not None and check.missing_ml > settings.missing_ml:
        yield (
            f"{check.missing_ml:.2f} mL of the isolated bone are missing from the model; "
            f"{settings.missing_ml:g} mL are allowed."
        )
    for number, relief in enumerate(check.mark_relief_mm, 1):
        if relief < settings.least_relief_mm:
            yield f"Mark {number} stands out by {relief:.2f} mm only; {settings.least_relief_mm:g} mm can be read."


def _mesh_failures(check: ModelCheck) -> Iterator[str]:
    if not check.watertight:
        yield "The surface is not watertight: there are open or multiply shared edges."
    if not check.winding_consistent:
        yield "The faces do not all look outward."
    if check.volume_ml <= 0:
        yield "The surface is inside out."
    if check.bodies != 1:
        yield f"The model consists of {check.bodies} separate bodies instead of one."
    if check.closed_voids:
        yield (
            f"The model encloses {check.closed_voids} sealed cavity(ies) of {check.closed_void_mm3:.1f} mm³ "
            "that gas cannot reach."
        )


def _wall_failures(check: ModelCheck, plan: Plan, settings: CheckSettings) -> Iterator[str]:
    shell, wall = plan.model.shell_mm, check.wall
    if wall.mean_mm is not None and abs(wall.mean_mm - shell) > settings.wall_mean_tolerance_mm:
        yield f"The wall is {wall.mean_mm:.2f} mm on average instead of {shell:g} mm."
    if wall.p1_mm is not None and wall.p1_mm < shell - settings.wall_p1_below_mm:
        yield f"The wall is thinner than {wall.p1_mm:.2f} mm on 1 % of the hollow's surface."
    if wall.mean_mm is not None and wall.thicker_share > settings.max_thicker_share:
        yield (
            f"{100 * wall.thicker_share:.0f} % of the hollow's wall is more than {settings.thicker_mm:g} mm "
            f"thicker than {shell:g} mm."
        )
    if wall.mean_mm is None and check.hollow_ml + check.closed_void_mm3 / 1000.0 > 0.5:
        yield f"The wall of the hollow is not {shell:g} mm thick anywhere it could be measured."
    if wall.thin_share > settings.max_thin_share:
        yield (
            f"{100 * wall.thin_share:.1f} % of the outside is thinner than {settings.min_feature_mm:g} mm, "
            "which a 0.4 mm nozzle does not print soundly."
        )


def _channel_failures(channel: ChannelCheck, plan: Plan, settings: CheckSettings) -> Iterator[str]:
    name, wanted = f"The {channel.pedicle} channel", plan.model.channel_diameter_mm
    if not channel.open:
        yield (
            f"{name} is blocked: a needle of {settings.needle_diameter_mm:g} mm does not pass "
            f"(free diameter {channel.clear_diameter_mm:.2f} mm)."
        )
    if channel.axis_mm is None or channel.axis_deg is None or channel.diameter_mm is None:
        yield f"{name} was not found in the model."
        return
    if channel.axis_mm > settings.axis_mm or channel.axis_deg > settings.axis_deg:
        yield f"{name} is off the plan by {channel.axis_mm:.2f} mm and {channel.axis_deg:.2f}°."
    if abs(channel.diameter_mm - wanted) > settings.diameter_mm:
        yield f"{name} is {channel.diameter_mm:.2f} mm wide instead of {wanted:g} mm."
    if channel.depth_error_mm is not None and abs(channel.depth_error_mm) > settings.depth_mm:
        yield f"{name} ends {channel.depth_error_mm:+.2f} mm from the planned depth."


def _gas_failures(check: ModelCheck, settings: CheckSettings, cavity_mm3: Sequence[float]) -> Iterator[str]:
    for number, vent in enumerate(check.vents, start=1):
        if not vent.reaches_hollow:
            yield f"Vent {number} is blocked or leads into no hollow."
        elif vent.diameter_mm < settings.min_vent_mm:
            yield f"Vent {number} is {vent.diameter_mm:.2f} mm wide; at least {settings.min_vent_mm:g} mm are needed."
    for number, volume in enumerate(cavity_mm3, start=1):
        count = sum(vent.cavity == number for vent in check.vents)
        if volume > settings.min_cavity_mm3 and count < settings.openings_per_cavity:
            yield (
                f"A hollow of {volume / 1000.0:.1f} ml has {count} vent(s); "
                f"{settings.openings_per_cavity} are needed for gas and drainage."
            )
    if check.unreached_mm3 > 0:
        yield (
            f"{check.unreached_mm3:.0f} mm³ of hollow are out of reach of a ball of "
            f"{settings.gas_ball_mm:g} mm from outside: gas would not get there."
        )
