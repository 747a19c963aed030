"""The ways to run a bundle's graphs on a GPU, by name.

A bundle lists graphs for TensorRT once, say "trt-bf16". TensorRT, TensorRT-RTX and ONNX Runtime's
CUDA provider can each run them; "tensorrt" is the first such entry by TensorRT, and
"trt-bf16:ort_cuda" that one by the CUDA provider.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import get_args

from trine.runtime.bundle.manifest import Builder, EngineEntry, Runner

__all__ = ["GPU_RUNNERS", "REMOVED_RUNNER", "by_builder", "gpu_entries", "gpu_entry", "ways_to_run"]

#: In the order in which "auto" tries them.
GPU_RUNNERS: tuple[Runner, ...] = ("tensorrt", "tensorrt_rtx", "ort_cuda")
#: A runner that was taken out: ONNX Runtime's TensorRT provider cannot build strongly typed graphs.
REMOVED_RUNNER = "ort_tensorrt"
#: Between a listed entry's name and a runner's.
SEPARATOR = ":"


def gpu_entry(engines: Sequence[EngineEntry], name: str) -> EngineEntry | None:
    """Return the entry that a name stands for, its runner the one to use; None if it is none.

    Args:
        engines: of the manifest.
        name: of a runner, or of an entry and a runner with ":" between.
    """
    listed, _, wanted = name.rpartition(SEPARATOR)
    for runner in GPU_RUNNERS:
        if runner == wanted:
            fitting = [e for e in engines if _runs(e, runner) and listed in ("", e.name)]
            # Built engines first, so that the one that was made for it is taken.
            fitting.sort(key=lambda e: all(built.builder != runner for built in e.built))
            if fitting:
                return dataclasses.replace(fitting[0], runner=runner)
    return None


def by_builder(entry: EngineEntry) -> EngineEntry:
    """Return a listed entry, its runner the one that its built engines are for.

    Graphs for TensorRT that only TensorRT-RTX built are run by that.
    """
    builders = {built.builder for built in entry.built}
    if entry.runner != "tensorrt" or not builders or "tensorrt" in builders:
        return entry
    return dataclasses.replace(entry, runner=builders.pop())


def ways_to_run(entry: EngineEntry) -> Iterator[EngineEntry]:
    """Yield a listed entry by each runner of a GPU that takes its graphs."""
    for runner in GPU_RUNNERS:
        if _runs(entry, runner):
            yield dataclasses.replace(entry, runner=runner)


def gpu_entries(engines: Sequence[EngineEntry]) -> Iterator[EngineEntry]:
    """Yield the entries that "auto" may take on a GPU, the preferred one first."""
    for runner in GPU_RUNNERS:
        for entry in engines:
            built = any(built.builder == runner for built in entry.built)
            if _runs(entry, runner) and (built or runner not in get_args(Builder)):
                yield dataclasses.replace(entry, runner=runner)


def _runs(entry: EngineEntry, runner: Runner) -> bool:
    """Whether a runner takes the graphs of a listed entry."""
    # The CUDA provider has no products of 8-bit floats, and dequantises 8-bit integers first.
    floats = entry.precision in ("fp32", "fp16", "bf16")
    return entry.runner == "tensorrt" and (floats or runner != "ort_cuda")
