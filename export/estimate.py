"""Sizes, time and memory of an export from config.json alone, before anything is downloaded."""

from collections.abc import Iterator
from dataclasses import dataclass

from trine.export.options import ExportOptions
from trine.runtime.bundle.model_config import DecoderConfig, ModelConfig, VisionConfig
from trine.runtime.commands.progress import format_bytes

__all__ = ["ExportEstimate", "estimate_export"]

#: Bytes a weight takes in each precision, scales included.
WEIGHT_BYTES = {"fp32": 4.0, "fp16": 2.0, "bf16": 2.0, "int8": 1.05, "fp8": 1.05, "int4": 0.8}
#: Checkpoints and embedding tables are stored in 16 bits.
STORED_BYTES = 2
#: Seconds a byte written and a weight planned took on two cores, as docs/export.md has them: 117 s
#: for 14.4 GB in float32; 6.1 minutes for 3.9 billion weights that are planned and measured.
SECONDS_A_BYTE = 117 / 14.4e9
SECONDS_A_WEIGHT = 366 / 3.9e9
#: Memory of the process, and of layers beside it (float32, planned) in multiples of the largest.
PROCESS_BYTES = 250e6
LAYERS_HELD = {False: 2.2, True: 25.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportEstimate:
    """About what an export takes.

    Attributes:
        weights: of the model, adapters apart.
        download_bytes: of the checkpoint.
        written_bytes: of the bundle, or of the plain ONNX models.
        seconds: on two cores, without the download.
        memory_bytes: at most.
    """

    weights: int
    download_bytes: int
    written_bytes: int
    seconds: float
    memory_bytes: int

    def lines(self) -> Iterator[str]:
        """Yield what `trine export --dry-run` prints."""
        yield f"  checkpoint  about {format_bytes(self.download_bytes)}, {self.weights:,} weights"
        yield f"  to write    about {format_bytes(self.written_bytes)}"
        yield f"  memory      about {format_bytes(self.memory_bytes)} at most"
        yield f"  time        about {max(self.seconds / 60, 0.1):.1f} min on two cores"


def estimate_export(
    model: ModelConfig, options: ExportOptions, plain: bool = False
) -> ExportEstimate:
    """Return about what an export takes.

    Args:
        model: the checkpoint's numbers.
        options: of the export.
        plain: whether plain ONNX models are written, each with a table of its own, beside one
            float32 vision tower; a bundle has one table for all.
    """
    decoder, vision = _decoder_weights(model.decoder), _vision_weights(model.vision)
    table = model.decoder.vocab_size * model.decoder.hidden_size
    tasks = len(model.tasks if options.tasks is None else options.tasks)
    decoders = tasks if options.adapters == "merged" else 1
    names = (*options.precisions, *options.tensorrt)
    if plain:
        tables = {name: 4 if name == "fp32" else 2 for name in names}
        models = sum(WEIGHT_BYTES[name] * decoder + tables[name] * table for name in names)
        written = int(models * tasks + WEIGHT_BYTES["fp32"] * vision)
    else:
        graphs = sum(WEIGHT_BYTES[name] * (decoder * decoders + vision) for name in names)
        written = int(graphs + STORED_BYTES * table)
    planned = any(name != "fp32" for name in names)
    largest = 4 * model.decoder.hidden_size * model.decoder.intermediate_size
    weights = decoder + vision + table
    return ExportEstimate(
        weights=weights,
        download_bytes=STORED_BYTES * weights,
        written_bytes=written,
        seconds=written * SECONDS_A_BYTE + weights * SECONDS_A_WEIGHT * planned,
        memory_bytes=int(PROCESS_BYTES + LAYERS_HELD[planned] * largest),
    )


def _decoder_weights(config: DecoderConfig) -> int:
    hidden, kv = config.hidden_size, config.num_kv_heads * config.head_dim
    attention = (hidden + 1) * (hidden + 2 * kv) + hidden * hidden
    layer = attention + 3 * hidden * config.intermediate_size + 2 * hidden
    return config.num_layers * layer + hidden


def _vision_weights(config: VisionConfig) -> int:
    hidden, inner = config.hidden_size, config.intermediate_size
    attention = (hidden + 1) * 4 * hidden
    block = attention + 3 * hidden * inner + 2 * inner + hidden + 2 * hidden
    merged = hidden * config.spatial_merge_size**2
    merger = hidden + (merged + 1) * merged + (merged + 1) * config.out_hidden_size
    return config.depth * block + config.patch_features * hidden + merger
