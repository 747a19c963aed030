"""Writes the graphs that TensorRT engines are built from."""

from pathlib import Path

from trine.export.checkpoint.checkpoint import Checkpoint
from trine.export.graphs.builder import save_graph
from trine.export.graphs.decoder_weights import DecoderWeights
from trine.export.graphs.trt.decoder import build_trt_decoder
from trine.export.graphs.trt.vision import build_trt_vision
from trine.export.quantisation.trt.graph_plans import TrtPlans
from trine.runtime.adapters.peft import LoraAdapters
from trine.runtime.bundle.manifest import AdapterLayout

__all__ = ["TrtPlans", "write_trt_graphs"]


def write_trt_graphs(
    checkpoint: Checkpoint,
    adapters: LoraAdapters,
    tasks: tuple[str, ...],
    layout: AdapterLayout,
    plans: TrtPlans,
    folder: Path,
) -> dict[str, Path]:
    """Write `vision.onnx` and the decoders, with their weights beside them.

    Args:
        checkpoint: the base model.
        adapters: its adapters.
        tasks: to write.
        layout: of adapters as inputs of one `decoder.onnx`; without files each is merged into a
            `decoder-<task>.onnx`.
        plans: of the graphs.
        folder: that is there.

    Returns:
        the file of each graph by its name without the suffix.

    Raises:
        CheckpointError: a weight is not finite.
    """
    config = checkpoint.config
    paths = {"vision": folder / "vision.onnx"}
    save_graph(
        build_trt_vision(config.vision, checkpoint, plans.vision), paths["vision"], _no_progress
    )
    if layout.files:
        paths["decoder"] = folder / "decoder.onnx"
        weights = DecoderWeights(checkpoint, None, None)
        model = build_trt_decoder(config.decoder, weights, plans.decoder, layout)
        save_graph(model, paths["decoder"], _no_progress)
        return paths
    for task in tasks:
        name = f"decoder-{task}"
        paths[name] = folder / f"{name}.onnx"
        weights = DecoderWeights(checkpoint, adapters, task)
        model = build_trt_decoder(config.decoder, weights, plans.decoder)
        save_graph(model, paths[name], _no_progress)
    return paths


def _no_progress(num_bytes: int) -> None:
    """Draw nothing."""
