"""CT to model, measured: isolation on real CT with reference labels, phantoms with a known truth, the solid, time."""
