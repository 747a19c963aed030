"""Compiles the kernels ahead of time, on any machine: Triton to PTX, PTX to machine code.

    python -m trine.kernels.triton.compile --sm 80,86,89,90,120 --out DIR

Needs Triton (`pip install 'trine[kernels]'`), which brings NVIDIA's assembler, and neither a GPU
nor a driver. Two things in Triton's PTX are changed. It appends two pointers to scratch memory to
every kernel's parameters; these kernels use none, so they are taken out, and the kernel takes what
its spec says and no more. And it allows instructions of one architecture
alone (sm_90a); none is used, so the code is made for the generation (sm_90). Machine code, register
figures and PTX are all of that one text. The same sources and versions give the same bytes.
"""

import argparse
import hashlib
import importlib
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from trine.kernels.triton.errors import KernelError
from trine.kernels.triton.index import CompiledKernel, KernelIndex, write_index
from trine.kernels.triton.specs import TARGETS, KernelSpec, kernel_specs, recipe_hash

__all__ = ["compile_kernels", "main"]

#: PTX 8.8 is the first that knows every target here; a newer one asks for a newer driver.
PTX_VERSION = 88
THREADS_PER_WARP = 32
#: Off: sums round as they are written; products of matrices are fused all the same.
FP_FUSION = False
#: Triton reads these when it is imported or compiles: no paths in the code, and no interpreter.
TRITON_ENVIRONMENT = {
    "TRITON_DISABLE_LINE_INFO": "1",
    "TRITON_DEFAULT_FP_FUSION": "1" if FP_FUSION else "0",
    "TRITON_INTERPRET": "0",
}
#: ptxas as Triton calls it; the allocation level works around a fault of ptxas 13.
PTXAS_OPTIONS = ("-v", "--regAllocOptLevel=2") + (() if FP_FUSION else ("--fmad=false",))
#: What Triton appends to a kernel's parameters: global and profiling scratch memory.
NUM_SCRATCH_PARAMETERS = 2

