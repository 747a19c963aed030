"""Chooses kernel, number of programs and arguments for arrays on the device.

Pure arithmetic on shapes: what is checked and counted here is the same under the interpreter, in
the driver and in tests.
"""

from dataclasses import dataclass

from trine.kernels.triton.specs import find_spec

__all__ = [
    "DeviceArray",
    "Launch",
    "launch_lora_expand",
    "launch_lora_shrink",
    "launch_pack_binary",
    "launch_pack_ubinary",
    "launch_patchify",
    "launch_pool_segments",
    "launch_project_rows",
    "launch_quantise_int8",
]

#: What the driver takes along each axis of a grid.
MAX_GRID = (2**31 - 1, 65535, 65535)
#: Colour channels of an image.
CHANNELS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceArray:
    """A C-order array in device memory, owned by the caller until the launch has run.

    Attributes:
        pointer: device address of the first element.
        shape: in elements.
        dtype: "fp32", "fp16", "bf16", "i32", "i8" or "u8".
    """

    pointer: int
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """One launch of a kernel.

    Attributes:
        kernel: its name, e.g. "patchify.fp16".
        grid: programs along x, y and z; with a 0 there is nothing to run.
        arguments: in the order of the kernel's parameters.
    """

    kernel: str
    grid: tuple[int, int, int]
    arguments: tuple[DeviceArray | int, ...]

    def __post_init__(self) -> None:
        for axis, size, limit in zip("xyz", self.grid, MAX_GRID, strict=True):
            if size > limit:
                raise ValueError(
                    f"{self.kernel}: {size} programs along {axis} are more than the {limit} that "
                    "a launch takes; split the batch"
                )


def launch_pool_segments(
    hidden: DeviceArray, cu_seqlens: DeviceArray, pooled: DeviceArray, out: DeviceArray
) -> Launch:
    """Return the launch that pools and normalises hidden states.

    Args:
        hidden: float [T, hidden size].
        cu_seqlens: int32 [B + 1], starts of the sequences, and T.
        pooled: uint8 [T].
        out: float32 [B, D], D at most the hidden size; normalised.

    Raises:
        ValueError: a shape or type does not fit.
    """
    kernel = f"pool_segments.{hidden.dtype}"
    tokens, hidden_size = _matrix("hidden", hidden)
    batch, dim = _matrix("out", out)
    _check("cu_seqlens", cu_seqlens, "i32", (batch + 1,))
    _check("pooled", pooled, "u8", (tokens,))
    _check("out", out, "fp32", (batch, dim))
    _at_most("values of a vector", dim, min(hidden_size, _constant(kernel, "BLOCK_D")))
    arguments = (hidden, cu_seqlens, pooled, hidden_size, dim, out)
    return Launch(kernel=kernel, grid=(batch, 1, 1), arguments=arguments)


def launch_project_rows(
    hidden: DeviceArray, weight: DeviceArray, bias: DeviceArray, out: DeviceArray
) -> Launch:
    """Return the launch of the multi-vector head.

    Args:
        hidden: float [T, hidden size].
        weight: float32 [D, hidden size].
        bias: float32 [D].
        out: float32 [T, D], normalised.

    Raises:
        ValueError: a shape or type does not fit.
    """
    kernel = f"project_rows.{hidden.dtype}"
    tokens, hidden_size = _matrix("hidden", hidden)
    dim = _matrix("weight", weight)[0]
    _check("weight", weight, "fp32", (dim, hidden_size))
    _check("bias", bias, "fp32", (dim,))
    _check("out", out, "fp32", (tokens, dim))
    _at_most("values of a vector", dim, _constant(kernel, "BLOCK_D"))
    grid = (_blocks(tokens, kernel, "BLOCK_T"), 1, 1)
    arguments = (hidden, weight, bias, tokens, hidden_size, dim, out)
    return Launch(kernel=kernel, grid=grid, arguments=arguments)


def launch_lora_shrink(
    x: DeviceArray, a: DeviceArray, rows: DeviceArray, tile_adapters: DeviceArray, low: DeviceArray
) -> Launch:
    """Return the first launch of a delta: x · Aᵀ.

    Args:
        x: float [T, in].
        a: [n, r, in], x's type.
        rows: int32 [tiles, 32] of `kernels.lora.adapter_tiles`.
        tile_adapters: int32 [tiles].
        low: float32 [T, r], scratch for `launch_lora_expand`.

    Raises:
        ValueError: a shape or type does not fit.
    """
    kernel = f"lora_shrink.{x.dtype}"
    tokens, num_in = _matrix("x", x)
    num_adapters, rank, _ = _stack("a", a)
    _check("a", a, x.dtype, (num_adapters, rank, num_in))
    tiles = _check_tiles(kernel, rows, tile_adapters)
    _check("low", low, "fp32", (tokens, rank))
    grid = (tiles, _blocks(rank, kernel, "BLOCK_R"), 1)
    arguments = (x, a, rows, tile_adapters, num_in, rank, low)
    return Launch(kernel=kernel, grid=grid, arguments=arguments)


