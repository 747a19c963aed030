"""The machine as this process may use it: processors, memory, GPUs."""
