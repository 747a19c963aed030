"""HTTP: connections, bodies, identity, limits and deadlines of requests."""
