"""Makes the inputs that contestants are measured on: the same for all, from seeds."""
