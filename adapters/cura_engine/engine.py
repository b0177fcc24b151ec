"""CuraEngine as the `Slicer` of the core: one separate process per job, in its own folder."""

from __future__ import annotations

import errno
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

from adapters.cura_engine.finalise import finalise
from adapters.cura_engine.locate import HOW_TO_INSTALL, CuraInstall, find_install
from adapters.cura_engine.mesh_bounds import Bounds, stl_bounds
from adapters.cura_engine.print_values import (
    CURA_4_LAST_SETTING_VERSION,
    CuraEngineConfig,
    blocker_values,
    by_hand,
    filler_values,
    print_values,
)
from adapters.cura_engine.resolve import FlatDefinition, flatten, setting_version_of
from service.errors import GeometryError, SpineprintError, StorageError, ToolMissingError
from service.ports import SliceResult, SliceSettings

# Left head of an Ultimaker 3; 233 mm are reached only with both heads (reference/ultimaker3_api.md, 6.2).
BED_X_MM, BED_Y_MM, BED_Z_MM = 215.0, 215.0, 200.0
# machine_center_is_zero is false: CuraEngine puts the model's x=y=0 at half the nominal 233 x 215 plate.
BED_FROM_PRINT_MM = (116.5, 107.5)
_PLATE_CONTACT_TOLERANCE_MM = 0.05
_LOG_TAIL_CHARACTERS = 2000


class CuraEngineSlicer:
    """Implements `service.ports.Slicer` with an unmodified CuraEngine 4.13 or 5.x."""

    def __init__(self, config: CuraEngineConfig | None = None) -> None:
        self._config = config or CuraEngineConfig()

    @cached_property
    def _install(self) -> CuraInstall:
        return find_install(self._config.engine, self._config.resources)

    @cached_property
    def _version(self) -> str:
        """Version the engine states. Raises ToolMissingError when it does not run."""
        try:
            done = subprocess.run(
                [str(self._install.engine), "help"], capture_output=True, timeout=60, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise ToolMissingError("CuraEngine does not start.", next_step=HOW_TO_INSTALL) from error
        text = (done.stdout + done.stderr).decode("utf-8", errors="replace")
        match = re.search(r"version\s+(\d+(?:\.\d+)+)", text)
        if not match:
            raise ToolMissingError("CuraEngine does not state its version.", next_step=HOW_TO_INSTALL)
        return match.group(1)

    def describe(self) -> str:
        """Engine and definitions in words. Raises ToolMissingError with how to install."""
        return self._describe(self._flat(SliceSettings()))

    def _describe(self, flat: FlatDefinition) -> str:
        return f"CuraEngine {self._version}, {flat.name} definitions (setting version {flat.setting_version})"

    def _flat(self, settings: SliceSettings) -> FlatDefinition:
        release = setting_version_of(self._install.resources)
        if self._version.startswith("4.") != (release <= CURA_4_LAST_SETTING_VERSION):
            raise ToolMissingError(
                f"CuraEngine {self._version} and the printer definitions found (setting version {release}) are of "
                "different releases.",
                next_step=HOW_TO_INSTALL,
                code="tool.definitions",
            )
        return flatten(self._install.resources, print_values(settings, self._config, release))

    def slice(
        self,
        part_stl: Path,
        out: Path,
        settings: SliceSettings,
        *,
        blocker_stl: Path | None = None,
        filler_stl: Path | None = None,
    ) -> SliceResult:
        """Slice a closed mesh (mm, z up, on z=0, centred on x=y=0) and write the finished `out`.

        Raises GeometryError (does not fit the plate), ToolMissingError (its details have the settings), StorageError,
        SpineprintError (`slicer.failed`, `slicer.timeout`, `slicer.empty`).
        """
        margin = self._config.brim_mm if settings.brim else 0.0
        check_on_plate(stl_bounds(part_stl), margin)
        try:
            flat = self._flat(settings)
        except ToolMissingError as error:
            error.details["settings"] = by_hand(settings, self._config)
            raise
        meshes: dict[str, tuple[Path, Mapping[str, object]]] = {"part": (part_stl, {})}
        if filler_stl is not None:
            meshes["filler"] = (filler_stl, filler_values(self._config.filler_line_distance_mm))
        if blocker_stl is not None:
            meshes["blocker"] = (blocker_stl, blocker_values())
        try:
            with tempfile.TemporaryDirectory(prefix="slicing-", dir=self._config.work_folder) as name:
                raw, log = self._run(Path(name), flat, meshes)
                done = finalise(
                    raw, log, out, fixed={"EXTRUDER_TRAIN.0.MATERIAL.GUID": settings.material_guid}
                )
        except OSError as error:
            if error.errno not in {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES}:
                raise
            raise StorageError(
                "The sliced file could not be written: the disk is full or not writable.",
                next_step="Free space in the data folder and the temporary folder; slicing starts again.",
            ) from error
        return SliceResult(
            gcode=out,
            print_time_s=done.print_time_s,
            material_mm3=done.material_mm3,
            layer_count=done.layer_count,
            engine=self._describe(flat),
            log_tail=_tail(log),
        )

    def _run(
        self, folder: Path, flat: FlatDefinition, meshes: Mapping[str, tuple[Path, Mapping[str, object]]]
    ) -> tuple[bytes, str]:
        """Run the engine in `folder`; returns the raw file and the log."""
        (folder / "printer.def.json").write_text(flat.to_json(), encoding="ascii")
        threads = self._config.threads
        command = [str(self._install.engine), "slice", "-v", f"-m{threads}", "-j", "printer.def.json", "-e0"]
        for name, (source, values) in meshes.items():
            # CuraEngine writes the file name into the G-code: it must say nothing about the case.
            shutil.copyfile(source, folder / f"{name}.stl")
            command += ["-l", f"{name}.stl"]
            for key, value in sorted(values.items()):
                command += ["-s", f"{key}={str(value).lower() if isinstance(value, bool) else value}"]
        command += ["-o", "raw.gcode"]
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "LC_ALL": "C"}
        with (folder / "engine.log").open("wb") as log_file:
            try:
                code = subprocess.run(
                    command,
                    cwd=folder,
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=log_file,
                    stderr=subprocess.STDOUT,
                    timeout=self._config.timeout_s,
                    check=False,
                ).returncode
            except subprocess.TimeoutExpired as error:
                raise SpineprintError(
                    f"Slicing took longer than {self._config.timeout_s:.0f} s and was stopped.",
                    next_step="Reduce the number of faces of the model, or raise the slicing time limit.",
                    code="slicer.timeout",
                ) from error
        log = (folder / "engine.log").read_text(encoding="utf-8", errors="replace")
        raw_path = folder / "raw.gcode"
        if code != 0 or not raw_path.is_file():
            raise SpineprintError(
                f"CuraEngine {self._version} stopped with code {code} and gave no file.",
                next_step="See the engine's last words in the details; check the model and the installation.",
                code="slicer.failed",
                details={"exit_code": code, "log_tail": _tail(log)},
            )
        return raw_path.read_bytes(), log


