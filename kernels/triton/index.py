"""The index of a folder of compiled kernels: what is there, how it is launched, what it costs."""

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from trine.kernels.triton.errors import KernelError
from trine.kernels.triton.specs import Parameter

__all__ = ["INDEX_NAME", "CompiledKernel", "KernelIndex", "read_code", "read_index", "write_index"]

INDEX_NAME = "kernels.json"
#: Raised whenever a reader of the old index would launch wrongly.
FORMAT_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class CompiledKernel:
    """One kernel compiled for one GPU architecture.

    Attributes:
        name: e.g. "pool_segments.fp16".
        sm: compute capability times 10, e.g. 89.
        entry: symbol of the kernel in its files.
        parameters: in order, all of them.
        num_threads: of a thread block.
        shared_bytes: dynamic shared memory of a thread block.
        registers: of a thread.
        spill_bytes: registers written to and read from local memory for want of room.
        stack_bytes: local memory of a thread.
        recipe_sha256: of source and spec, `specs.recipe_hash`.
        cubin, cubin_sha256: machine code, beside the index.
        ptx, ptx_sha256: the assembly it was made of.
    """

    name: str
    sm: int
    entry: str
    parameters: tuple[Parameter, ...]
    num_threads: int
    shared_bytes: int
    registers: int
    spill_bytes: int
    stack_bytes: int
    recipe_sha256: str
    cubin: str
    cubin_sha256: str
    ptx: str
    ptx_sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelIndex:
    """All compiled kernels of a folder.

    Attributes:
        triton: version that compiled to PTX.
        ptxas: version that compiled PTX to machine code.
        kernels: by name, then architecture.
        format_version: of the file.
    """

    triton: str
    ptxas: str
    kernels: tuple[CompiledKernel, ...]
    format_version: int = FORMAT_VERSION


def write_index(folder: Path, index: KernelIndex) -> None:
    """Write the index of the kernels in `folder`; the same kernels give the same bytes."""
    text = json.dumps(dataclasses.asdict(index), indent=1, sort_keys=True)
    (folder / INDEX_NAME).write_text(text + "\n", encoding="utf-8")


def read_index(folder: Path) -> KernelIndex:
    """Return the index of a folder of compiled kernels.

    Raises:
        KernelError: it is missing, damaged or of another version.
    """
    path = folder / INDEX_NAME
    try:
        content = json.loads(path.read_bytes())
        version = content["format_version"]
        if version != FORMAT_VERSION:
            raise KernelError(
                f"{path}: has the format {version}, but this version reads {FORMAT_VERSION}; "
                f"compile again: {compile_command(folder)}"
            )
        kernels = tuple(
            CompiledKernel(**{**entry, "parameters": _parameters(entry["parameters"])})
            for entry in content["kernels"]
        )
        return KernelIndex(**{**content, "kernels": kernels})
    except OSError as cause:
        raise KernelError(
            f"{path}: cannot be read ({cause.strerror}); compile the kernels where Triton is "
            f"installed: {compile_command(folder)}"
        ) from cause
    except (ValueError, KeyError, TypeError) as cause:
        raise KernelError(
            f"{path}: is damaged ({cause}); compile again: {compile_command(folder)}"
        ) from cause


def read_code(folder: Path, file: str, sha256: str) -> bytes:
    """Return a file of compiled code.

    Args:
        folder: of the index.
        file: name in it.
        sha256: what the index says of its bytes.

    Raises:
        KernelError: it is missing or not what the index describes.
    """
    path = folder / file
    try:
        code = path.read_bytes()
    except OSError as cause:
        raise KernelError(
            f"{path}: cannot be read ({cause.strerror}); compile again: {compile_command(folder)}"
        ) from cause
    if hashlib.sha256(code).hexdigest() != sha256:
        raise KernelError(
            f"{path}: is not the file that its index describes; compile again: "
            f"{compile_command(folder)}"
        )
    return code


def compile_command(folder: Path, sm: int | None = None) -> str:
    """Return the command line that makes the folder's kernels, for one architecture or all."""
    target = "" if sm is None else f" --sm {sm}"
    return f"python -m trine.kernels.triton.compile{target} --out {folder}"


def _parameters(entries: list[dict[str, str | int]]) -> tuple[Parameter, ...]:
    return tuple(
        Parameter(
            name=str(entry["name"]),
            dtype=str(entry["dtype"]),
            multiple_of=int(entry["multiple_of"]),
        )
        for entry in entries
    )
