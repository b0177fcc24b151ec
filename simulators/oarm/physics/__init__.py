"""The O-arm as a machine that measures projections: cone beam, spectrum, scatter, noise, FDK (a development extra)."""

from simulators.oarm.physics.rtk import PhysicsMissingError
from simulators.oarm.physics.settings import PhysicsSettings, small_physics

__all__ = ["PhysicsMissingError", "PhysicsSettings", "small_physics"]
