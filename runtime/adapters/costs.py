"""Counts what each way of having adapters costs: merged into decoders, or beside one."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from trine.runtime.adapters.layout import adapted_shapes, lora_groups
from trine.runtime.bundle.dtypes import STORAGE
from trine.runtime.bundle.manifest import AdapterLayout, EngineEntry, Manifest
from trine.runtime.bundle.model_config import DecoderConfig

__all__ = ["AdapterCost", "adapter_costs", "adapter_memory_bytes"]


@dataclass(frozen=True, slots=True)
class AdapterCost:
    """Decoders with the adapters of all tasks, in bytes."""

    mode: Literal["merged", "runtime"]
    disk_bytes: int
    memory_bytes: int


def adapter_costs(
    manifest: Manifest, entry: EngineEntry, decoder_bytes: int
) -> tuple[AdapterCost, AdapterCost]:
    """Return the costs of both modes for an engine's tasks.

    Args:
        manifest: of the bundle.
        entry: of the engine.
        decoder_bytes: of one of its decoders, graph and weights.
    """
    num_tasks = len(entry.decoders)
    layout, model = manifest.adapters, manifest.model
    item = np.dtype(STORAGE[layout.dtype]).itemsize
    on_disk = sum(layout.max_rank * sum(shape) for shape in adapted_shapes(model).values()) * item
    in_memory = adapter_memory_bytes(model.decoder, layout)
    merged = num_tasks * decoder_bytes
    return (
        AdapterCost("merged", merged, merged),
        AdapterCost(
            "runtime", decoder_bytes + num_tasks * on_disk, decoder_bytes + num_tasks * in_memory
        ),
    )


def adapter_memory_bytes(decoder: DecoderConfig, layout: AdapterLayout) -> int:
    """Return the resident size of one adapter: more than its file, for B is block-diagonal."""
    item = np.dtype(STORAGE[layout.dtype]).itemsize
    return sum(
        len(group.modules) * layout.max_rank * (group.num_in + group.num_out) * item
        for group in lora_groups(decoder)
    )
