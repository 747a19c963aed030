"""Finds the layers that a narrow format hurts most, one group of layers at a time.

A few inputs go through the float32 reference once; from every block, copies of them branch off in
which one group of layers, and nothing else, is rounded as planned. What that costs the final
vectors is the group's loss. Losses of different groups add up, to first order, so the groups to
keep wider are found without trying combinations.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from trine.export.reference.model import Fork, Reference, ReferenceInput, Rounding
from trine.runtime.bundle.model_config import ModelConfig
from trine.runtime.preprocessing.sequence import TokenSequence

__all__ = ["GroupLoss", "LayerGroup", "layer_groups", "measure_losses", "with_own_images"]


@dataclass(frozen=True, slots=True)
class LayerGroup:
    """Layers that are overridden together.

    Attributes:
        start: the block they are in, by the reference's name.
        names: of the layers and operations, as the graphs call them.
        num_weights: that a token or patch is multiplied by in them; attention has none, and counts
            as what reads it.
    """

    start: str
    names: tuple[str, ...]
    num_weights: int


@dataclass(frozen=True, slots=True)
class GroupLoss:
    """What rounding one group alone costs.

    Attributes:
        group: that was rounded.
        losses: 1 - cosine of each input's single vector; 2 where it was not finite.
    """

    group: LayerGroup
    losses: tuple[float, ...]


def layer_groups(model: ModelConfig) -> Iterator[LayerGroup]:
    """Yield the groups of both stacks in the order of execution."""
    vision, decoder = model.vision, model.decoder
    width = vision.hidden_size
    yield LayerGroup("visual.patch_embed", ("patch_embed",), width * vision.patch_features)
    for block in range(vision.depth):
        name, start = f"blocks.{block}", f"visual.blocks.{block}"
        yield LayerGroup(start, (f"{name}.attn.qkv",), 3 * width**2)
        yield LayerGroup(start, (f"{name}.attn.attended",), width**2)
        yield LayerGroup(start, (f"{name}.attn.proj",), width**2)
        mlp = (f"{name}.mlp.{part}" for part in ("gate_proj", "up_proj", "product", "down_proj"))
        yield LayerGroup(start, tuple(mlp), 3 * width * vision.intermediate_size)
    # One row for the patches of a token.
    merged = width * vision.spatial_merge_size
    yield LayerGroup(
        "visual.merger",
        ("merger.mlp.0", "merger.mlp.2"),
        merged**2 + width * vision.out_hidden_size,
    )
    width, heads = decoder.hidden_size, decoder.num_heads * decoder.head_dim
    keys = decoder.num_kv_heads * decoder.head_dim
    for layer in range(decoder.num_layers):
        name = f"layers.{layer}"
        yield LayerGroup(name, (f"{name}.self_attn.qkv",), width * (heads + 2 * keys))
        yield LayerGroup(name, (f"{name}.self_attn.attended",), width * heads)
        yield LayerGroup(name, (f"{name}.self_attn.o",), width * heads)
        mlp = (f"{name}.mlp.{part}" for part in ("gate", "up", "product", "down"))
        yield LayerGroup(name, tuple(mlp), 3 * width * decoder.intermediate_size)


def measure_losses(
    reference: Reference,
    rounding_of: Callable[[LayerGroup], Rounding],
    groups: Sequence[LayerGroup],
    inputs: Sequence[ReferenceInput],
    step: Callable[[int], None],
) -> list[GroupLoss]:
    """Return the loss of each group.

    Args:
        reference: of the checkpoint.
        rounding_of: what rounds one group alone.
        groups: to measure.
        inputs: without forks.
        step: called with 1 after each layer.
    """
    runs = list(inputs)
    branches: list[list[tuple[int, int]]] = []
    for group in groups:
        vision = group.start.startswith("visual.")
        rounding = rounding_of(group)
        mine = []
        for base, item in enumerate(inputs):
            if vision and not item.sequence.images:
                continue
            sequence = with_own_images(item.sequence) if vision else item.sequence
            mine.append((base, len(runs)))
            runs.append(
                ReferenceInput(
                    sequence, item.task, Fork(base=base, start=group.start, rounding=rounding)
                )
            )
        branches.append(mine)
    vectors = reference.run(runs, step)
    results = []
    for group, mine in zip(groups, branches, strict=True):
        losses = np.zeros(len(inputs))
        for base, branch in mine:
            cosine = float(vectors[branch].single @ vectors[base].single)
            losses[base] = 1 - cosine if np.isfinite(cosine) else 2
        results.append(GroupLoss(group, tuple(losses.tolist())))
    return results


def with_own_images(sequence: TokenSequence) -> TokenSequence:
    """Return the same sequence with images of other identity, so that they can differ."""
    images = tuple(dataclasses.replace(image) for image in sequence.images)
    return dataclasses.replace(sequence, images=images)
