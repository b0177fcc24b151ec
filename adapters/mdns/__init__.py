"""A program of its own that looks for printers by multicast DNS; see `__main__`. Nothing of the service imports it."""
