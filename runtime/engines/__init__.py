"""What runs a graph: one module an engine, all with the Protocol of `trine.runtime.engines.base`."""
