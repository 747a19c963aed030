"""Says how much memory this process may take, how much it holds, and gives back what it maps."""

import ctypes
import mmap
import os
from pathlib import Path

from trine.runtime.hardware.cgroup import CGROUP, PROC, memory_limits, read_fields

__all__ = ["available_bytes", "release_mapped", "resident_bytes", "total_bytes"]


def total_bytes(proc: Path = PROC, cgroup: Path = CGROUP) -> int | None:
    """Return the machine's memory, or the container's limit where that is less; None if unknown.

    Args:
        proc: the folder with `meminfo` and `self/cgroup`.
        cgroup: where the control groups are mounted.
    """
    total = _meminfo(proc, "MemTotal")
    limits = (group.limit for group in memory_limits(proc, cgroup))
    return None if total is None else min(total, *limits, total)


def available_bytes(proc: Path = PROC, cgroup: Path = CGROUP) -> int | None:
    """Return the memory that this process can take without swapping, or being killed for it.

    Page cache counts as available, since the system gives it back. None if unknown.

    Args:
        proc: the folder with `meminfo` and `self/cgroup`.
        cgroup: where the control groups are mounted.
    """
    available = _meminfo(proc, "MemAvailable")
    if available is None:
        return None
    limits = (group.limit - group.used for group in memory_limits(proc, cgroup))
    return max(0, min(available, *limits, available))


def _meminfo(proc: Path, name: str) -> int | None:
    value = read_fields(proc / "meminfo", ":").get(name, "").removesuffix(" kB").strip()
    return int(value) * 1024 if value.isdigit() else None


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
