"""The kernels as compilers build them: nothing of a wider processor in what a narrower one runs."""

import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.kernels.cpu.compiled import NATIVE, ROOT, compile_objects, link_tree, setup_module
from trine.kernels.cpu.library import cpu_levels

X86 = platform.machine().lower() in ("x86_64", "amd64")
COMPILERS = ("g++", "clang++")
#: Tests of the kernels that are run on a library of another build.
KERNEL_TESTS = ROOT / "tests/kernels/cpu/test_kernels.py"

#: Reads a row more than there is, which only a sanitizer sees.
BEYOND = """
import numpy as np
from trine.kernels.cpu.library import load_library
from trine.kernels.cpu.structures import ActivationCall
x = np.zeros(5000, np.float32)
load_library().run("gelu", ActivationCall(x.ctypes.data, None, x.size + 100, 1))
"""

#: Awkward and even shapes in 8 bits by both kernels, sides and gates too.
SAME_AS_VNNI = """
import numpy as np
from trine.kernels.cpu.kernels import CpuKernels, Quantised, Side
from trine.kernels.cpu.library import load_library
from trine.kernels.cpu.packed import packed_layer
source = np.random.default_rng(0)
both = [CpuKernels(2, library=load_library(level)) for level in ("avx512", "amx")]
shapes = (1, 64, 64), (16, 4, 70), (17, 63, 33), (33, 129, 200), (90, 1100, 65)
for rows, depth, columns in shapes:
    x = Quantised.empty(rows, depth)
    both[0].prepare_rows(source.standard_normal((rows, depth), np.float32), x)
    for parts in (1, 2):
        weights = [source.integers(-127, 128, (depth, columns), np.int8) for _ in range(parts)]
        scales = [source.random(columns, np.float32) for _ in range(parts)]
        biases = [source.standard_normal(columns, np.float32), None][:parts]
        factors = source.standard_normal((rows, 3), np.float32)
        side = Side(factors, source.standard_normal((3, columns), np.float32), None, 3)
        sides = (side, None, side)[: 2 * parts - 1]
        found = []
        for kernels in both:
            out = np.ones((rows, columns), np.float32)
            packed = packed_layer(kernels.pack(*weights), (depth, columns), scales, biases)
            kernels.linear_int8(x, packed, out, sides, parts == 1)
            found.append(out)
        np.testing.assert_array_equal(*found)
"""
OURS = ROOT / "tests/kernels/cpu/native"

pytestmark = pytest.mark.skipif(not X86, reason="folders of x86 are compiled")


def needed(compiler: str) -> str:
    if shutil.which(compiler) is None:
        pytest.skip(f"there is no {compiler}")
    return compiler


def needs_level(name: str) -> None:
    if all(level.problem is not None for level in cpu_levels() if level.name == name):
        pytest.skip(f"this processor has no {name}")


def claimed_tree(
    target: Path, folders: list[str], emulated: dict[str, list[str]], *claims: str
) -> Path:
    """Return a tree whose kernels take the processor for a better one.

    Args:
        target: where it goes.
        folders: to compile.
        emulated: flags of the folder whose instructions are made of others.
        claims: macros of claimed_features.cpp.
    """
    compiler = needed("g++")
    objects = compile_objects(compiler, folders, target, ["-O2"], emulated)
    claimed = target / "claimed.o"
    words = [compiler, "-std=c++17", "-fPIC", *claims, "-c", str(OURS / "claimed_features.cpp")]
    subprocess.run([*words, "-o", str(claimed)], check=True)
    objects["common"] = [path for path in objects["common"] if "features" not in path.name]
    return link_tree(compiler, {**objects, "claimed": [claimed]}, target / "tree", [])


def run_kernel_tests(
    tree: Path, *arguments: str, **environment: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(tree), **environment},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def test_kernels_of_instruction_sets_use_no_code_of_the_standard_library() -> None:
    """Its functions are shared by all folders: a linker may keep the one of the widest."""
    used = [
        f"{path.relative_to(NATIVE)}: {line.strip()}"
        for folder in {"generic", *setup_module().FOLDERS, *setup_module().ARM_FOLDERS}
        for path in (NATIVE / folder).iterdir()
        for line in path.read_text(encoding="utf-8").splitlines()
        if re.search(r"\bstd::", line.partition("//")[0])
    ]
    assert used == []


