"""Writes the graphs of an engine into a bundle, and makes its manifest entry."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

import onnx_ir as ir

from trine.export.checkpoint.checkpoint import Checkpoint
from trine.export.graphs.builder import save_graph
from trine.export.graphs.decoder_weights import DecoderWeights
from trine.export.graphs.ort.decoder import build_decoder
from trine.export.graphs.ort.vision import build_vision
from trine.export.quantisation.precision_plan import EnginePlan
from trine.runtime.adapters.peft import LoraAdapters
from trine.runtime.bundle.manifest import (
    AdapterLayout,
    AdapterMode,
    Device,
    EngineEntry,
    Runner,
    Tolerance,
)
from trine.runtime.bundle.precision import EnginePrecision, Number, Precision, PrecisionMap
from trine.runtime.inference.embedding_table import EMBEDDING_TENSOR

__all__ = [
    "DEVICES",
    "EngineKind",
    "EngineSource",
    "GraphModels",
    "engine_bytes",
    "engine_entry",
    "graph_bytes",
    "ort_kind",
    "ort_models",
    "save_graphs",
    "table_number",
]

#: Bytes a weight takes by precision, scales included.
WEIGHT_BYTES = {"fp32": 4.0, "fp16": 2.0, "bf16": 2.0, "int8": 1.05, "int4": 0.8}
#: Where ONNX Runtime has kernels for the graphs: its CPU provider has no products of bfloat16; its
#: CUDA provider has grouped attention in 16 bits only, and no products of 8-bit activations with a
#: scale for each row. On a GPU the runtime runs the graphs of `trine.export.trt` instead.
DEVICES: dict[Precision, tuple[Device, ...]] = {
    "fp32": ("cpu",),
    "fp16": ("cpu", "cuda"),
    "bf16": ("cuda",),
    "int8": ("cpu",),
    "int4": ("cpu",),
}
#: Formats of the embedding table by the dtype it is stored in.
TABLE_NUMBERS: dict[str, Number] = {"BF16": "bf16", "F16": "fp16"}


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSource:
    """What engines are made of.

    Attributes:
        checkpoint: the base model.
        adapters: its adapters.
        tasks: to write.
        adapter_mode: "merged": a decoder for each task; "runtime": one decoder with adapters as
            inputs.
        layout: of the adapters, as the manifest has it.
    """

    checkpoint: Checkpoint
    adapters: LoraAdapters
    tasks: tuple[str, ...]
    adapter_mode: AdapterMode
    layout: AdapterLayout

    @property
    def merged(self) -> bool:
        return self.adapter_mode == "merged"

    def decoder_name(self, task: str) -> str:
        """Return what the decoder's graph of a task is called."""
        return f"decoder-{task}" if self.merged else "decoder"


@dataclass(frozen=True, slots=True)
class GraphModels:
    """Builds an engine's graphs, with their weights unread.

    Attributes:
        vision: returns the vision tower's graph.
        decoder: returns the decoder's graph with some weights; it takes adapters as inputs if a
            layout is given.
    """

    vision: Callable[[], ir.Model]
    decoder: Callable[[DecoderWeights, AdapterLayout | None], ir.Model]


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineKind:
    """What is known of an engine before its graphs are written.

    Attributes:
        name, runner, devices, precision, precision_map: as in `EngineEntry`.
    """

    name: str
    runner: Runner
    devices: tuple[Device, ...]
    precision: EnginePrecision
    precision_map: PrecisionMap


def engine_bytes(source: EngineSource, precision: Precision) -> int:
    """Return about how many bytes the graphs of an engine will take."""
    num_decoders = len(source.tasks) if source.merged else 1
    total = 0
    for name, shape in source.checkpoint.shapes().items():
        if name.startswith("visual."):
            total += prod(shape)
        elif name.startswith(("layers.", "norm.")):
            total += prod(shape) * num_decoders
    return int(total * WEIGHT_BYTES[precision])


def table_number(checkpoint: Checkpoint) -> Number:
    """Return the format of the embedding table."""
    return TABLE_NUMBERS.get(checkpoint.info(EMBEDDING_TENSOR).dtype, "fp32")


def ort_kind(source: EngineSource, precision: Precision, plan: EnginePlan) -> EngineKind:
    """Return what an engine for ONNX Runtime is called, where it runs and in what precision."""
    return EngineKind(
        name=f"ort-{precision}" if source.merged else f"ort-{precision}-runtime",
        runner="onnxruntime",
        devices=DEVICES[precision],
        precision=precision,
        precision_map=PrecisionMap(
            vision=plan.vision.precision,
            decoder=plan.decoder.precision,
            embedding=table_number(source.checkpoint),
        ),
    )


def ort_models(source: EngineSource, plan: EnginePlan) -> GraphModels:
    """Return the graphs for ONNX Runtime in the precision of a plan."""
    checkpoint, config = source.checkpoint, source.checkpoint.config
    return GraphModels(
        lambda: build_vision(config.vision, checkpoint, plan.vision),
        lambda weights, layout: build_decoder(config.decoder, weights, plan.decoder, layout),
    )


def save_graphs(
    source: EngineSource, models: GraphModels, folder: Path, written: Callable[[int], None]
) -> dict[str, Path]:
    """Write the vision graph and the decoder graphs, with their weights beside them.

    Args:
        source: of the weights.
        models: of the graphs.
        folder: that is there.
        written: called with the size in bytes of each tensor.

    Returns:
        the file of each graph by its name without the suffix.

    Raises:
        CheckpointError: a weight is not finite.
    """
    paths = {"vision": folder / "vision.onnx"}
    save_graph(models.vision(), paths["vision"], written)
    for task in source.tasks if source.merged else source.tasks[:1]:
        name = source.decoder_name(task)
        paths[name] = folder / f"{name}.onnx"
        if source.merged:
            model = models.decoder(DecoderWeights(source.checkpoint, source.adapters, task), None)
        else:
            model = models.decoder(DecoderWeights(source.checkpoint, None, None), source.layout)
        save_graph(model, paths[name], written)
    return paths


def engine_entry(
    source: EngineSource,
    kind: EngineKind,
    paths: Mapping[str, Path],
    tolerance: Tolerance,
    below_floor: bool,
) -> EngineEntry:
    """Return the manifest entry of an engine whose graphs were written.

    Args:
        source: of the weights.
        kind: of engine.
        paths: of the graphs in `engines/<name>/`, as `save_graphs` returns them.
        tolerance: for the self-test.
        below_floor: whether it is further from float32 than its precision should be.
    """
    first = paths[source.decoder_name(source.tasks[0])]
    weights = (path.with_suffix(".data") for path in (first, paths["vision"]))
    inside = {name: f"engines/{kind.name}/{path.name}" for name, path in paths.items()}
    return EngineEntry(
        name=kind.name,
        runner=kind.runner,
        devices=kind.devices,
        precision=kind.precision,
        precision_map=kind.precision_map,
        adapters=source.adapter_mode,
        vision=inside["vision"],
        decoders={task: inside[source.decoder_name(task)] for task in source.tasks},
        weight_bytes=sum(path.stat().st_size for path in weights),
        tolerance=tolerance,
        below_floor=below_floor,
    )


def graph_bytes(path: Path) -> int:
    """Return the size in bytes of a graph with its weights."""
    return path.stat().st_size + path.with_suffix(".data").stat().st_size
