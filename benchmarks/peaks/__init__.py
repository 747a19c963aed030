"""Measures the machine's best: the roofs that results are held against."""
