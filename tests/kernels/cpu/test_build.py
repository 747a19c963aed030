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

pytestmark = pytest.mark.skipif(not X86, reason="folders of x86 are compiled")


def needed(compiler: str) -> str:
    if shutil.which(compiler) is None:
        pytest.skip(f"there is no {compiler}")
    return compiler


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
                ["nm", "-C", "--defined-only", str(built)],
                capture_output=True,
                text=True,
                check=True,
            )
            # Weak and unique symbols are those of which the linker keeps one of many.
            shared = re.findall(r"^\S* +[WVu] (.*)$", done.stdout, re.MULTILINE)
            names = [
                re.sub(r"^(guard variable|vtable|typeinfo( name)?) for ", "", n) for n in shared
            ]
            foreign = [name for name in names if f"trine::{folder}::" not in name]
            assert foreign == []
    tree = link_tree(compiler, objects, tmp_path / "tree", [])
    done = run_kernel_tests(tree, str(KERNEL_TESTS), "-k", "int8 or activations or rotation")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


@pytest.mark.slow
def test_products_of_avx_vnni_are_exact_by_an_emulated_instruction(tmp_path: Path) -> None:
    """Where no processor has it, its kernel runs with the one instruction made of AVX2's."""
    compiler = needed("g++")
    if all(level.problem is not None for level in cpu_levels() if level.name == "avx2"):
        pytest.skip("this processor has no AVX2")
    ours = ROOT / "tests/kernels/cpu/native"
    emulated = [*setup_module().AVX2, "-include", str(ours / "emulated_dot.h")]
    folders = ["portable", "avx2", "avx_vnni"]
    objects = compile_objects(compiler, folders, tmp_path, ["-O2"], {"avx_vnni": emulated})
    claimed = tmp_path / "claimed.o"
    words = [compiler, "-std=c++17", "-fPIC", "-c", str(ours / "claimed_features.cpp")]
    subprocess.run([*words, "-o", str(claimed)], check=True)
    objects["common"] = [path for path in objects["common"] if "features" not in path.name]
    objects["common"].append(claimed)
    tree = link_tree(compiler, objects, tmp_path / "tree", [])
    chosen = "avx_vnni and (int8 or gated or low_ranks)"
    done = run_kernel_tests(tree, str(KERNEL_TESTS), "-k", chosen)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "passed" in done.stdout


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
