"""How much memory this process holds, and how it gives back what it maps."""

import ctypes
import mmap
import os
from pathlib import Path

__all__ = ["release_mapped", "resident_bytes"]


def resident_bytes() -> int:
    """Return the resident memory of this process, mapped files included; 0 where none can tell."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except (OSError, ValueError, IndexError):
        return 0  # no Linux
    import resource

    return pages * resource.getpagesize()


def release_mapped(path: Path) -> None:
    """Give back the resident pages of a file that this process maps; they are read anew if needed.

    For files that are mapped and only read. Nothing happens where the operating system is not
    Linux or the file is not mapped.
    """
    maps, wanted = Path("/proc/self/maps"), os.path.realpath(path)
    if not maps.exists():
        return
    advise = ctypes.CDLL(None, use_errno=True).madvise
    for line in maps.read_text(encoding="utf-8", errors="surrogateescape").splitlines():
        fields = line.split(maxsplit=5)
        if len(fields) == 6 and fields[5] == wanted:
            start, end = (int(number, 16) for number in fields[0].split("-"))
            advise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), mmap.MADV_DONTNEED)