_ENTRY = re.compile(r"(\.visible \.entry (\w+)\(\n)(.*?)(\n\))", re.DOTALL)
_RESOURCES = re.compile(
    r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads.*?"
    r"Used (\d+) registers",
    re.DOTALL,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Assembly:
    """PTX of one kernel: the text, its entry's symbol and its dynamic shared memory in bytes."""

    text: str
    entry: str
    shared_bytes: int


def main(arguments: Sequence[str] | None = None) -> int:
    """Compile as the command line says; return the exit code: 0 done, 2 unusable input."""
    parser = argparse.ArgumentParser(prog="python -m trine.kernels.triton.compile")
    parser.add_argument("--sm", type=_targets, default=TARGETS, help="e.g. 80,86,89,90,120")
    parser.add_argument("--out", type=Path, required=True, help="folder, made if missing")
    parser.add_argument("--only", default="", help="kernels whose names start so")
    options = parser.parse_args(arguments)
    specs = tuple(spec for spec in kernel_specs() if spec.name.startswith(options.only))
    try:
        index = compile_kernels(specs, options.sm, options.out)
    except KernelError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    for kernel in index.kernels:
        sys.stdout.write(
            f"{kernel.name:20} sm_{kernel.sm:<4}{kernel.registers:4} registers"
            f"{kernel.spill_bytes:5} bytes spilled{kernel.shared_bytes:7} bytes shared\n"
        )
    return 0


def compile_kernels(
    specs: Sequence[KernelSpec], targets: Sequence[int], folder: Path
) -> KernelIndex:
    """Compile kernels into `folder` and return its index, which is written as well.

    Args:
        specs: the kernels.
        targets: compute capabilities times 10.
        folder: made if missing; files of the same names are replaced.

    Raises:
        KernelError: there is nothing to compile, Triton is missing, or a target is unknown to it.
    """
    if not specs:
        raise KernelError("there is no kernel of that name; leave out --only to compile all")
    folder.mkdir(parents=True, exist_ok=True)
    with _triton_environment():
        try:
            import triton
        except ImportError as cause:
            raise KernelError(
                "the package 'triton' is needed to compile kernels but is not installed: "
                "pip install 'trine[kernels]'"
            ) from cause
        kernels = [_compile(spec, sm, folder) for spec in specs for sm in sorted(set(targets))]
        index = KernelIndex(
            triton=triton.__version__, ptxas=_assembler()[1], kernels=tuple(kernels)
        )
    write_index(folder, index)
    return index


def _targets(text: str) -> tuple[int, ...]:
    """Return the architectures of e.g. "80,89"; others than the tested ones abort the compiler."""
    names = {str(target): target for target in TARGETS}
    if unknown := [name for name in text.split(",") if name not in names]:
        raise argparse.ArgumentTypeError(f"{unknown} are none of {list(TARGETS)}")
    return tuple(names[name] for name in text.split(","))


@contextmanager
def _triton_environment() -> Iterator[None]:
    """Set Triton's environment, with an empty cache: what is written is compiled now."""
    with tempfile.TemporaryDirectory() as cache:
        values = {**TRITON_ENVIRONMENT, "TRITON_CACHE_DIR": cache}
        before = {name: os.environ.get(name) for name in values}
        os.environ.update(values)
        try:
            yield
        finally:
            for name, value in before.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value


def _compile(spec: KernelSpec, sm: int, folder: Path) -> CompiledKernel:
    assembly = _translate(spec, sm)
    stem = f"{spec.name}.sm_{sm}"
    ptx = folder / f"{stem}.ptx"
    cubin = folder / f"{stem}.cubin"
    ptx.write_text(assembly.text, encoding="utf-8")
    stack, stores, loads, registers = _assemble(ptx, cubin, sm)
    return CompiledKernel(
        name=spec.name,
        sm=sm,
        entry=assembly.entry,
        parameters=spec.parameters,
        num_threads=spec.num_warps * THREADS_PER_WARP,
        shared_bytes=assembly.shared_bytes,
        registers=registers,
        spill_bytes=stores + loads,
        stack_bytes=stack,
        recipe_sha256=recipe_hash(spec),
        cubin=cubin.name,
        cubin_sha256=hashlib.sha256(cubin.read_bytes()).hexdigest(),
        ptx=ptx.name,
        ptx_sha256=hashlib.sha256(ptx.read_bytes()).hexdigest(),
    )


def _translate(spec: KernelSpec, sm: int) -> _Assembly:
    """Return a kernel's PTX for one architecture.

    Raises:
        KernelError: Triton was imported for its interpreter, or cannot compile for the target.
    """
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, CompilationError
    from triton.compiler import compile as compile_source
    from triton.runtime.jit import JITFunction

    module = importlib.import_module(f"trine.kernels.triton.{spec.module}")
    function = getattr(module, spec.function)
    if not isinstance(function, JITFunction):
        raise KernelError(
            "Triton was imported with TRITON_INTERPRET=1 and cannot compile; use another process"
        )
    source = ASTSource(
        function,
        {parameter.name: parameter.dtype for parameter in spec.parameters}
        | {name: "constexpr" for name, _ in spec.constants},
        dict(spec.constants),
        {
            (place,): [["tt.divisibility", parameter.multiple_of]]
            for place, parameter in enumerate(spec.parameters)
            if parameter.multiple_of > 1
        },
    )
    options = {
        "num_warps": spec.num_warps,
        "num_stages": spec.num_stages,
        "enable_fp_fusion": FP_FUSION,
        "ptx_version": PTX_VERSION,
    }
    try:
        target = GPUTarget("cuda", sm, THREADS_PER_WARP)
        kernel = compile_source(source, target=target, options=options)
    except (CompilationError, RuntimeError, ValueError) as cause:
        raise KernelError(f"{spec.name}: Triton cannot compile it for sm_{sm}: {cause}") from cause
    if kernel.metadata.global_scratch_size or kernel.metadata.profile_scratch_size:
        raise KernelError(f"{spec.name}: needs scratch memory, which a launch does not bring")
    ptx = re.sub(r"^(\.target sm_\d+)a$", r"\1", kernel.asm["ptx"], flags=re.MULTILINE)
    text, entry = _without_scratch(ptx, len(spec.parameters))
    return _Assembly(text=text, entry=entry, shared_bytes=kernel.metadata.shared)


def _without_scratch(ptx: str, num_parameters: int) -> tuple[str, str]:
    """Return PTX whose entry has `num_parameters` parameters, and the entry's symbol.

    Raises:
        KernelError: the entry has other parameters than expected, or uses scratch memory.
    """
    entry = _ENTRY.search(ptx)
    if entry is None:
        raise KernelError("Triton's PTX has no entry; use the tested version of Triton")
    head, symbol, listed, tail = entry.groups()
    parameters = listed.split(",\n")
    if len(parameters) != num_parameters + NUM_SCRATCH_PARAMETERS:
        raise KernelError(
            f"{symbol}: the PTX has {len(parameters)} parameters, not {num_parameters} and "
            f"{NUM_SCRATCH_PARAMETERS} of Triton's own; use the tested version of Triton"
        )
    for dropped in parameters[num_parameters:]:
        name = dropped.split()[-1]
        if len(re.findall(rf"\b{name}\b", ptx)) > 1:
            raise KernelError(f"{symbol}: uses {name}, scratch memory that a launch does not bring")
    kept = ",\n".join(parameters[:num_parameters])
    return ptx[: entry.start()] + head + kept + tail + ptx[entry.end() :], symbol


def _assemble(ptx: Path, cubin: Path, sm: int) -> tuple[int, int, int, int]:
    """Write machine code; return (stack, spilled stores, spilled loads) in bytes, and registers.

    Raises:
        KernelError: the assembler refuses the PTX.
    """
    run = subprocess.run(
        [_assembler()[0], *PTXAS_OPTIONS, f"--gpu-name=sm_{sm}", str(ptx), "-o", str(cubin)],
        capture_output=True,
        text=True,
        check=False,
    )
    figures = _RESOURCES.search(run.stderr)
    if run.returncode or figures is None:
        raise KernelError(f"{ptx.name}: ptxas cannot assemble it for sm_{sm}: {run.stderr.strip()}")
    stack, stores, loads, registers = (int(figure) for figure in figures.groups())
    return stack, stores, loads, registers


def _assembler() -> tuple[str, str]:
    """Return path and version of the ptxas that Triton brings; its older one asks less of drivers.

    That one is of CUDA 12.9: machine code of it also loads with drivers of that generation.
    """
    from triton import knobs

    tool = knobs.nvidia.ptxas
    return str(tool.path), str(tool.version)


if __name__ == "__main__":
    sys.exit(main())
