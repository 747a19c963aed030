"""Engines run the graphs: a package each, all with the Protocol of `trine.runtime.engines.base`."""
