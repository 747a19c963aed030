"""The engines: what runs a graph. One module each, all with the Protocol of `trine.runtime.engine`."""
