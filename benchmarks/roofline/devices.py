"""Holds the data sheets of NVIDIA's GPUs: dense products a second, memory bandwidth, memory.

Where a sheet states rates "with sparsity" only, half of them stands here: no weight of this model
is sparse. Rates are those with float32 (or int32) sums.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

__all__ = ["DEVICES", "PRECISIONS", "DeviceSheet", "RatePrecision", "sheet_of"]

#: Number formats of products; "bf16" stands for fp16 as well, whose rate is the same everywhere.
RatePrecision = Literal["fp32", "tf32", "bf16", "fp8", "int8"]
PRECISIONS: tuple[RatePrecision, ...] = get_args(RatePrecision)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceSheet:
    """One GPU as its data sheet has it.

    Attributes:
        name: short.
        sm: compute capability, as 89 for 8.9.
        tera_operations: dense 10¹² operations a second by precision; without those it lacks.
        bandwidth: of its memory, in 10⁹ bytes a second.
        memory: in 10⁹ bytes.
        pattern: regular expression that the driver's name of it matches.
        source: where the numbers stand.
    """

    name: str
    sm: int
    tera_operations: Mapping[RatePrecision, float]
    bandwidth: float
    memory: float
    pattern: str
    source: str


DEVICES = (
    DeviceSheet(
        name="L4",
        sm=89,
        tera_operations={"fp32": 30.3, "tf32": 60, "bf16": 121, "fp8": 242.5, "int8": 242.5},
        bandwidth=300,
        memory=24,
        pattern=r"\bL4\b",
        source="NVIDIA L4 Tensor Core GPU data sheet (tensor rates with sparsity there, halved)",
    ),
    DeviceSheet(
        name="L40S",
        sm=89,
        tera_operations={"fp32": 91.6, "tf32": 183, "bf16": 366.5, "fp8": 733, "int8": 733},
        bandwidth=864,
        memory=48,
        pattern=r"\bL40S\b",
        source="NVIDIA L40S data sheet (tensor rates with sparsity there, halved)",
    ),
    DeviceSheet(
        name="RTX 4000 Ada",
        sm=89,
        tera_operations={"fp32": 26.7, "tf32": 40.95, "bf16": 81.9, "fp8": 163.8, "int8": 163.8},
        bandwidth=360,
        memory=20,
        pattern=r"RTX 4000 Ada",
        source="NVIDIA RTX 4000 Ada Generation data sheet; its one tensor rate, 327.6 for fp8 with "
        "sparsity, halved, and again for each wider format",
    ),
    DeviceSheet(
        name="RTX 4090",
        sm=89,
        tera_operations={"fp32": 82.6, "tf32": 82.6, "bf16": 165.2, "fp8": 330.3, "int8": 660.6},
        bandwidth=1008,
        memory=24,
        pattern=r"RTX 4090(?! Laptop)",
        source="NVIDIA Ada GPU Architecture white paper, appendix A (float32 sums)",
    ),
    DeviceSheet(
        name="RTX 5090",
        sm=120,
        tera_operations={"fp32": 104.8, "tf32": 104.8, "bf16": 209.5, "fp8": 419, "int8": 838},
        bandwidth=1792,
        memory=32,
        pattern=r"RTX 5090(?! Laptop| D)",
        source="NVIDIA RTX Blackwell GPU Architecture white paper, appendix A (float32 sums)",
    ),
    DeviceSheet(
        name="RTX PRO 6000 Blackwell",
        sm=120,
        tera_operations={"fp32": 126, "tf32": 251.9, "bf16": 503.8, "fp8": 1007.6, "int8": 1007.6},
        bandwidth=1792,
        memory=96,
        pattern=r"RTX PRO 6000 Blackwell Workstation",
        source="NVIDIA RTX PRO Blackwell GPU Architecture white paper, Workstation Edition",
    ),
    DeviceSheet(
        name="A10",
        sm=86,
        tera_operations={"fp32": 31.2, "tf32": 62.5, "bf16": 125, "int8": 250},
        bandwidth=600,
        memory=24,
        pattern=r"\bA10\b",
        source="NVIDIA A10 Tensor Core GPU data sheet",
    ),
    DeviceSheet(
        name="A10G",
        sm=86,
        tera_operations={"fp32": 35, "tf32": 35, "bf16": 70, "int8": 140},
        bandwidth=600,
        memory=24,
        pattern=r"\bA10G\b",
        source="NVIDIA A10G Tensor Core GPU data sheet",
    ),
    DeviceSheet(
        name="A100 40 GB",
        sm=80,
        tera_operations={"fp32": 19.5, "tf32": 156, "bf16": 312, "int8": 624},
        bandwidth=1555,
        memory=40,
        pattern=r"A100.*40GB",
        source="NVIDIA A100 Tensor Core GPU data sheet (40 GB)",
    ),
    DeviceSheet(
        name="A100 80 GB SXM",
        sm=80,
        tera_operations={"fp32": 19.5, "tf32": 156, "bf16": 312, "int8": 624},
        bandwidth=2039,
        memory=80,
        pattern=r"A100-SXM.*80GB",
        source="NVIDIA A100 Tensor Core GPU data sheet (80 GB SXM)",
    ),
    DeviceSheet(
        name="H100 SXM",
        sm=90,
        tera_operations={"fp32": 67, "tf32": 494.5, "bf16": 989.5, "fp8": 1979, "int8": 1979},
        bandwidth=3350,
        memory=80,
        pattern=r"H100.*(SXM|HBM3)",
        source="NVIDIA H100 Tensor Core GPU data sheet, SXM (tensor rates with sparsity there, "
        "halved)",
    ),
    DeviceSheet(
        name="H200 SXM",
        sm=90,
        tera_operations={"fp32": 67, "tf32": 494.5, "bf16": 989.5, "fp8": 1979, "int8": 1979},
        bandwidth=4800,
        memory=141,
        pattern=r"\bH200\b(?! NVL)",
        source="NVIDIA H200 Tensor Core GPU data sheet, SXM (tensor rates with sparsity there, "
        "halved)",
    ),
    DeviceSheet(
        name="B200",
        sm=100,
        tera_operations={"fp32": 75, "tf32": 1125, "bf16": 2250, "fp8": 4500, "int8": 4500},
        bandwidth=8000,
        memory=180,
        pattern=r"\bB200\b",
        source="NVIDIA Blackwell data sheet, HGX B200, an eighth (tensor rates with sparsity "
        "there, halved)",
    ),
)


def sheet_of(name: str) -> DeviceSheet | None:
    """Return the data sheet of the GPU that the driver calls `name`; None if it is not listed."""
    return next((sheet for sheet in DEVICES if re.search(sheet.pattern, name)), None)
