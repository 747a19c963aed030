"""Graphs that need nothing beside them: tokens in, vectors out, standard operators alone."""