def launch_lora_expand(
    low: DeviceArray,
    b: DeviceArray,
    rows: DeviceArray,
    tile_adapters: DeviceArray,
    delta: DeviceArray,
) -> Launch:
    """Return the second launch of a delta: low · Bᵀ.

    Args:
        low: float32 [T, r] of `launch_lora_shrink`.
        b: float [n, out, r], alpha / r included.
        rows, tile_adapters: as for `launch_lora_shrink`; every token is in one tile.
        delta: float32 [T, out].

    Raises:
        ValueError: a shape or type does not fit.
    """
    kernel = f"lora_expand.{b.dtype}"
    tokens, rank = _matrix("low", low)
    num_adapters, num_out, _ = _stack("b", b)
    _check("low", low, "fp32", (tokens, rank))
    _check("b", b, b.dtype, (num_adapters, num_out, rank))
    tiles = _check_tiles(kernel, rows, tile_adapters)
    _check("delta", delta, "fp32", (tokens, num_out))
    grid = (tiles, _blocks(num_out, kernel, "BLOCK_O"), 1)
    arguments = (low, b, rows, tile_adapters, rank, num_out, delta)
    return Launch(kernel=kernel, grid=grid, arguments=arguments)


def launch_patchify(
    pixels: DeviceArray, levels: DeviceArray, order: DeviceArray, out: DeviceArray
) -> Launch:
    """Return the launch that cuts one image.

    Args:
        pixels: uint8 [h, w, 3], sides multiples of an image token's.
        levels: float32 [3, 256].
        order: int32 [N], numbers of image tokens in raster order.
        out: float [P, features], P = N · merge²; may be part of a larger array.

    Raises:
        ValueError: a shape or type does not fit.
    """
    kernel = f"patchify.{out.dtype}"
    patch, merge, frames = (_constant(kernel, name) for name in ("PATCH", "MERGE", "FRAMES"))
    height, width, _ = _stack("pixels", pixels)
    if height % (patch * merge) or width % (patch * merge):
        raise ValueError(f"an image of {width}×{height} is not whole squares of {patch * merge}")
    _check("pixels", pixels, "u8", (height, width, CHANNELS))
    _check("levels", levels, "fp32", (CHANNELS, 256))
    _check("order", order, "i32", (height * width // (patch * merge) ** 2,))
    num_patches = order.shape[0] * merge**2
    _check("out", out, out.dtype, (num_patches, CHANNELS * frames * patch**2))
    arguments = (pixels, levels, order, width, out)
    return Launch(kernel=kernel, grid=(num_patches, 1, 1), arguments=arguments)


def launch_quantise_int8(vectors: DeviceArray, ranges: DeviceArray, out: DeviceArray) -> Launch:
    """Return the launch that gives each value its step of a range.

    Args:
        vectors: float [B, D].
        ranges: float32 [2, D], lowest and highest values.
        out: int8 [B, D].

    Raises:
        ValueError: a shape or type does not fit.
    """
    kernel = f"quantise_int8.{vectors.dtype}"
    batch, dim = _matrix("vectors", vectors)
    _check("ranges", ranges, "fp32", (2, dim))
    _check("out", out, "i8", (batch, dim))
    grid = (batch, _blocks(dim, kernel, "BLOCK_D"), 1)
    return Launch(kernel=kernel, grid=grid, arguments=(vectors, ranges, dim, out))


def launch_pack_ubinary(vectors: DeviceArray, out: DeviceArray) -> Launch:
    """Return the launch that packs signs into uint8 [B, D / 8 rounded up].

    Raises:
        ValueError: a shape or type does not fit.
    """
    return _launch_pack("pack_ubinary", vectors, out, "u8")


def launch_pack_binary(vectors: DeviceArray, out: DeviceArray) -> Launch:
    """Return the launch that packs signs into int8 [B, D / 8 rounded up].

    Raises:
        ValueError: a shape or type does not fit.
    """
    return _launch_pack("pack_binary", vectors, out, "i8")


def _launch_pack(name: str, vectors: DeviceArray, out: DeviceArray, dtype: str) -> Launch:
    kernel = f"{name}.{vectors.dtype}"
    batch, dim = _matrix("vectors", vectors)
    num_bytes = -(-dim // 8)
    _check("out", out, dtype, (batch, num_bytes))
    grid = (batch, _blocks(num_bytes, kernel, "BLOCK_BYTES"), 1)
    return Launch(kernel=kernel, grid=grid, arguments=(vectors, dim, out))


def _constant(kernel: str, name: str) -> int:
    try:
        return find_spec(kernel).constant(name)
    except KeyError as cause:
        raise ValueError(f"there is no kernel {kernel!r}: no float type") from cause


def _blocks(size: int, kernel: str, constant: str) -> int:
    return -(-size // _constant(kernel, constant))


def _matrix(name: str, array: DeviceArray) -> tuple[int, int]:
    if len(array.shape) != 2:
        raise ValueError(f"{name} has the shape {array.shape}, which is no matrix")
    return array.shape[0], array.shape[1]


def _stack(name: str, array: DeviceArray) -> tuple[int, int, int]:
    if len(array.shape) != 3:
        raise ValueError(f"{name} has the shape {array.shape}; it must have three axes")
    return array.shape[0], array.shape[1], array.shape[2]


def _check(name: str, array: DeviceArray, dtype: str, shape: tuple[int, ...]) -> None:
    if (array.dtype, array.shape) != (dtype, shape):
        raise ValueError(f"{name} is {array.dtype} {array.shape} and must be {dtype} {shape}")


def _check_tiles(kernel: str, rows: DeviceArray, tile_adapters: DeviceArray) -> int:
    tiles = _matrix("rows", rows)[0]
    _check("rows", rows, "i32", (tiles, _constant(kernel, "BLOCK_T")))
    _check("tile_adapters", tile_adapters, "i32", (tiles,))
    return tiles


def _at_most(what: str, value: int, limit: int) -> None:
    if value > limit:
        raise ValueError(f"{value} {what} are more than the {limit} that the kernel takes")
