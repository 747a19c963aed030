"""Runs every probe on this machine."""

import importlib.util

from trine.kernels.cpu.library import describe_kernels, why_unavailable
from trine.runtime.commands.doctor.onnx_runtime import read_onnxruntime
from trine.runtime.commands.doctor.packages import read_extras, read_packages
from trine.runtime.engines.native.entries import misses_kernels
from trine.runtime.hardware.cpu import read_cpu
from trine.runtime.hardware.isolation import run_isolated
from trine.runtime.hardware.machine import Machine
from trine.runtime.hardware.nvidia import read_driver

__all__ = ["survey_machine"]

#: Modules that can be installed and yet not be importable, for want of a native library.
NATIVE_MODULES = ("tensorrt", "tensorrt_rtx")


def survey_machine() -> Machine:
    """Return what the probes find; takes seconds, as native libraries are loaded apart."""
    broken = {}
    for name in NATIVE_MODULES:
        if importlib.util.find_spec(name) is not None:
            problem = run_isolated("import", name).problem
            if problem is not None:
                broken[name] = problem
    native_problem = why_unavailable()
    cpu = read_cpu()
    return Machine(
        cpu=cpu,
        driver=read_driver(),
        onnxruntime=read_onnxruntime(),
        packages=read_packages(),
        broken=broken,
        extras=read_extras(),
        native_kernels=describe_kernels() if native_problem is None else None,
        native_problem=native_problem,
        misses_kernels=misses_kernels(cpu.features),
    )
