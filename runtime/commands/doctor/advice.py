"""Turns what the probes found into what is wrong and the line that mends it."""

from collections.abc import Iterator
from dataclasses import dataclass

from trine.runtime.hardware.machine import Extra, Machine

__all__ = ["Advice", "advise", "install_line", "tensorrt_version"]

#: Command that leaves exactly one package behind the module `onnxruntime`.
SWAP = "pip uninstall -y onnxruntime onnxruntime-gpu && pip install {}"
#: Packages that bring the module `tensorrt`.
TENSORRT = ("tensorrt", "tensorrt-cu12", "tensorrt-cu13")
#: Extras that exclude one another: one of them is enough.
ONNXRUNTIME_EXTRAS = ("cpu", "gpu")
#: Extras that are of use with a GPU only, and one that is for comparisons, not for running.
GPU_EXTRAS = ("gpu", "tensorrt", "tensorrt-rtx")
#: What no one needs to run bundles: comparisons, compilers of kernels, checks of the code, and what
#: only those need who ask for it by name.
NOT_NEEDED = (
    *("reference", "benchmarks", "dev", "kernels", "telemetry"),
    *("heic", "hub", "completion", "sentence-transformers", "langchain", "llama-index", "haystack"),
)


@dataclass(frozen=True, slots=True)
class Advice:
    """One thing that is missing or does not fit.

    Attributes:
        problem: what, in one sentence.
        remedy: the command or the step that mends it.
    """

    problem: str
    remedy: str


def advise(machine: Machine) -> tuple[Advice, ...]:
    """Return what to mend, the most basic first."""
    return (
        *_onnxruntime(machine),
        *_kernels(machine),
        *_driver(machine),
        *_cuda(machine),
        *_tensorrt(machine),
        *_extras(machine),
    )


def tensorrt_version(machine: Machine) -> str | None:
    """Return the version of the installed TensorRT; None if there is none."""
    return next((machine.packages[name] for name in TENSORRT if name in machine.packages), None)


def install_line(extra: str) -> str:
    """Return the command that installs an extra."""
    return f"pip install 'trine[{extra}]'"


def _onnxruntime(machine: Machine) -> Iterator[Advice]:
    runtime, packages = machine.onnxruntime, machine.packages
    has_gpu = bool(machine.driver.gpus)
    extra = "'trine[gpu]'" if has_gpu else "'trine[cpu]'"
    if {"onnxruntime", "onnxruntime-gpu"} <= set(packages):
        yield Advice(
            "onnxruntime and onnxruntime-gpu are both installed and overwrite each other's module",
            SWAP.format(extra),
        )
    elif runtime.version is None:
        problem = f"onnxruntime cannot be imported: {runtime.problem}"
        yield Advice(
            problem if runtime.problem else "onnxruntime is not installed; bundles need it",
            f"pip install {extra}",
        )
    elif has_gpu and not runtime.provider("CUDAExecutionProvider").offered:
        yield Advice(
            f"onnxruntime {runtime.version} was built without CUDA, and a GPU is there",
            SWAP.format("'trine[gpu]'"),
        )
    cpu = runtime.provider("CPUExecutionProvider")
    if cpu.problem:
        yield Advice(f"ONNX Runtime fails on the CPU: {cpu.problem}", SWAP.format(extra))


def _kernels(machine: Machine) -> Iterator[Advice]:
    if machine.misses_kernels:
        yield Advice(
            "the native kernels, which run int8 engines faster on this processor, were not "
            "compiled when trine was installed",
            "install a C++ compiler (Debian and Ubuntu: apt-get install g++), then trine again "
            "with pip's --force-reinstall --no-deps --no-cache-dir",
        )


def _driver(machine: Machine) -> Iterator[Advice]:
    driver, packages = machine.driver, machine.packages
    wants_gpu = "onnxruntime-gpu" in packages or any(n.startswith("tensorrt") for n in packages)
    if driver.problem and (wants_gpu or driver.version):
        yield Advice(
            f"packages for a GPU are installed, but: {driver.problem}"
            if wants_gpu
            else driver.problem,
            "install NVIDIA's driver on the host; in a container, start it with --gpus all and the "
            "driver capabilities compute,utility",
        )


def _cuda(machine: Machine) -> Iterator[Advice]:
    runtime, driver = machine.onnxruntime, machine.driver
    linked = runtime.linked.get("cublasLt")
    if linked is not None and driver.cuda is not None and driver.cuda[0] < linked:
        have = ".".join(map(str, driver.cuda))
        yield Advice(
            f"onnxruntime-gpu {runtime.version} was built for CUDA {linked}, but the driver runs "
            f"CUDA up to {have}",
            f"update the driver to one for CUDA {linked}, or install an onnxruntime-gpu built for "
            f"CUDA {driver.cuda[0]}",
        )
    problem = runtime.provider("CUDAExecutionProvider").problem
    if problem is not None:
        yield Advice(
            f"the CUDA provider does not load: {problem}",
            "pip install 'onnxruntime-gpu[cuda,cudnn]'"
            if "cannot open shared object" in problem and "libcuda." not in problem
            else "mend the driver first, then run `trine doctor` again",
        )


def _tensorrt(machine: Machine) -> Iterator[Advice]:
    for name, problem in machine.broken.items():
        package = name.replace("_", "-")
        yield Advice(
            f"{package} is installed but cannot be imported: {problem}",
            # Its native libraries are a package of their own, which fetches them from NVIDIA.
            f"pip install --force-reinstall {package} (it fetches its libraries from NVIDIA)",
        )


def _extras(machine: Machine) -> Iterator[Advice]:
    one_runs = machine.onnxruntime.version is not None
    for extra in machine.extras:
        if extra.complete or extra.name in NOT_NEEDED:
            continue
        if extra.name in ONNXRUNTIME_EXTRAS and one_runs and not _outdated(extra):
            continue
        if extra.name in GPU_EXTRAS and not machine.driver.gpus:
            continue
        lacking = [
            r.package if r.installed is None else f"{r.package} {r.installed} (needs {r.minimum})"
            for r in extra.requirements
            if not r.fits
        ]
        yield Advice(
            f"the extra {extra.name!r} is not complete: {', '.join(lacking)}",
            f"pip install {_what_to_install(extra, machine)}",
        )


def _what_to_install(extra: Extra, machine: Machine) -> str:
    """Return what pip is given: the extra, or its packages where that would bring a second
    onnxruntime over the one with CUDA."""
    clashes = "onnxruntime-gpu" in machine.packages and "onnxruntime" not in machine.packages
    if not clashes or all(r.package != "onnxruntime" for r in extra.requirements):
        return f"'trine[{extra.name}]'"
    lacking = (r for r in extra.requirements if not r.fits)
    return " ".join(f"'{r.package}>={r.minimum}'" if r.minimum else r.package for r in lacking)


def _outdated(extra: Extra) -> bool:
    return any(r.installed is not None and not r.fits for r in extra.requirements)
