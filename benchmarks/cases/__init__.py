"""What contestants are measured on: the same inputs for all, made from seeds."""
