"""Describes a machine as the probes found it: plain data, no probing and no judgement."""

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = [
    "Cpu",
    "Driver",
    "Extra",
    "Gpu",
    "Machine",
    "OnnxRuntime",
    "Provider",
    "Requirement",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cpu:
    """The processors and the memory that this process may use.

    Attributes:
        name: of the processor, or its architecture.
        cores: whole processors left by affinity and by the container's quota.
        features: instruction sets that matter for 8- and 16-bit products, as the kernel names them.
        memory_bytes: of the machine, or the container's limit where that is less; None if unknown.
        available_bytes: that can be taken without swapping; None if unknown.
    """

    name: str
    cores: int
    features: tuple[str, ...]
    memory_bytes: int | None
    available_bytes: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """One CUDA device.

    Attributes:
        index: as the driver counts.
        name: as the driver says.
        sm: compute capability as NVIDIA's tools write it, e.g. 89 for 8.9.
        memory_bytes: of the device.
    """

    index: int
    name: str
    sm: int
    memory_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Driver:
    """NVIDIA's driver.

    Attributes:
        version: e.g. "580.65.06"; None if nothing could tell.
        cuda: (major, minor) of the newest CUDA it can run; None without a driver.
        gpus: its devices.
        problem: why there are no devices, in one sentence; None where there are.
    """

    version: str | None
    cuda: tuple[int, int] | None
    gpus: tuple[Gpu, ...]
    problem: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Provider:
    """An execution provider of ONNX Runtime.

    Attributes:
        name: e.g. "CUDAExecutionProvider".
        offered: whether the installed ONNX Runtime was built with it.
        problem: why a session on it alone could not be made and run; None if it was.
    """

    name: str
    offered: bool
    problem: str | None

    @property
    def works(self) -> bool:
        return self.offered and self.problem is None


@dataclass(frozen=True, slots=True, kw_only=True)
class OnnxRuntime:
    """The module `onnxruntime`.

    Attributes:
        version: None if it is not installed or cannot be imported.
        problem: why it cannot be imported; None if it can, or is not installed.
        providers: those that this project uses and those that it was built with.
        linked: major version of NVIDIA's libraries its GPU providers were linked with, by name:
            "cublasLt" has the number of CUDA, "cudnn" its own.
    """

    version: str | None
    problem: str | None
    providers: tuple[Provider, ...]
    linked: Mapping[str, int]

    def provider(self, name: str) -> Provider:
        """Return the provider `name`, as not offered where it was not probed."""
        for provider in self.providers:
            if provider.name == name:
                return provider
        return Provider(name=name, offered=False, problem=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Requirement:
    """A package that an extra asks for.

    Attributes:
        package: its name on the package index.
        minimum: least version, or "" for any.
        installed: the version that is there; None if none is.
        fits: whether the installed version is at least `minimum`.
    """

    package: str
    minimum: str
    installed: str | None
    fits: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Extra:
    """An optional set of packages of this project."""

    name: str
    requirements: tuple[Requirement, ...]

    @property
    def complete(self) -> bool:
        return all(requirement.fits for requirement in self.requirements)


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """Everything the probes found.

    Attributes:
        packages: version of each installed package of interest, by its name on the index.
        broken: why an installed package cannot be imported, by its import name.
        native_kernels: which native kernels of the processor are taken, and why no better ones;
            None where none can be used.
        native_problem: why they cannot be used; None if they can.
        misses_kernels: whether they would be the faster here, had they been compiled.
    """

    cpu: Cpu
    driver: Driver
    onnxruntime: OnnxRuntime
    packages: Mapping[str, str]
    broken: Mapping[str, str]
    extras: tuple[Extra, ...]
    native_kernels: str | None = None
    native_problem: str | None = None
    misses_kernels: bool = False
