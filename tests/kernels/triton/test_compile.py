"""Kernels compiled for every architecture: what they cost, and that it is repeatable."""

import json
import re
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from trine.kernels.triton.index import INDEX_NAME, read_code, read_index
from trine.kernels.triton.specs import TARGETS, find_spec, kernel_specs, recipe_hash

pytestmark = pytest.mark.reference

RunCompiler = Callable[..., subprocess.CompletedProcess[str]]
#: Shared memory that a thread block has without asking for more.
MAX_SHARED_BYTES = 48 * 1024
#: Registers of a multiprocessor: a thread block that needs more cannot start.
NUM_REGISTERS = 65536
#: PTX types of parameters.
PTX_TYPES = {"i32": "u32"}


@pytest.mark.parametrize("sm", TARGETS)
def test_nothing_spills_and_every_block_fits(compiled: Path, sm: int) -> None:
    kernels = [kernel for kernel in read_index(compiled).kernels if kernel.sm == sm]
    assert [kernel.name for kernel in kernels] == [spec.name for spec in kernel_specs()]
    for kernel in kernels:
        note = f"{kernel.name} sm_{sm}: {kernel.registers} registers, {kernel.shared_bytes} shared"
        print(note)
        assert kernel.spill_bytes == 0, note
        assert kernel.stack_bytes == 0, note
        assert kernel.shared_bytes <= MAX_SHARED_BYTES, note
        assert 16 <= kernel.registers <= 255, note
        assert kernel.registers * kernel.num_threads <= NUM_REGISTERS, note


def test_machine_code_is_elf_for_nvidia_gpus_and_holds_the_entry(compiled: Path) -> None:
    for kernel in read_index(compiled).kernels:
        code = read_code(compiled, kernel.cubin, kernel.cubin_sha256)
        assert code[:4] == b"\x7fELF"
        assert struct.unpack_from("<H", code, 18) == (190,)  # EM_CUDA
        assert f".text.{kernel.entry}\0".encode() in code


def test_ptx_takes_the_parameters_of_the_spec_and_no_more(compiled: Path) -> None:
    for kernel in read_index(compiled).kernels:
        ptx = read_code(compiled, kernel.ptx, kernel.ptx_sha256).decode()
        assert f".target sm_{kernel.sm}\n" in ptx
        head = ptx[ptx.index(f".visible .entry {kernel.entry}(") :]
        listed = re.findall(r"\.param \.(\w+)", head[: head.index(")")])
        assert kernel.parameters == find_spec(kernel.name).parameters
        assert listed == [PTX_TYPES.get(part.dtype, "u64") for part in kernel.parameters]
        threads = re.search(r"\.reqntid (\d+)", ptx)
        assert threads is not None
        assert int(threads.group(1)) == kernel.num_threads
        assert f"{compiled}" not in ptx


def test_rows_are_read_sixteen_bytes_at_a_time(compiled: Path) -> None:
    """What `multiple_of` is for; without it each element is an instruction of its own."""
    for name in ("pool_segments.fp32", "lora_shrink.fp16", "project_rows.fp32"):
        ptx = (compiled / f"{name}.sm_90.ptx").read_text(encoding="utf-8")
        assert "ld.global.v4.b32" in ptx or "cp.async.cg.shared.global" in ptx, name


def test_same_sources_give_the_same_bytes(
    compiled: Path, tmp_path: Path, run_compiler: RunCompiler
) -> None:
    done = run_compiler("--sm", "86,120", "--only", "pool", "--out", str(tmp_path / "again"))
    assert done.returncode == 0, done.stderr
    again = read_index(tmp_path / "again").kernels
    assert {(kernel.name, kernel.sm) for kernel in again} == {
        (f"pool_segments.{dtype}", sm) for dtype in ("fp32", "fp16", "bf16") for sm in (86, 120)
    }
    assert set(again) <= set(read_index(compiled).kernels)
    for kernel in again:
        for file in (kernel.cubin, kernel.ptx):
            assert (tmp_path / "again" / file).read_bytes() == (compiled / file).read_bytes()
        assert kernel.recipe_sha256 == recipe_hash(find_spec(kernel.name))


def test_the_recorded_figures_are_of_these_kernels(compiled: Path) -> None:
    """benchmarks/results has one record; figures may move with the versions it names, only."""
    root = Path(__file__).resolve().parents[3]
    (file,) = sorted((root / "benchmarks" / "results").glob("*-kernel-resources.json"))
    record = json.loads(file.read_text(encoding="utf-8"))
    index = read_index(compiled)
    rows = {
        f"{kernel.name}.sm_{kernel.sm}": [
            kernel.registers,
            kernel.spill_bytes,
            kernel.shared_bytes,
            kernel.num_threads,
        ]
        for kernel in index.kernels
    }
    recorded = {name: record["kernels"][name] for name in rows}
    if (record["triton"], record["ptxas"]) == (index.triton, index.ptxas):
        assert recorded == rows


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--sm", "12"), "['12'] are none of [80, 86, 89, 90, 120]"),
        (("--only", "nothing"), "there is no kernel of that name"),
    ],
)
def test_unusable_arguments_are_refused(
    arguments: tuple[str, ...], message: str, tmp_path: Path, run_compiler: RunCompiler
) -> None:
    done = run_compiler(*arguments, "--out", str(tmp_path / "none"))
    assert done.returncode == 2
    assert message in done.stderr
    assert not (tmp_path / "none" / INDEX_NAME).exists()
