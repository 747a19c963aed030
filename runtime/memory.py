"""How much memory this process holds."""

from pathlib import Path

__all__ = ["resident_bytes"]


def resident_bytes() -> int:
    """Return the resident memory of this process, mapped files included; 0 where none can tell."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except (OSError, ValueError, IndexError):
        return 0  # no Linux
    import resource

    return pages * resource.getpagesize()
