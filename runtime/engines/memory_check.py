"""Estimates the memory of a batch beside the weights, and checks that the machine has it.

Activations of one layer are alive at once, whatever the number of layers. Weights are not counted;
they are resident or mapped already.
"""

from trine.runtime.bundle.model_config import DecoderConfig, VisionConfig
from trine.runtime.engines.native.stack import strip_rows
from trine.runtime.errors import MemoryLimitError
from trine.runtime.hardware.memory import available_bytes

__all__ = [
    "native_decoder_bytes",
    "native_vision_bytes",
    "ort_decoder_bytes",
    "ort_vision_bytes",
    "require_decoder_memory",
    "require_vision_memory",
]

#: Activations that ONNX Runtime holds at the widest point of a layer: the MLP's three, and those of
#: the hidden size (residual, norm, q, k, v, attention's output and copies between them).
NUM_WIDE, NUM_HIDDEN = 3, 8
#: Of the hidden size in the native engine: the residual stream, which is what came in and what goes
#: out, and a copy of it while sequences are put together. The MLP's are those of a few rows only.
NATIVE_HIDDEN = 2
FLOAT_BYTES = 4
#: Runs that take less are not checked: reading what is available would cost more than it saves.
MIN_CHECKED = 1 << 28


def ort_decoder_bytes(decoder: DecoderConfig, num_tokens: int) -> int:
    """Return about how many bytes a run of the decoder takes at its peak."""
    width = NUM_WIDE * decoder.intermediate_size + NUM_HIDDEN * decoder.hidden_size
    return FLOAT_BYTES * num_tokens * width


def ort_vision_bytes(vision: VisionConfig, num_patches: int) -> int:
    """Return about how many bytes a run of the vision tower takes, its patches included."""
    width = NUM_WIDE * vision.intermediate_size + NUM_HIDDEN * vision.hidden_size
    return FLOAT_BYTES * num_patches * (width + vision.patch_features)


def native_decoder_bytes(decoder: DecoderConfig, num_tokens: int) -> int:
    """Return about how many bytes a run of the decoder takes at its peak in the native engine."""
    heads = decoder.num_heads + 2 * decoder.num_kv_heads
    strip = min(num_tokens, strip_rows(num_tokens)) * heads * decoder.head_dim
    # Keys and values lie once as the layer makes them, and once as attention reads them.
    width = NATIVE_HIDDEN * decoder.hidden_size + 4 * decoder.num_kv_heads * decoder.head_dim
    return FLOAT_BYTES * (num_tokens * width + strip)


def native_vision_bytes(vision: VisionConfig, num_patches: int) -> int:
    """Return about how many bytes a run of the vision tower takes in the native engine."""
    width = (NATIVE_HIDDEN + 3 + 2) * vision.hidden_size
    return FLOAT_BYTES * num_patches * (width + 2 * vision.patch_features)


def require_decoder_memory(num_bytes: int, num_tokens: int) -> None:
    """Check that the machine has the memory for a run of the decoder before it starts.

    Args:
        num_bytes: that the run takes.
        num_tokens: of the run.

    Raises:
        MemoryLimitError: less is available, to the machine or to its container; with both numbers.
    """
    _require(
        num_bytes,
        f"a run of {num_tokens} tokens",
        "give a smaller max_length, or fewer tokens a run (BatchLimits.tokens)",
    )


def require_vision_memory(num_bytes: int, num_patches: int) -> None:
    """Check that the machine has the memory for a run of the vision tower before it starts.

    Args:
        num_bytes: that the run takes.
        num_patches: of the run.

    Raises:
        MemoryLimitError: less is available, to the machine or to its container; with both numbers.
    """
    _require(
        num_bytes,
        f"an image run of {num_patches} patches",
        "give a smaller max_pixels, or fewer patches a run (BatchLimits.patches)",
    )


def _require(num_bytes: int, what: str, remedy: str) -> None:
    if num_bytes < MIN_CHECKED:
        return
    available = available_bytes()
    if available is not None and available < num_bytes:
        raise MemoryLimitError(
            f"{what} needs about {num_bytes / 1e9:.1f} GB of memory and {available / 1e9:.1f} GB "
            f"are available; {remedy}"
        )
