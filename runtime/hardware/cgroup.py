"""Reads the limits that a container or service manager sets on this process: Linux control groups.

Version 2 has one tree below /sys/fs/cgroup, version 1 a tree for each controller. Groups are nested
and every ancestor's limit holds, so the tightest counts. A container may see its own group as the
root of the tree, whatever path /proc names.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["CGROUP", "PROC", "MemoryLimit", "cpu_quota", "memory_limits", "read_fields"]

PROC, CGROUP = Path("/proc"), Path("/sys/fs/cgroup")
#: Version 1 writes "no limit" as the largest multiple of a page.
NO_LIMIT = 1 << 60


@dataclass(frozen=True, slots=True)
class MemoryLimit:
    """One group's limit of memory.

    Attributes:
        limit: in bytes.
        used: of it, in bytes, without page cache: that is given back when it is needed.
    """

    limit: int
    used: int


def cpu_quota(proc: Path = PROC, cgroup: Path = CGROUP) -> float | None:
    """Return how many processors' time this process may use; None if nothing limits it.

    Args:
        proc: the folder with `self/cgroup`.
        cgroup: where the tree is mounted.
    """
    quotas = []
    for group in _groups("cpu", proc, cgroup):
        # Version 2: "<microseconds of work> <of every so many>", or "max …".
        fields = _text(group / "cpu.max").split() or [
            _text(group / "cpu.cfs_quota_us").strip(),
            _text(group / "cpu.cfs_period_us").strip(),
        ]
        if len(fields) == 2 and fields[0].isdigit() and fields[1].isdigit() and int(fields[1]):
            quotas.append(int(fields[0]) / int(fields[1]))
    found = [quota for quota in quotas if quota > 0]
    return min(found, default=None)


def memory_limits(proc: Path = PROC, cgroup: Path = CGROUP) -> list[MemoryLimit]:
    """Return the limits of memory of this process's groups, none if nothing limits it.

    Args:
        proc: the folder with `self/cgroup`.
        cgroup: where the tree is mounted.
    """
    limits = []
    for group in _groups("memory", proc, cgroup):
        names = ("memory.max", "memory.high", "memory.limit_in_bytes")
        values = [value for name in names if (value := _number(group / name)) < NO_LIMIT]
        if values:
            used = [_number(group / f"memory.{name}") for name in ("current", "usage_in_bytes")]
            stat = read_fields(group / "memory.stat", " ")
            cache = sum(_cached(stat, kind) for kind in ("active_file", "inactive_file"))
            taken = min(used) if min(used) < math.inf else 0
            limits.append(MemoryLimit(int(min(values)), max(0, int(taken) - cache)))
    return limits


def read_fields(path: Path, separator: str) -> dict[str, str]:
    """Return the `key<separator>value` lines of a file; none if it is not there."""
    lines = _text(path).splitlines()
    return {
        key.strip(): value.strip()
        for key, found, value in (line.partition(separator) for line in lines)
        if found
    }


def _cached(stat: dict[str, str], kind: str) -> int:
    # Version 1 counts a group's own and, under "total_", its children's too.
    value = stat.get(f"total_{kind}", stat.get(kind, ""))
    return int(value) if value.isdigit() else 0


def _groups(controller: str, proc: Path, cgroup: Path) -> Iterator[Path]:
    """Yield the folders of this process's group and of its ancestors, in either version's tree."""
    for line in _text(proc / "self" / "cgroup").splitlines() or ["0::/"]:
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            root = cgroup
        elif controller in controllers.split(","):
            names = (controllers, controller)
            root = next((cgroup / n for n in names if (cgroup / n).is_dir()), cgroup / controller)
        else:
            continue
        relative = Path(path.lstrip("/"))
        # A path that is not there is the host's: the group itself is mounted as the root.
        own = root / relative if (root / relative).is_dir() else root
        yield own
        for parent in own.parents:
            if not parent.is_relative_to(root):
                break
            yield parent


def _number(path: Path) -> float:
    text = _text(path).strip()
    return int(text) if text.isdigit() else math.inf


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
