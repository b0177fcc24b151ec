"""Announces a simulated printer by multicast DNS; a program of its own, see `__main__`."""
