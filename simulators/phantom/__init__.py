"""Parametric spine phantom with known truth: an independent witness that shares no code with the service."""

from simulators.phantom.anatomy import PhantomParameters, small_parameters
from simulators.phantom.shape import vertebra_sdf
from simulators.phantom.study import Phantom, generate, write_study

__all__ = ["Phantom", "PhantomParameters", "generate", "small_parameters", "vertebra_sdf", "write_study"]
