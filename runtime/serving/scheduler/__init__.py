"""Accepted calls to batches of the engine: admission, preparation, queue, loop."""
