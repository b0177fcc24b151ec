"""Slicing with UltiMaker's CuraEngine for the Ultimaker 3."""

from adapters.cura_engine.engine import CuraEngineSlicer
from adapters.cura_engine.print_values import CuraEngineConfig

__all__ = ["CuraEngineConfig", "CuraEngineSlicer"]
