"""Writes the files of a bundle, whole or not at all."""
