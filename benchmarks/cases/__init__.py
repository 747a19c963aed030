"""Makes the inputs that backends are measured on: the same for all, from seeds."""
