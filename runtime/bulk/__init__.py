"""Bulk jobs: many rows of many files into a dataset folder, resumable after a kill."""
