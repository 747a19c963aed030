"""Writes the graphs of one engine into a bundle."""

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from pathlib import Path

from trine.export.checkpoint.checkpoint import Checkpoint
from trine.export.graphs.builder import save_graph
from trine.export.graphs.decoder_weights import DecoderWeights
from trine.export.graphs.ort.decoder import build_decoder
from trine.export.graphs.ort.vision import build_vision
from trine.export.quantisation.precision_plan import EnginePlan
from trine.runtime.adapters.peft import LoraAdapters
from trine.runtime.bundle.manifest import AdapterLayout, Device, EngineEntry, Tolerance
from trine.runtime.bundle.precision import Number, Precision, PrecisionMap
from trine.runtime.inference.embedding_table import EMBEDDING_TENSOR

__all__ = ["DEVICES", "EngineSource", "engine_bytes", "engine_name", "graph_bytes", "write_engine"]

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
        layout: of the adapters beside a decoder for all tasks; without files one is merged into
            a decoder each.
    """

    checkpoint: Checkpoint
    adapters: LoraAdapters
    tasks: tuple[str, ...]
    layout: AdapterLayout

    @property
    def merged(self) -> bool:
        return not self.layout.files


def engine_name(precision: Precision, merged: bool) -> str:
    """Return what an engine is called in bundles."""
    return f"ort-{precision}" if merged else f"ort-{precision}-runtime"


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


def write_engine(
    source: EngineSource,
    precision: Precision,
    plan: EnginePlan,
    folder: Path,
    written: Callable[[int], None],
) -> EngineEntry:
    """Write the vision graph and the decoder graphs; return their manifest entry.

    The entry's tolerance lets everything pass; it is set when the engine has been measured.

    Args:
        source: of the weights.
        precision: of the engine.
        plan: of its layers.
        folder: of the bundle.
        written: called with the size in bytes of each tensor.

    Raises:
        CheckpointError: a weight is not finite.
    """
    name = engine_name(precision, source.merged)
    place = folder / "engines" / name
    place.mkdir(parents=True)
    checkpoint, config = source.checkpoint, source.checkpoint.config
    save_graph(build_vision(config.vision, checkpoint, plan.vision), place / "vision.onnx", written)
    decoders = {}
    if source.merged:
        for task in source.tasks:
            weights = DecoderWeights(checkpoint, source.adapters, task)
            model = build_decoder(config.decoder, weights, plan.decoder)
            save_graph(model, place / f"decoder-{task}.onnx", written)
            decoders[task] = f"engines/{name}/decoder-{task}.onnx"
    else:
        weights = DecoderWeights(checkpoint, None, None)
        model = build_decoder(config.decoder, weights, plan.decoder, source.layout)
        save_graph(model, place / "decoder.onnx", written)
        decoders = dict.fromkeys(source.tasks, f"engines/{name}/decoder.onnx")
    one_decoder = (folder / decoders[source.tasks[0]]).with_suffix(".data")
    stored = checkpoint.info(EMBEDDING_TENSOR).dtype
    return EngineEntry(
        name=name,
        runner="onnxruntime",
        devices=DEVICES[precision],
        precision=precision,
        precision_map=PrecisionMap(
            vision=plan.vision.precision,
            decoder=plan.decoder.precision,
            embedding=TABLE_NUMBERS.get(stored, "fp32"),
        ),
        adapters="merged" if source.merged else "runtime",
        vision=f"engines/{name}/vision.onnx",
        decoders=decoders,
        weight_bytes=one_decoder.stat().st_size + (place / "vision.data").stat().st_size,
        tolerance=Tolerance(min_cosine=-1.0, max_difference=2.0),
        below_floor=False,
    )


def graph_bytes(path: Path) -> int:
    """Return the size in bytes of a graph with its weights."""
    return path.stat().st_size + path.with_suffix(".data").stat().st_size
