"""ONNX Runtime on the CPU.

Weights stay in memory-mapped files. Where there is room, ONNX Runtime repacks them at load for its
matrix kernels, which makes short inputs faster and costs the weights' size in memory; where there
is not, it reads them as they lie and loading takes no time.
"""

import dataclasses
import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from trine.runtime.bundle import Bundle
from trine.runtime.engine import DecoderInputs, EngineOptions
from trine.runtime.errors import EngineError, missing_package
from trine.runtime.manifest import EngineEntry
from trine.runtime.vision_layout import VisionInputs

if TYPE_CHECKING:
    import onnxruntime

__all__ = ["OrtCpuEngine"]

#: Part of the free memory that repacked weights may take.
REPACK_SHARE = 0.4
#: ONNX Runtime's level for errors: its warnings are about the graph's history, not the user's
#: input.
LOG_ERRORS = 3


class OrtCpuEngine:
    """Sessions of one engine entry: decoders at once, the vision tower at its first picture.

    Args:
        bundle: the bundle.
        entry: of the engine, whose runner is "onnxruntime".
        options: threads and tasks.

    Raises:
        EngineError: ONNX Runtime refuses a graph.
        DependencyError: onnxruntime is not installed.
    """

    def __init__(self, bundle: Bundle, entry: EngineEntry, options: EngineOptions) -> None:
        self._bundle = bundle
        self._entry = entry
        self._threads = options.threads or _num_cores()
        decoders = len(options.tasks)
        self._repack = entry.weight_bytes * decoders < REPACK_SHARE * _available_bytes()
        self._decoders = {task: self._open(entry.decoders[task]) for task in options.tasks}
        self._vision: onnxruntime.InferenceSession | None = None
        self._vision_lock = threading.Lock()

    @property
    def description(self) -> str:
        weights = "repacked" if self._repack else "memory-mapped"
        return (
            f"{self._entry.name}: ONNX Runtime on the CPU, {self._entry.precision}, "
            f"{self._threads} threads, {weights} weights, tasks {', '.join(self._decoders)}"
        )

    def run_vision(self, inputs: VisionInputs) -> NDArray[np.float32]:
        with self._vision_lock:
            if self._vision is None:
                self._vision = self._open(self._entry.vision)
        return _run(self._vision, inputs)

    def run_decoder(self, inputs: DecoderInputs, task: str) -> NDArray[np.float32]:
        return _run(self._decoders[task], inputs)

    def _open(self, name: str) -> "onnxruntime.InferenceSession":
        try:
            import onnxruntime
        except ImportError as cause:
            raise missing_package("onnxruntime", "cpu", "to run a bundle") from cause
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.log_severity_level = LOG_ERRORS
        # Threads that wait for the next run must not spin on the cores another session needs.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        if not self._repack:
            options.add_session_config_entry("session.disable_prepacking", "1")
        path = self._bundle.path(name)
        _read_ahead(path.with_suffix(".data"))
        try:
            return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        except Exception as cause:  # onnxruntime has no common base for its own exceptions
            raise EngineError(f"{path}: ONNX Runtime cannot load it: {cause}") from cause


def _run(
    session: "onnxruntime.InferenceSession", inputs: VisionInputs | DecoderInputs
) -> NDArray[np.float32]:
    feeds = {field.name: getattr(inputs, field.name) for field in dataclasses.fields(inputs)}
    (result,) = session.run(None, feeds)
    return np.asarray(result, np.float32)


def _read_ahead(path: Path) -> None:
    """Have the operating system read a file into its cache while the session is being made."""
    if hasattr(os, "posix_fadvise"):
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_WILLNEED)


def _num_cores() -> int:
    """Return how many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _available_bytes() -> int:
    """Return the memory that can be taken without swapping, in bytes."""
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            for line in file:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass  # no Linux
    # Elsewhere: a cautious guess.
    return 8 << 30
