"""Names of the linear layers of both graphs, and ONNX types that both dialects share."""

import onnx_ir as ir

from trine.runtime.bundle.model_config import DecoderConfig, VisionConfig

__all__ = [
    "DECODER_ROLES",
    "HALF_DTYPES",
    "LORA_DTYPES",
    "VISION_ROLES",
    "decoder_layers",
    "vision_layers",
]

#: Linear layers of a decoder layer, and of a block of the vision tower, in order of execution.
DECODER_ROLES = ("self_attn.qkv", "self_attn.o", "mlp.gate", "mlp.up", "mlp.down")
BLOCK_ROLES = ("attn.qkv", "attn.proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")
#: All of the vision tower.
VISION_ROLES = ("patch_embed", *BLOCK_ROLES, "merger.mlp.0", "merger.mlp.2")
#: ONNX types of the 16-bit formats.
HALF_DTYPES = {"fp16": ir.DataType.FLOAT16, "bf16": ir.DataType.BFLOAT16}
#: Types of the adapter inputs, by their names in safetensors.
LORA_DTYPES = {
    "BF16": ir.DataType.BFLOAT16,
    "F16": ir.DataType.FLOAT16,
    "F32": ir.DataType.FLOAT,
}


def decoder_layers(config: DecoderConfig) -> tuple[str, ...]:
    """Return the names of the decoder's linear layers."""
    return tuple(f"layers.{i}.{role}" for i in range(config.num_layers) for role in DECODER_ROLES)


def vision_layers(config: VisionConfig) -> tuple[str, ...]:
    """Return the names of the vision tower's linear layers."""
    blocks = (f"blocks.{i}.{role}" for i in range(config.depth) for role in BLOCK_ROLES)
    return ("patch_embed", *blocks, "merger.mlp.0", "merger.mlp.2")
