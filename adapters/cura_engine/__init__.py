"""Slicing with UltiMaker's CuraEngine for the Ultimaker 3."""

from adapters.cura_engine.engine import CuraEngineConfig, CuraEngineSlicer

__all__ = ["CuraEngineConfig", "CuraEngineSlicer"]
