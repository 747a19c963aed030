"""The decoder on the native kernels: packed token embeddings in, hidden states out."""

import numpy as np

from trine.kernels.cpu.kernels import CpuKernels
from trine.runtime.bundle.model_config import DecoderConfig
from trine.runtime.engines.base import DecoderInputs
from trine.runtime.engines.native.deltas import RunDeltas
from trine.runtime.engines.native.layers import LayerNames, LayerReader
from trine.runtime.engines.native.linear import Floats
from trine.runtime.engines.native.stack import AttentionLayout, StackRun, TransformerStack
from trine.runtime.engines.native.workspace import Workspace

__all__ = ["read_decoder", "forward_decoder"]


def read_decoder(reader: LayerReader, config: DecoderConfig) -> TransformerStack:
    """Return the stack with the weights of a graph.

    Raises:
        BundleError: one is not there.
    """
    return TransformerStack(
        [reader.layer(_names(layer)) for layer in range(config.num_layers)],
        reader.vector("norm.weight"),
        config.rms_norm_eps,
        AttentionLayout(
            heads=(config.num_heads, config.num_kv_heads), head_dim=config.head_dim, causal=True
        ),
    )


def forward_decoder(
    stack: TransformerStack,
    inputs: DecoderInputs,
    kernels: CpuKernels,
    workspace: Workspace,
    deltas: RunDeltas | None,
) -> Floats:
    """Return hidden states after the final norm, float32 [T, hidden], owned by the caller.

    Args:
        stack: of `read_decoder`.
        inputs: packed sequences, whose embeddings are overwritten.
        kernels: to compute with.
        workspace: that no other run uses meanwhile.
        deltas: of the tokens' adapters, or None.
    """
    starts = np.concatenate([[0], np.cumsum(inputs.lengths)])
    return stack.run(
        np.require(inputs.embeddings, np.float32, ["C_CONTIGUOUS", "WRITEABLE"]),
        StackRun(
            kernels=kernels,
            workspace=workspace,
            rope_cos=np.ascontiguousarray(inputs.rope_cos),
            rope_sin=np.ascontiguousarray(inputs.rope_sin),
            starts=lambda layer: starts,
            deltas=deltas,
        ),
    )


def _names(layer: int) -> LayerNames:
    prefix = f"layers.{layer}"
    return LayerNames(
        input_norm=f"{prefix}.input_layernorm.weight",
        qkv=f"{prefix}.self_attn.qkv",
        o=f"{prefix}.self_attn.o",
        post_norm=f"{prefix}.post_attention_layernorm.weight",
        gate=f"{prefix}.mlp.gate",
        up=f"{prefix}.mlp.up",
        down=f"{prefix}.mlp.down",
    )
