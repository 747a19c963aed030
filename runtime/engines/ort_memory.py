"""How much memory a run in ONNX Runtime takes, and a check that the machine has it.

A run holds a few activations at once, whatever the number of layers: the MLP's three wide ones
and about eight of the hidden size (residual, norm, q, k, v, attention's output and copies between
them). Weights are not counted; they are resident or mapped already.
"""

from trine.runtime.doctor.cpu import read_cpu
from trine.runtime.errors import InputError
from trine.runtime.model_config import DecoderConfig, VisionConfig

__all__ = ["decoder_bytes", "require_memory", "vision_bytes"]

#: Activations of either size that are alive at the widest point of a layer.
NUM_WIDE, NUM_HIDDEN = 3, 8
FLOAT_BYTES = 4
#: Runs that take less are not checked: reading what is available would cost more than it saves.
MIN_CHECKED = 1 << 28


def decoder_bytes(decoder: DecoderConfig, num_tokens: int) -> int:
    """Return about how many bytes a run of the decoder takes at its peak."""
    width = NUM_WIDE * decoder.intermediate_size + NUM_HIDDEN * decoder.hidden_size
    return FLOAT_BYTES * num_tokens * width


def vision_bytes(vision: VisionConfig, num_patches: int) -> int:
    """Return about how many bytes a run of the vision tower takes, its patches included."""
    width = NUM_WIDE * vision.intermediate_size + NUM_HIDDEN * vision.hidden_size
    return FLOAT_BYTES * num_patches * (width + vision.patch_features)


def require_memory(num_bytes: int, what: str, remedy: str) -> None:
    """Check that the machine has the memory for a run before it starts.

    Args:
        num_bytes: that it takes.
        what: is run, e.g. "a run of 32768 tokens".
        remedy: what the caller can do.

    Raises:
        InputError: less is available, to the machine or to its container; with both numbers.
    """
    if num_bytes < MIN_CHECKED:
        return
    available = read_cpu().available_bytes
    if available is not None and available < num_bytes:
        raise InputError(
            f"{what} needs about {num_bytes / 1e9:.1f} GB of memory and {available / 1e9:.1f} GB "
            f"are available; {remedy}"
        )