def check_on_plate(bounds: Bounds, margin_mm: float) -> None:
    """Refuse a model that is not on the plate: the engine would slice it without a word.

    `bounds` in the STL's coordinates (mm); `margin_mm` is what the brim needs around it. Raises GeometryError.
    """
    if abs(bounds.low[2]) > _PLATE_CONTACT_TOLERANCE_MM:
        raise GeometryError(
            f"The model does not rest on the plate: its lowest point is at z = {bounds.low[2]:.2f} mm.",
            next_step="Move the model so that its lowest point is at z = 0.",
            code="geometry.off_plate",
        )
    limits = (BED_X_MM, BED_Y_MM)
    for axis, (centre, limit) in enumerate(zip(BED_FROM_PRINT_MM, limits, strict=True)):
        low = bounds.low[axis] + centre - margin_mm
        high = bounds.high[axis] + centre + margin_mm
        if low < 0.0 or high > limit:
            raise GeometryError(
                f"The model with its brim does not fit the plate along {'xy'[axis]}: it would reach from "
                f"{low:.1f} to {high:.1f} mm of {limit:.0f} mm.",
                next_step="Centre the model on x = y = 0 or turn it.",
                code="geometry.off_plate",
            )
    if bounds.high[2] > BED_Z_MM:
        raise GeometryError(
            f"The model is {bounds.high[2]:.1f} mm high; the printer reaches {BED_Z_MM:.0f} mm.",
            next_step="Turn the model so that it is lower.",
            code="geometry.off_plate",
        )


def _tail(log: str) -> str:
    """Last words of the engine without any path."""
    return re.sub(r"(?:[A-Za-z]:)?[/\\][^\s:]+", "<path>", log[-_LOG_TAIL_CHARACTERS:]).strip()
