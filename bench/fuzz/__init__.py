"""Damaged input by the hundred thousand. `python -m bench.fuzz pdu|dataset --cases N --seed N`.

A target is a module here with `one_case(data)`, which raises only when the code under test did something wrong,
and `seeds()`, valid inputs to damage; `units(data)`, when it has one, tells the mutator where the parts and their
length fields are, and `reset()` lets go of what the cases left behind.
"""
