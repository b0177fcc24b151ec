"""A simulated Ultimaker 3: its local HTTP API, the life of a print, a person at the panel, and faults.

Written from the reference sheet of the printer alone; it imports nothing from the service or its adapters, so
that it can witness against both. Points the sheet calls unknown are switches (`options.Options`).
"""
