"""The compiled kernels of every instruction set that this processor has."""

import pytest

from trine.kernels.cpu.kernels import CpuKernels
from trine.kernels.cpu.library import (
    NativeLibrary,
    NativeLibraryError,
    cpu_levels,
    load_library,
)


def _levels_here() -> list[str]:
    try:
        return [level.name for level in cpu_levels() if level.problem is None]
    except NativeLibraryError as cause:
        pytest.skip(str(cause), allow_module_level=True)


@pytest.fixture(scope="session", params=_levels_here())
def library(request: pytest.FixtureRequest) -> NativeLibrary:
    return load_library(request.param)


@pytest.fixture(scope="session", params=[1, 2], ids=["1-thread", "2-threads"])
def kernels(library: NativeLibrary, request: pytest.FixtureRequest) -> CpuKernels:
    return CpuKernels(request.param, library=library)
