"""The printer attacked: seeded faults, instants and kill -9 of the service, judged by the printer's own ledger."""
