"""Lists the layers an adapter changes and lays their low-rank matrices out for the decoder.

The layers that share an input and are computed by one product, q, k and v, form one group; every
other adapted layer is a group of its own. A group's A holds its layers' rows behind one another;
its B is block-diagonal, so that one product yields the outputs of all its layers side by side.
"""

from dataclasses import dataclass

from trine.runtime.bundle.model_config import DecoderConfig, ModelConfig

__all__ = ["PROJECTOR", "LoraGroup", "adapted_shapes", "lora_groups"]

#: The multi-vector projector, the one adapted layer outside the decoder.
PROJECTOR = "multi_vector_projector"


@dataclass(frozen=True, slots=True)
class LoraGroup:
    """Adapted layers whose deltas are computed together.

    Attributes:
        name: of the product they are added to, e.g. "layers.0.self_attn.qkv". The decoder's inputs
            are `<name>.lora_a` [ranks, num_in] and `<name>.lora_b` [ranks, num_out].
        modules: the layers, in the order of their outputs.
        num_in: of each layer.
        num_outs: of each layer.
    """

    name: str
    modules: tuple[str, ...]
    num_in: int
    num_outs: tuple[int, ...]

    @property
    def num_out(self) -> int:
        return sum(self.num_outs)


def lora_groups(decoder: DecoderConfig) -> list[LoraGroup]:
    """Return the decoder's groups in the order of execution."""
    hidden, inner = decoder.hidden_size, decoder.intermediate_size
    kv = decoder.num_kv_heads * decoder.head_dim
    groups = []
    for layer in range(decoder.num_layers):
        attention, mlp = f"layers.{layer}.self_attn", f"layers.{layer}.mlp"
        qkv = tuple(f"{attention}.{part}_proj" for part in "qkv")
        groups += [
            LoraGroup(f"{attention}.qkv", qkv, hidden, (hidden, kv, kv)),
            LoraGroup(f"{attention}.o", (f"{attention}.o_proj",), hidden, (hidden,)),
            LoraGroup(f"{mlp}.gate", (f"{mlp}.gate_proj",), hidden, (inner,)),
            LoraGroup(f"{mlp}.up", (f"{mlp}.up_proj",), hidden, (inner,)),
            LoraGroup(f"{mlp}.down", (f"{mlp}.down_proj",), inner, (hidden,)),
        ]
    return groups


def adapted_shapes(config: ModelConfig) -> dict[str, tuple[int, int]]:
    """Return (out, in) of every linear layer an adapter may change, by short module name."""
    shapes = {
        module: (num_out, group.num_in)
        for group in lora_groups(config.decoder)
        for module, num_out in zip(group.modules, group.num_outs, strict=True)
    }
    return shapes | {PROJECTOR: (config.projector_dim, config.decoder.hidden_size)}
