"""Probes processors and memory, as far as this process may use them.

A container sees the host's /proc: its own limits are in its control group, and count where lower.
"""

import math
import platform
from pathlib import Path

from trine.kernels.processors import num_processors
from trine.runtime.hardware.machine import Cpu

__all__ = ["FEATURES", "read_cpu"]

#: Instruction sets that decide how fast 8- and 16-bit products are, as /proc/cpuinfo names them:
#: x86 vectors, their integer dot products (VNNI), bfloat16, AMX tiles; then their like on Arm.
FEATURES = (
    "avx2",
    "avx512f",
    "avx_vnni",
    "avx512_vnni",
    "avx512_bf16",
    "avx512_fp16",
    "amx_int8",
    "amx_bf16",
    "asimddp",
    "i8mm",
    "bf16",
    "sve",
)
#: Where Linux describes processors, memory and the limits of a control group (version 2).
PROC, CGROUP = Path("/proc"), Path("/sys/fs/cgroup")


def read_cpu(proc: Path = PROC, cgroup: Path = CGROUP) -> Cpu:
    """Return what there is; on other systems than Linux features and memory stay unknown.

    Args:
        proc: the folder with `cpuinfo` and `meminfo`.
        cgroup: the folder with `cpu.max`, `memory.max` and `memory.current`.
    """
    fields = _fields(proc / "cpuinfo")
    flags = set((fields.get("flags") or fields.get("Features") or "").split())
    memory, available = _memory(proc / "meminfo", cgroup)
    return Cpu(
        name=fields.get("model name") or platform.processor() or platform.machine(),
        cores=_cores(cgroup),
        features=tuple(feature for feature in FEATURES if feature in flags),
        memory_bytes=memory,
        available_bytes=available,
    )


def _fields(path: Path) -> dict[str, str]:
    """Return the `key: value` lines of a file; none if it is not there."""
    lines = _text(path).splitlines()
    return {
        key.strip(): value.strip()
        for key, colon, value in (line.partition(":") for line in lines)
        if colon
    }


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _cores(cgroup: Path) -> int:
    cores = num_processors()
    # "<microseconds of work> <of every so many>", or "max …".
    quota = _text(cgroup / "cpu.max").split()
    if len(quota) == 2 and quota[0].isdigit():
        cores = min(cores, max(1, math.floor(int(quota[0]) / int(quota[1]))))
    return cores


def _memory(meminfo: Path, cgroup: Path) -> tuple[int | None, int | None]:
    """Return (all, available) in bytes."""
    fields = _fields(meminfo)
    if "MemTotal" not in fields or "MemAvailable" not in fields:
        return None, None
    total, available = (
        int(fields[name].split()[0]) * 1024 for name in ("MemTotal", "MemAvailable")
    )
    limit, used = (_text(cgroup / f"memory.{name}").strip() for name in ("max", "current"))
    if limit.isdigit():
        total = min(total, int(limit))
        available = min(available, int(limit) - (int(used) if used.isdigit() else 0))
    return total, max(available, 0)
