"""Every kernel as it is compiled: parameters, tile sizes, warps. Needs no Triton.

Parameters are in one order in all of them: input pointers, then scalars, then output pointers.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

__all__ = [
    "FLOAT_TYPES",
    "TARGETS",
    "KernelSpec",
    "Parameter",
    "find_spec",
    "kernel_specs",
    "recipe_hash",
]

#: Types of hidden states and vectors. Sums are float32 in all of them.
FLOAT_TYPES = ("fp32", "fp16", "bf16")
#: Compute capabilities compiled for by default: A100, RTX 30, L4 and RTX 40, H100, RTX 50.
TARGETS = (80, 86, 89, 90, 120)
#: Buffers and rows start at multiples of this many bytes or elements, so that a thread reads 16
#: bytes at once, the most that one instruction reads.
ALIGNMENT = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """One parameter of a kernel.

    Attributes:
        name: as in the kernel's source.
        dtype: "*fp16" for a pointer to float16 and so on; "i32" for a scalar.
        multiple_of: what the compiled code relies on: of an address in bytes, or of a scalar.
    """

    name: str
    dtype: str
    multiple_of: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelSpec:
    """One kernel for one input type.

    Attributes:
        name: e.g. "pool_segments.fp16".
        module: of `trine.kernels.triton`, where the source is.
        function: in it.
        parameters: in order.
        constants: compile-time constants, by name.
        num_warps: of 32 threads each, in a thread block.
        num_stages: loads in flight in a loop around a matrix product.
    """

    name: str
    module: str
    function: str
    parameters: tuple[Parameter, ...]
    constants: tuple[tuple[str, int], ...]
    num_warps: int
    num_stages: int = 2

    def constant(self, name: str) -> int:
        """Return a compile-time constant."""
        return dict(self.constants)[name]


def kernel_specs() -> tuple[KernelSpec, ...]:
    """Return all kernels, each for float32, float16 and bfloat16, sorted by name."""
    specs = [build(dtype) for dtype in FLOAT_TYPES for build in _BUILDERS]
    return tuple(sorted(specs, key=lambda spec: spec.name))


def find_spec(name: str) -> KernelSpec:
    """Return the kernel called e.g. "patchify.bf16".

    Raises:
        KeyError: there is none of that name.
    """
    return {spec.name: spec for spec in kernel_specs()}[name]


def recipe_hash(spec: KernelSpec) -> str:
    """Return the SHA-256 of all that decides what a kernel computes: its source and its spec."""
    source = Path(__file__).with_name(f"{spec.module}.py").read_bytes()
    return hashlib.sha256(source + repr(spec).encode()).hexdigest()


def _pointer(name: str, dtype: str) -> Parameter:
    return Parameter(name=name, dtype=f"*{dtype}", multiple_of=ALIGNMENT)


def _scalar(name: str, multiple_of: int = 1) -> Parameter:
    return Parameter(name=name, dtype="i32", multiple_of=multiple_of)


def _pool_segments(dtype: str) -> KernelSpec:
    return KernelSpec(
        name=f"pool_segments.{dtype}",
        module="pooling",
        function="pool_segments",
        parameters=(
            _pointer("hidden", dtype),
            _pointer("cu_seqlens", "i32"),
            _pointer("pooled", "u8"),
            _scalar("hidden_size", ALIGNMENT),
            _scalar("dim"),
            _pointer("out", "fp32"),
        ),
        # 2048 is the published hidden size: a vector fits one program.
        constants=(("BLOCK_T", 8), ("BLOCK_D", 2048)),
        num_warps=16,
    )


def _project_rows(dtype: str) -> KernelSpec:
    return KernelSpec(
        name=f"project_rows.{dtype}",
        module="projection",
        function="project_rows",
        parameters=(
            _pointer("hidden", dtype),
            _pointer("weight", "fp32"),
            _pointer("bias", "fp32"),
            _scalar("num_rows"),
            _scalar("hidden_size", ALIGNMENT),
            _scalar("dim"),
            _pointer("out", "fp32"),
        ),
        constants=(("BLOCK_T", 32), ("BLOCK_D", 128), ("BLOCK_K", 32)),
        num_warps=4,
    )


def _lora_shrink(dtype: str) -> KernelSpec:
    return KernelSpec(
        name=f"lora_shrink.{dtype}",
        module="lora",
        function="lora_shrink",
        parameters=(
            _pointer("x", dtype),
            _pointer("a", dtype),
            _pointer("rows", "i32"),
            _pointer("tile_adapters", "i32"),
            _scalar("num_in", ALIGNMENT),
            _scalar("rank", ALIGNMENT),
            _pointer("low", "fp32"),
        ),
        constants=(("BLOCK_T", 32), ("BLOCK_R", 32), ("BLOCK_K", 32 if dtype == "fp32" else 64)),
        num_warps=4,
    )


def _lora_expand(dtype: str) -> KernelSpec:
    return KernelSpec(
        name=f"lora_expand.{dtype}",
        module="lora",
        function="lora_expand",
        parameters=(
            _pointer("low", "fp32"),
            _pointer("b", dtype),
            _pointer("rows", "i32"),
            _pointer("tile_adapters", "i32"),
            _scalar("rank", ALIGNMENT),
            _scalar("num_out", ALIGNMENT),
            _pointer("delta", "fp32"),
        ),
        constants=(("BLOCK_T", 32), ("BLOCK_O", 64), ("BLOCK_R", 32)),
        num_warps=4,
    )


def _patchify(dtype: str) -> KernelSpec:
    return KernelSpec(
        name=f"patchify.{dtype}",
        module="patchify",
        function="patchify",
        parameters=(
            _pointer("pixels", "u8"),
            _pointer("levels", "fp32"),
            _pointer("order", "i32"),
            _scalar("width"),
            _pointer("out", dtype),
        ),
        # The published vision tower; 2048 is the power of two above its 1176 features.
        constants=(("PATCH", 14), ("MERGE", 2), ("FRAMES", 2), ("BLOCK_F", 2048)),
        num_warps=8,
    )


def _quantise_int8(dtype: str) -> KernelSpec:
    return KernelSpec(
        name=f"quantise_int8.{dtype}",
        module="quantise",
        function="quantise_int8",
        parameters=(
            _pointer("vectors", dtype),
            _pointer("ranges", "fp32"),
            _scalar("dim"),
            _pointer("out", "i8"),
        ),
        constants=(("BLOCK_D", 512),),
        num_warps=4,
    )


def _pack_ubinary(dtype: str) -> KernelSpec:
    return _pack_signs(f"pack_ubinary.{dtype}", dtype, "u8", 0)


def _pack_binary(dtype: str) -> KernelSpec:
    return _pack_signs(f"pack_binary.{dtype}", dtype, "i8", 128)


def _pack_signs(name: str, dtype: str, out: str, offset: int) -> KernelSpec:
    return KernelSpec(
        name=name,
        module="quantise",
        function="pack_signs",
        parameters=(_pointer("vectors", dtype), _scalar("dim"), _pointer("out", out)),
        constants=(("OFFSET", offset), ("BLOCK_BYTES", 256)),
        num_warps=4,
    )


_BUILDERS = (
    _pool_segments,
    _project_rows,
    _lora_shrink,
    _lora_expand,
    _patchify,
    _quantise_int8,
    _pack_ubinary,
    _pack_binary,
)
