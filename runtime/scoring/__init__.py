"""Vectors compared, ranked and stored in fewer bytes."""
