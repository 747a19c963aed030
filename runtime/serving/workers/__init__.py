"""Processes of the server, and the adapters they agree on."""
