"""The compiled kernels, where this processor has them."""

import pytest

from trine.kernels.cpu.kernels import CpuKernels
from trine.kernels.cpu.library import why_unavailable


@pytest.fixture(scope="session", params=[1, 2], ids=["1-thread", "2-threads"])
def kernels(request: pytest.FixtureRequest) -> CpuKernels:
    reason = why_unavailable()
    if reason is not None:
        pytest.skip(reason)
    return CpuKernels(request.param)
