"""Opens and runs ONNX Runtime sessions on the CPU.

Weights stay in memory-mapped files. Where there is room, ONNX Runtime repacks them at load for its
matrix kernels, which makes short inputs faster and costs the weights' size in memory; where there
is not, it reads them as they lie and loading takes no time.
"""

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from trine.runtime.engines.base import DecoderInputs
from trine.runtime.errors import EngineError
from trine.runtime.hardware.memory import available_bytes
from trine.runtime.hardware.processors import num_processors
from trine.runtime.libraries import import_onnxruntime
from trine.runtime.preprocessing.vision_inputs import VisionInputs

if TYPE_CHECKING:
    import onnxruntime

__all__ = ["SessionSettings", "choose_settings", "open_session", "run_session"]

#: Part of the free memory that repacked weights may take.
REPACK_SHARE = 0.4
#: Free memory where the system does not say: a cautious guess.
UNKNOWN_BYTES = 8 << 30
#: ONNX Runtime's level for errors; its warnings are about the graph's making, not the user's input.
LOG_ERRORS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionSettings:
    """How sessions of one engine run.

    Attributes:
        threads: of one run.
        repack: whether weights are repacked at load.
        spin: whether threads of a run wait busily for one another.
    """

    threads: int
    repack: bool
    spin: bool = True


def choose_settings(
    threads: int | None, weight_bytes: int, share_weights: bool = False, spin: bool = True
) -> SessionSettings:
    """Return settings for sessions whose weights take `weight_bytes` altogether.

    Args:
        threads: of one run; None for one a processor.
        weight_bytes: of all sessions.
        share_weights: whether other processes map the same files: then nothing is repacked.
        spin: whether threads of a run wait busily for one another.
    """
    free = available_bytes()
    room = REPACK_SHARE * (UNKNOWN_BYTES if free is None else free)
    return SessionSettings(
        threads=threads or num_processors(),
        repack=not share_weights and weight_bytes < room,
        spin=spin,
    )


def open_session(
    path: Path, settings: SessionSettings, profile: Path | None = None
) -> "onnxruntime.InferenceSession":
    """Return a session for the graph at `path`.

    Args:
        path: of the graph.
        settings: how it runs.
        profile: start of the name of a file for ONNX Runtime's profile; None for none.

    Raises:
        EngineError: ONNX Runtime refuses the graph.
        DependencyError: onnxruntime is not installed.
    """
    onnxruntime = import_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = settings.threads
    options.log_severity_level = LOG_ERRORS
    # Threads that wait for the next run must not spin on the cores another session needs.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    # The faster products of u8 and s8 saturate on x86 without 8-bit dot products; there weights are
    # made u8, elsewhere this changes nothing.
    options.add_session_config_entry("session.x64quantprecision", "1")
    if not settings.spin:
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if not settings.repack:
        options.add_session_config_entry("session.disable_prepacking", "1")
    if profile is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile)
    _read_ahead(path.with_suffix(".data"))
    try:
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as cause:  # onnxruntime has no common base for its own exceptions
        raise EngineError(f"{path}: ONNX Runtime cannot load it: {cause}") from cause


def run_session(
    session: "onnxruntime.InferenceSession",
    inputs: VisionInputs | DecoderInputs,
    more: Mapping[str, object] | None = None,
) -> NDArray[np.float32]:
    """Return the graph's one output, float32, owned by the caller.

    Args:
        session: of the graph.
        inputs: whose fields are named as the graph's inputs.
        more: further inputs by name, arrays or OrtValues.
    """
    feeds: dict[str, object] = {
        field.name: getattr(inputs, field.name) for field in dataclasses.fields(inputs)
    }
    (result,) = session.run(None, feeds | dict(more or {}))
    return np.asarray(result, np.float32)


def _read_ahead(path: Path) -> None:
    """Have the operating system read a file into its cache while the session is being made."""
    if hasattr(os, "posix_fadvise"):
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_WILLNEED)
