"""`trine doctor`: probes of this machine, what follows from them, and how that is shown."""
