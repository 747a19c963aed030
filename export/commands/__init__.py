"""Verbs of the command line that need the `export` extra: one module a verb."""
