"""How long slicing and its proof take: the audit alone, and STL to audited G-code against the engine's own time."""
