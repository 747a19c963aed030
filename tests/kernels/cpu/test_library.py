"""Which kernels are chosen, and how they say what they cannot do."""

import ctypes
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from trine.kernels.cpu import library as native
from trine.kernels.cpu.kernels import CpuKernels, Quantised, Side
from trine.kernels.cpu.library import (
    LEVEL_VARIABLE,
    CpuLevelError,
    NativeLibrary,
    NativeLibraryError,
    cpu_levels,
    describe_kernels,
    load_library,
    native_library,
)
from trine.kernels.cpu.packed import packed_layer

#: Takes the memory away that kernels and threads would need, then calls them.
WITHOUT_MEMORY = """
import resource
import numpy as np
from trine.kernels.cpu.kernels import CpuKernels
from trine.kernels.cpu.library import load_library
from trine.kernels.cpu.structures import LinearFloatCall
x, weight = np.ones((8, 64), np.float32), np.ones((64, 4096), np.float32)
out = np.ones((8, 4096), np.float32)
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (4 << 20), resource.RLIM_INFINITY))
library = load_library(LEVEL)
CpuKernels(64, library=library).swiglu(out, out)
assert np.abs(out - 0.7310586).max() < 1e-6  # silu(1)
CpuKernels(2, library=library).linear_float(x, weight, out)
assert (out == 64).all()
# Sums of 2^30 rows; it asks for their memory before it reads the first.
call = LinearFloatCall(x.ctypes.data, 1 << 30, 64, 0, weight.ctypes.data, None, 4096)
call.threads = 64
try:
    library.run("linear_float", call)
except MemoryError as error:
    print(error)
"""


def test_the_best_level_is_taken_and_the_reason_for_no_better_is_said() -> None:
    levels = cpu_levels()
    assert [level.name for level in levels] == [
        *("portable", "avx2", "avx_vnni", "avx512", "avx512_bf16", "amx")
    ]
    assert levels[0].problem is None
    best = [level.name for level in levels if level.problem is None][-1]
    assert load_library().level == best
    better = levels[[level.name for level in levels].index(best) + 1 :]
    said = describe_kernels()
    assert said.startswith(best)
    assert all(str(level.problem) in said for level in better)


def test_the_variable_narrows_the_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    here = [level.name for level in cpu_levels() if level.problem is None]
    for level in here:
        monkeypatch.setenv(LEVEL_VARIABLE, level)
        assert load_library().level == level
        said = describe_kernels()
        assert (f"{LEVEL_VARIABLE} is {level}" in said) == (level != here[-1])
    monkeypatch.setenv(LEVEL_VARIABLE, "")
    assert load_library().level == here[-1]


def test_a_level_that_is_not_here_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    native_library.cache_clear()
    monkeypatch.setenv(LEVEL_VARIABLE, "neon")
    for ask in (load_library, native_library, native.why_unavailable, describe_kernels):
        with pytest.raises(CpuLevelError, match=r"^TRINE_CPU is 'neon', .* give one of portable"):
            ask()
    native_library.cache_clear()
    for level in cpu_levels():
        if level.problem is not None:
            with pytest.raises(
                CpuLevelError, match=f"{level.name}', but {level.problem}; give one"
            ):
                load_library(level.name)


def test_structures_of_other_sizes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class LongerCall(ctypes.Structure):
        _fields_ = (("x", ctypes.c_int64 * 99),)

    monkeypatch.setattr(native, "STRUCTURES", (LongerCall, *native.STRUCTURES[1:]))
    with pytest.raises(NativeLibraryError, match=r"its structures have .* install trine again"):
        load_library()


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads /proc")
def test_want_of_memory_and_threads_is_an_error_not_an_end(library: NativeLibrary) -> None:
    code = WITHOUT_MEMORY.replace("LEVEL", repr(library.level))
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("the native kernel linear_float got no memory for its work; give")


def test_shapes_are_checked_before_anything_is_written(kernels: CpuKernels) -> None:
    x, out = np.ones((3, 8), np.float32), np.zeros((3, 5), np.float32)
    weight = np.ones((8, 5), np.float32)
    rows = Quantised.empty(3, 8)
    kernels.prepare_rows(x, rows)
    ones = [np.ones(5, np.float32)]
    packed = packed_layer(kernels.pack(np.ones((8, 5), np.int8)), (8, 5), ones, [None])
    side = Side(np.ones((3, 2), np.float32), np.ones((2, 4), np.float32), None, 2)
    first = np.array([0, 0, 2], np.int32)
    starts, heads = np.array([0, 3]), (1, 1)
    for match, call in {
        r"^prepare_rows: quantised": lambda: kernels.prepare_rows(x, Quantised.empty(2, 8)),
        r"^prepare_rows: norm_weight": lambda: kernels.prepare_rows(x, rows, norm_weight=x[0, :7]),
        r"^linear_int8: out": lambda: kernels.linear_int8(rows, packed, out[:2]),
        r"^linear_int8: x has 12 channels, the weights 8": lambda: kernels.linear_int8(
            Quantised.empty(3, 12), packed, out
        ),
        r"^linear_int8: matrix": lambda: kernels.linear_int8(rows, packed, out, [side]),
        r"^linear_float: bias": lambda: kernels.linear_float(x, weight, out, out[0, :4].copy()),
        r"^linear_float: weights": lambda: kernels.linear_float(x[:, :7], weight, out),
        r"^project: rows use ranks up to 4, of which there are 3": lambda: kernels.project(
            x, np.ones((3, 8), np.float32), np.zeros((3, 3), np.float32), first, 2
        ),
        r"^rotate: 3 heads of 4": lambda: kernels.rotate(x, 3, x[:, :2].copy(), x[:, :2].copy()),
        r"^swiglu: up": lambda: kernels.swiglu(x, x[:2]),
        r"^attention: k": lambda: kernels.attention(x, x[:2], x, x.copy(), starts, heads, True),
        r"^attention: queries 2 to 5 of 3": lambda: kernels.attention(
            x, x, x, x.copy(), starts, heads, True, 2
        ),
    }.items():
        with pytest.raises(ValueError, match=match):
            call()
    assert (out == 0).all()
    assert (x == 1).all()
