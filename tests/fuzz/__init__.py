"""Hostile files, by the thousand. `targets.py` says what is tried and what must hold, `edits.py` damages good files,
`corpus/` has those, and `__main__.py` is `make fuzz`."""
