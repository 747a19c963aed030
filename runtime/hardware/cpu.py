"""Reads what the processor is, and how much of it and of the memory this process may use."""

import platform
from pathlib import Path

from trine.runtime.hardware.cgroup import CGROUP, PROC, read_fields
from trine.runtime.hardware.machine import Cpu
from trine.runtime.hardware.memory import available_bytes, total_bytes
from trine.runtime.hardware.processors import num_processors

__all__ = ["read_cpu"]

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


def read_cpu(proc: Path = PROC, cgroup: Path = CGROUP) -> Cpu:
    """Return what there is; on other systems than Linux features and memory stay unknown.

    Args:
        proc: the folder with `cpuinfo`, `meminfo` and `self/cgroup`.
        cgroup: where the control groups are mounted.
    """
    fields = read_fields(proc / "cpuinfo", ":")
    flags = set((fields.get("flags") or fields.get("Features") or "").split())
    return Cpu(
        name=fields.get("model name") or platform.processor() or platform.machine(),
        cores=num_processors(proc, cgroup),
        features=tuple(feature for feature in FEATURES if feature in flags),
        memory_bytes=total_bytes(proc, cgroup),
        available_bytes=available_bytes(proc, cgroup),
    )
