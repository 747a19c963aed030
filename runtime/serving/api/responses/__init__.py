"""Vectors, scores and errors to bodies of responses."""
