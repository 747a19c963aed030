"""The threads of the kernels: shared by all callers, none lost, none needed after a fork."""

import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np

from trine.kernels.cpu.kernels import CpuKernels, Quantised
from trine.kernels.cpu.library import NativeLibrary
from trine.kernels.cpu.packed import packed_layer
from trine.runtime.hardware.processors import num_processors

FORKED = """
import os, sys
import numpy as np
from trine.kernels.cpu.kernels import CpuKernels
kernels = CpuKernels(2)
x = np.ones((64, 64), np.float32)
out = np.empty_like(x)
kernels.linear_float(x, x, out)
child = os.fork()
out[...] = 0
kernels.linear_float(x, x, out)
assert (out == 64).all()
if child:
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
os._exit(0)
"""


def test_callers_at_once_get_their_own_results(kernels: CpuKernels) -> None:
    generator = np.random.default_rng(0)
    weight = generator.integers(-127, 128, (64, 200), np.int8)
    packed = packed_layer(kernels.pack(weight), (64, 200), [np.ones(200, np.float32)], [None])
    inputs = [generator.standard_normal((40, 64), np.float32) for _ in range(4)]
    wrong: list[int] = []

    def compute(index: int) -> None:
        for _ in range(200):
            rows, out = Quantised.empty(40, 64), np.empty((40, 200), np.float32)
            kernels.prepare_rows(inputs[index], rows)
            kernels.linear_int8(rows, packed, out)
            integers = rows.values.astype(np.int64) - 128
            expected = (integers @ weight.astype(np.int64)) * rows.scales[:, None]
            if not np.allclose(out, expected, rtol=1e-5, atol=1e-4):
                wrong.append(index)

    threads = [threading.Thread(target=compute, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not wrong
    assert not any(thread.is_alive() for thread in threads)


def test_threads_without_a_core_are_not_waited_for(library: NativeLibrary) -> None:
    x, weight = np.ones((8, 64), np.float32), np.ones((64, 4096), np.float32)
    out = np.empty((8, 4096), np.float32)

    def least_seconds(threads: int) -> float:
        many, times = CpuKernels(threads, library=library), []
        for _ in range(100):
            start = time.perf_counter()
            many.linear_float(x, weight, out)
            times.append(time.perf_counter() - start)
            assert (out == 64).all()
        return min(times)

    # A turn on a core for each of eight threads a core takes some ten times as long as the product.
    assert least_seconds(8 * num_processors()) < 4 * least_seconds(1)


def test_a_forked_process_has_threads_of_its_own(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORKED], cwd=tmp_path, timeout=60, check=False
    )
    assert done.returncode == 0