@pytest.mark.slow
@pytest.mark.parametrize("compiler", COMPILERS)
def test_every_compiler_builds_every_instruction_set_apart(compiler: str, tmp_path: Path) -> None:
    folders = setup_module().FOLDERS
    objects = compile_objects(needed(compiler), folders, tmp_path, ["-O1"])
    for folder in folders:
        for built in objects[folder]:
            done = subprocess.run(
                ["nm", "--defined-only", str(built)],
                capture_output=True,
                text=True,
                check=True,
            )
            # Weak and unique symbols are those of which the linker keeps one of many.
            shared = re.findall(r"^\S* +[WVu] (.*)$", done.stdout, re.MULTILINE)
            # As the linker knows them: no program makes the longest names readable.
            own = f"5trine{len(folder)}{folder}"
            foreign = [name for name in shared if own not in name]
            assert foreign == []
    tree = link_tree(compiler, objects, tmp_path / "tree", [])
    done = run_kernel_tests(tree, str(KERNEL_TESTS), "-k", "int8 or activations or rotation")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


@pytest.mark.slow
def test_products_of_avx_vnni_are_exact_by_an_emulated_instruction(tmp_path: Path) -> None:
    """Where no processor has it, its kernel runs with the one instruction made of AVX2's."""
    needs_level("avx2")
    emulated = [*setup_module().AVX2, "-include", str(OURS / "emulated_dot.h")]
    folders = ["portable", "avx2", "avx_vnni"]
    tree = claimed_tree(tmp_path, folders, {"avx_vnni": emulated})
    chosen = "avx_vnni and (int8 or gated or low_ranks)"
    done = run_kernel_tests(tree, str(KERNEL_TESTS), "-k", chosen)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "passed" in done.stdout


@pytest.mark.slow
def test_products_of_amx_are_those_of_vnni_by_emulated_tiles(tmp_path: Path) -> None:
    """Where no processor has tiles, their kernels run on ones in C++: 8 bits to the bit."""
    needs_level("avx512")
    flags = setup_module().FOLDERS["avx512_bf16"]
    emulated = [*flags, "-include", str(OURS / "emulated_tiles.h")]
    folders = ["portable", "avx2", "avx512", "avx512_bf16", "amx"]
    tree = claimed_tree(tmp_path, folders, {"amx": emulated}, "-DTRINE_CLAIM_AMX")
    chosen = "amx and (int8 or gated or low_ranks or bfloat16)"
    done = run_kernel_tests(tree, str(KERNEL_TESTS), "-k", chosen)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "passed" in done.stdout
    environment = {**os.environ, "PYTHONPATH": str(tree)}
    done = subprocess.run(
        [sys.executable, "-c", SAME_AS_VNNI],
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


@pytest.mark.sanitizers
def test_kernels_under_address_and_undefined_behaviour_sanitizers(tmp_path: Path) -> None:
    compiler = needed("g++")
    checks = ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"]
    flags = [*checks, "-O1", "-g1"]
    objects = compile_objects(compiler, ["portable", "avx2"], tmp_path, flags)
    tree = link_tree(compiler, objects, tmp_path / "tree", checks)
    runtimes = [
        subprocess.run(
            [compiler, f"-print-file-name={name}"], capture_output=True, text=True, check=True
        ).stdout.strip()
        for name in ("libasan.so", "libstdc++.so")
    ]
    environment = {
        "LD_PRELOAD": " ".join(runtimes),
        # Python itself frees little at its end.
        "ASAN_OPTIONS": "detect_leaks=0",
        "PYTHONMALLOC": "malloc",
    }
    beyond = subprocess.run(
        [sys.executable, "-c", BEYOND],
        env={**os.environ, **environment, "PYTHONPATH": str(tree)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "AddressSanitizer: heap-buffer-overflow" in beyond.stderr
    others = [f"tests/kernels/test_{name}.py" for name in ("resize", "patchify", "maxsim")]
    done = run_kernel_tests(tree, str(KERNEL_TESTS), *others, **environment)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "passed" in done.stdout


@pytest.mark.sanitizers
def test_the_pool_under_the_thread_sanitizer(tmp_path: Path) -> None:
    program = tmp_path / "pool_race"
    words = ["-std=c++17", "-O1", "-g1", "-pthread", "-fsanitize=thread", "-DTRINE_ISA=common"]
    sources = [ROOT / "tests/kernels/cpu/native/pool_race.cpp", NATIVE / "common/pool.cpp"]
    subprocess.run([needed("g++"), *words, *map(str, sources), "-o", str(program)], check=True)
    done = subprocess.run([str(program)], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout == "every item once\n"
    assert "WARNING: ThreadSanitizer" not in done.stderr


def test_a_process_forked_while_others_compute_can_compute_too(tmp_path: Path) -> None:
    program = tmp_path / "pool_fork"
    words = ["-std=c++17", "-O1", "-pthread", "-DTRINE_ISA=common"]
    sources = [ROOT / "tests/kernels/cpu/native/pool_fork.cpp", NATIVE / "common/pool.cpp"]
    subprocess.run([needed("g++"), *words, *map(str, sources), "-o", str(program)], check=True)
    done = subprocess.run([str(program)], capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout == "every child computed\n"
    assert done.returncode == 0
