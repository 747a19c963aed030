"""Writes the graphs of one engine into a bundle."""

from collections.abc import Callable
from math import prod
from pathlib import Path

import numpy as np

from trine.export.checkpoint import Checkpoint
from trine.export.decoder_graph import build_decoder
from trine.export.decoder_weights import DecoderWeights
from trine.export.graph_builder import save_graph
from trine.export.vision_graph import build_vision
from trine.runtime.manifest import AdapterLayout, EngineEntry, Tolerance
from trine.runtime.peft_adapter import PeftAdapters

__all__ = ["FP32_TOLERANCE", "engine_bytes", "write_fp32_engine"]

#: float32 engines differ from the reference by rounding alone: measured under 3e-6 for single
#: vectors and 2e-5 for multi-vectors. The rest is room for other processors' kernels.
FP32_TOLERANCE = Tolerance(min_cosine=0.999999, max_difference=2e-4)


def engine_bytes(checkpoint: Checkpoint, num_decoders: int) -> int:
    """Return the size of the float32 graphs of `num_decoders` decoders and the vision tower."""
    total = 0
    for name, shape in checkpoint.shapes().items():
        size = prod(shape) * np.dtype(np.float32).itemsize
        if name.startswith("visual."):
            total += size
        elif name.startswith(("layers.", "norm.")):
            total += size * num_decoders
    return total


def write_fp32_engine(
    checkpoint: Checkpoint,
    adapters: PeftAdapters,
    tasks: tuple[str, ...],
    layout: AdapterLayout,
    folder: Path,
    written: Callable[[int], None],
) -> EngineEntry:
    """Write the vision graph and the decoder graphs; return their manifest entry.

    Args:
        checkpoint: the base model.
        adapters: to merge.
        tasks: to write.
        layout: of the adapters beside a decoder for all tasks; without files one is merged into
            a decoder each.
        folder: of the bundle.
        written: called with the size in bytes of each tensor.

    Raises:
        CheckpointError: a weight is not finite.
    """
    merged = not layout.files
    name = "ort-fp32" if merged else "ort-fp32-runtime"
    place = folder / "engines" / name
    place.mkdir(parents=True)
    config = checkpoint.config
    save_graph(build_vision(config.vision, checkpoint), place / "vision.onnx", written)
    decoders = {}
    if merged:
        for task in tasks:
            weights = DecoderWeights(checkpoint, adapters, task)
            model = build_decoder(config.decoder, weights)
            save_graph(model, place / f"decoder-{task}.onnx", written)
            decoders[task] = f"engines/{name}/decoder-{task}.onnx"
    else:
        model = build_decoder(config.decoder, DecoderWeights(checkpoint, None, None), layout)
        save_graph(model, place / "decoder.onnx", written)
        decoders = dict.fromkeys(tasks, f"engines/{name}/decoder.onnx")
    one_decoder = (folder / decoders[tasks[0]]).with_suffix(".data")
    return EngineEntry(
        name=name,
        runner="onnxruntime",
        precision="fp32",
        adapters="merged" if merged else "runtime",
        vision=f"engines/{name}/vision.onnx",
        decoders=decoders,
        weight_bytes=one_decoder.stat().st_size + (place / "vision.data").stat().st_size,
        tolerance=FP32_TOLERANCE,
    )
