"""Logs of a server: written without ever holding it up."""
