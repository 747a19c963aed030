"""Bodies of requests to items, tasks and options."""
