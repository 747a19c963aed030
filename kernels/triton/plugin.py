"""Pooling as a TensorRT 11 plugin, compiled ahead of time: a network can end in normalised vectors.

`pool_segments` becomes the layer `trine::pool_segments` through TensorRT's decorators (`register`,
`aot_impl`); the engine holds the PTX, so neither Triton nor Python is needed where it runs, nor
Triton where it is built. Usage, before the network is built:

    register_pool_plugin(Path("kernels"), sm=89)
    layer = network.add_plugin(
        tensorrt.plugin.op.trine.pool_segments(hidden, cu_seqlens, pooled, dim=2048), aot=True
    )

How far this is proved without a GPU: the decorators of TensorRT 11.4 accept the plugin and its
creator is registered; its shapes, launch parameters and arguments are evaluated through their
symbolic expressions; the PTX assembles and takes exactly the parameters that TensorRT passes, in
its order (inputs, scalars, outputs). TensorRT 11's builder cannot be installed without NVIDIA's own
package index, so no engine was built, and none was run.
"""

from pathlib import Path
from typing import Any

from trine.kernels.triton.errors import KernelError
from trine.kernels.triton.index import compile_command, read_code, read_index

__all__ = ["PLUGIN", "register_pool_plugin"]

#: Namespace and name in TensorRT's registry.
PLUGIN = "trine::pool_segments"
KERNEL = "pool_segments"


def register_pool_plugin(folder: Path, sm: int) -> None:
    """Register the layer with TensorRT, for networks built in this process for one architecture.

    Its inputs are hidden states float32, float16 or bfloat16 [T, H], `cu_seqlens` int32 [B + 1] and
    `pooled` bool [T]; its attribute is `dim`; its output is float32 [B, dim], normalised.

    Args:
        folder: of compiled kernels, with their PTX.
        sm: compute capability times 10 of the GPU that the engine is built for.

    Raises:
        KernelError: TensorRT 11 or the compiled kernel is missing, or the plugin is registered.
    """
    try:
        import tensorrt as trt
        import tensorrt.plugin as trtp
    except ImportError as cause:
        raise KernelError(
            "the package 'tensorrt' from version 11 is needed for plugins but cannot be "
            f"imported ({cause}): pip install 'trine[tensorrt]'"
        ) from cause
    kernels = {kernel.name: kernel for kernel in read_index(folder).kernels if kernel.sm == sm}
    dtypes = {trt.float32: "fp32", trt.float16: "fp16", trt.bfloat16: "bf16"}
    found = {dtype: kernels.get(f"{KERNEL}.{name}") for dtype, name in dtypes.items()}
    missing = [dtypes[dtype] for dtype, kernel in found.items() if kernel is None]
    if missing:
        raise KernelError(
            f"{folder}: has no {KERNEL} of {missing} for sm {sm}; compile it: "
            f"{compile_command(folder, sm)}"
        )
    texts = {
        dtype: read_code(folder, kernel.ptx, kernel.ptx_sha256)
        for dtype, kernel in found.items()
        if kernel is not None
    }

    def describe(
        hidden: trtp.TensorDesc, cu_seqlens: trtp.TensorDesc, pooled: trtp.TensorDesc, dim: int
    ) -> trtp.TensorDesc:
        return trtp.from_shape_expr((cu_seqlens.shape_expr[0] - 1, dim), trt.float32)

    def implement(
        hidden: trtp.TensorDesc,
        cu_seqlens: trtp.TensorDesc,
        pooled: trtp.TensorDesc,
        dim: int,
        outputs: tuple[trtp.TensorDesc],
        tactic: int,
    ) -> tuple[str | bytes, str | bytes, trtp.KernelLaunchParams, trtp.SymIntExprs]:
        kernel = found[hidden.dtype]
        if kernel is None:
            raise KernelError(f"{PLUGIN}: hidden states are {hidden.dtype}, not one of {dtypes}")
        launch = trtp.KernelLaunchParams(
            grid_x=cu_seqlens.shape_expr[0] - 1,
            block_x=kernel.num_threads,
            shared_mem=kernel.shared_bytes,
        )
        # Handed over behind the inputs and before the outputs, as the kernel's parameters are.
        scalars = trtp.SymIntExprs(2)
        scalars[0] = hidden.shape_expr[1]
        scalars[1] = trtp.SymInt32(dim)
        return kernel.entry, texts[hidden.dtype], launch, scalars

    _decorate(trtp, describe, implement)


def _decorate(trtp: Any, describe: Any, implement: Any) -> None:
    try:
        trtp.register(PLUGIN)(describe)
        trtp.aot_impl(PLUGIN)(implement)
    except ValueError as cause:
        raise KernelError(f"TensorRT refuses the plugin {PLUGIN}: {cause}") from cause
