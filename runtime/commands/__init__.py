"""Verbs of the command line that need only the runtime: one module a verb."""
