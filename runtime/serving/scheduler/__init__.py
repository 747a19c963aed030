"""Accepted calls to batches of the engine: admission, preprocessor, queue, loop."""
