"""What this process may use of the machine: processors, memory, GPUs."""
