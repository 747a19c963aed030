"""Names, shapes and scales of the tensors of a checkpoint in the published layout.

Scales keep the residual stream near its start while letting every tensor show in the output: a
linear layer of unit input gives a little less than unit output, and an adapter changes its layer's
output by about a third of its alpha over rank.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod

from trine.export.sample.spec import KeySpelling, SampleSpec

__all__ = ["SampleTensor", "adapter_tensors", "base_tensors", "shards", "stored_name"]

#: Standard deviation of a linear weight times the root of its inputs.
LINEAR_GAIN = 0.8
#: Standard deviation of LoRA's B times the root of its rank.
ADAPTER_GAIN = 0.3
BIAS_STD = 0.1
NORM_STD = 0.1
EMBEDDING_STD = 1.0
#: Channels of an image.
IN_CHANNELS = 3


@dataclass(frozen=True, slots=True)
class SampleTensor:
    """One tensor: normal values of `mean` and `std`.

    Attributes:
        name: published name; also what the values are drawn from, whatever name is stored.
        shape: in elements; linear weights are [out, in].
        mean: of the values.
        std: of the values.
    """

    name: str
    shape: tuple[int, ...]
    mean: float
    std: float

    @property
    def num_values(self) -> int:
        return prod(self.shape)


def stored_name(name: str, spelling: KeySpelling) -> str:
    """Return the published `name` of a base tensor as `spelling` writes it."""
    if spelling == "resaved" and name.startswith("visual."):
        return f"model.{name}"
    if spelling == "resaved" and name.startswith("model."):
        return f"model.language_model.{name.removeprefix('model.')}"
    return name


def base_tensors(spec: SampleSpec) -> list[SampleTensor]:
    """Return the tensors of the base model, sorted by name."""
    projector = _linear("multi_vector_projector", spec.projector_dim, spec.hidden_size)
    tensors = [*_decoder(spec), *_vision(spec), *projector]
    return sorted(tensors, key=lambda tensor: tensor.name)


def adapter_tensors(spec: SampleSpec) -> list[SampleTensor]:
    """Return the LoRA tensors of all tasks, sorted by name."""
    modules = {
        f"model.language_model.layers.{layer}.{name}": shape
        for layer in range(spec.num_layers)
        for name, shape in _adapted_shapes(spec).items()
    }
    modules["multi_vector_projector"] = (spec.projector_dim, spec.hidden_size)
    tensors = [
        tensor
        for module, (out_size, in_size) in modules.items()
        for task in spec.tasks
        for tensor in _lora_pair(module, task, _rank(spec, module), (out_size, in_size))
    ]
    return sorted(tensors, key=lambda tensor: tensor.name)


def shards(tensors: Sequence[SampleTensor], count: int) -> list[list[SampleTensor]]:
    """Split `tensors`, in their order, into `count` non-empty parts of about the same size.

    Args:
        tensors: at least `count`.
        count: number of parts.
    """
    target = sum(tensor.num_values for tensor in tensors) / count
    parts: list[list[SampleTensor]] = [[]]
    filled = 0
    for index, tensor in enumerate(tensors):
        missing = count - len(parts)
        full = filled >= target or len(tensors) - index <= missing
        if parts[-1] and missing and full:
            parts.append([])
            filled = 0
        parts[-1].append(tensor)
        filled += tensor.num_values
    return parts


def _linear(name: str, out_size: int, in_size: int, *, bias: bool = True) -> list[SampleTensor]:
    std = LINEAR_GAIN / in_size**0.5
    tensors = [SampleTensor(f"{name}.weight", (out_size, in_size), 0.0, std)]
    if bias:
        tensors.append(SampleTensor(f"{name}.bias", (out_size,), 0.0, BIAS_STD))
    return tensors


def _norm(name: str, size: int) -> SampleTensor:
    return SampleTensor(f"{name}.weight", (size,), 1.0, NORM_STD)


def _adapted_shapes(spec: SampleSpec) -> dict[str, tuple[int, int]]:
    """Return [out, in] of a decoder layer's linear layers, which are the adapted ones."""
    hidden, mlp = spec.hidden_size, spec.intermediate_size
    kv_size = spec.num_kv_heads * spec.head_dim
    return {
        "self_attn.q_proj": (hidden, hidden),
        "self_attn.k_proj": (kv_size, hidden),
        "self_attn.v_proj": (kv_size, hidden),
        "self_attn.o_proj": (hidden, hidden),
        "mlp.gate_proj": (mlp, hidden),
        "mlp.up_proj": (mlp, hidden),
        "mlp.down_proj": (hidden, mlp),
    }


def _decoder(spec: SampleSpec) -> Iterator[SampleTensor]:
    hidden = spec.hidden_size
    yield SampleTensor("model.embed_tokens.weight", (spec.vocab_size, hidden), 0.0, EMBEDDING_STD)
    for layer in range(spec.num_layers):
        prefix = f"model.layers.{layer}"
        yield _norm(f"{prefix}.input_layernorm", hidden)
        yield _norm(f"{prefix}.post_attention_layernorm", hidden)
        for name, (out_size, in_size) in _adapted_shapes(spec).items():
            has_bias = name.endswith(("q_proj", "k_proj", "v_proj"))
            yield from _linear(f"{prefix}.{name}", out_size, in_size, bias=has_bias)
    yield _norm("model.norm", hidden)


def _vision(spec: SampleSpec) -> Iterator[SampleTensor]:
    hidden, mlp = spec.vision_hidden_size, spec.vision_intermediate_size
    patch = (IN_CHANNELS, spec.temporal_patch_size, spec.patch_size, spec.patch_size)
    yield SampleTensor("visual.patch_embed.proj.weight", (hidden, *patch), 0.0, prod(patch) ** -0.5)
    for block in range(spec.vision_depth):
        prefix = f"visual.blocks.{block}"
        yield _norm(f"{prefix}.norm1", hidden)
        yield _norm(f"{prefix}.norm2", hidden)
        yield from _linear(f"{prefix}.attn.qkv", 3 * hidden, hidden)
        yield from _linear(f"{prefix}.attn.proj", hidden, hidden)
        yield from _linear(f"{prefix}.mlp.gate_proj", mlp, hidden)
        yield from _linear(f"{prefix}.mlp.up_proj", mlp, hidden)
        yield from _linear(f"{prefix}.mlp.down_proj", hidden, mlp)
    merged = hidden * spec.spatial_merge_size**2
    yield _norm("visual.merger.ln_q", hidden)
    yield from _linear("visual.merger.mlp.0", merged, merged)
    yield from _linear("visual.merger.mlp.2", spec.hidden_size, merged)


def _rank(spec: SampleSpec, module: str) -> int:
    """Return the rank PEFT gives `module`: the first matching pattern's, else the common one."""
    for pattern, rank in spec.rank_pattern:
        if re.match(rf"(.*\.)?({pattern})$", module):
            return rank
    return spec.rank


def _lora_pair(
    module: str, task: str, rank: int, shape: tuple[int, int]
) -> tuple[SampleTensor, SampleTensor]:
    out_size, in_size = shape
    prefix = f"base_model.model.{module}"
    return (
        SampleTensor(f"{prefix}.lora_A.{task}.weight", (rank, in_size), 0.0, in_size**-0.5),
        SampleTensor(
            f"{prefix}.lora_B.{task}.weight", (out_size, rank), 0.0, ADAPTER_GAIN / rank**0.5
        ),
    )
