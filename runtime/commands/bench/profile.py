"""Measures where the time of a workload goes: by stage, and by class of operator.

Operators are timed by the engine itself in runs of their own, so that it costs the stages nothing.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from trine.runtime.commands.bench.measure import OpenedEngine, call_seconds
from trine.runtime.commands.bench.op_classes import ClassTime, class_times
from trine.runtime.commands.bench.workloads import (
    Workload,
    random_image,
    random_texts,
    sequences_of,
)
from trine.runtime.engines.base import DecoderInputs
from trine.runtime.engines.profile import ProfilingEngine
from trine.runtime.errors import EngineError
from trine.runtime.inference.pooling import single_vector
from trine.runtime.inference.runner import lay_out_sequences
from trine.runtime.preprocessing.image_processor import patch_image
from trine.runtime.preprocessing.sequence import TokenSequence
from trine.runtime.preprocessing.vision_inputs import VisionInputs, lay_out_images

__all__ = ["GraphProfile", "WorkloadProfile", "profile_workload", "profiling_engine"]

#: Calls of each stage, and runs of a profiled graph, at least.
CALLS = 3
#: One token in the published vocabulary, with the space before it.
WORD = " word"


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphProfile:
    """What one graph's run is made of.

    Attributes:
        graph: "vision" or "decoder".
        classes: most time first.
    """

    graph: str
    classes: Sequence[ClassTime]

    @property
    def gemm_operations_per_second(self) -> float:
        """Rate of the matrix products while they run; 0 without any."""
        gemm = next((entry for entry in self.classes if entry.name == "GEMM"), None)
        return gemm.operations / gemm.seconds if gemm and gemm.seconds else 0.0

    @property
    def operations_per_second(self) -> float:
        """The matrix products' operations over the whole graph's time."""
        seconds = sum(entry.seconds for entry in self.classes)
        return sum(entry.operations for entry in self.classes) / seconds if seconds else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkloadProfile:
    """One workload taken apart.

    Attributes:
        workload, title: its name, and for people.
        stages: median seconds of tokenise, preprocess, vision, decoder and heads; those it has.
        graphs: the graphs it runs.
    """

    workload: str
    title: str
    stages: dict[str, float]
    graphs: Sequence[GraphProfile]


def profiling_engine(opened: OpenedEngine) -> ProfilingEngine:
    """Return the engine if it can time its operators.

    Raises:
        EngineError: it cannot.
    """
    if not isinstance(opened.engine, ProfilingEngine):
        raise EngineError(
            f"{opened.entry.name} ({opened.engine.description}) does not time its operators; leave "
            "out --profile, or take another engine of the bundle"
        )
    return opened.engine


def profile_workload(opened: OpenedEngine, workload: Workload) -> WorkloadProfile:
    """Return the stages' times and the operators' of a workload's graphs, run in one batch.

    Args:
        opened: the engine.
        workload: texts, or one image.

    Raises:
        EngineError: the engine does not time its operators.
    """
    engine = profiling_engine(opened)
    model = opened.bundle.manifest.model
    sequences = sequences_of(workload, model, opened.tokenizer)
    embeddings = np.random.default_rng(0).standard_normal(
        (sum(len(sequence) for sequence in sequences), model.decoder.hidden_size), np.float32
    )
    decoder = lay_out_sequences(sequences, embeddings, model)
    images = [image for sequence in sequences for image in sequence.images]
    vision = lay_out_images(images, model.vision) if images else None
    graphs = []
    if vision is not None:
        operators = engine.profile_vision(vision, CALLS)
        graphs.append(GraphProfile(graph="vision", classes=class_times(operators)))
    with opened.engine.adapters.hold([opened.task]) as handles:
        adapters = [handles[opened.task]] * len(sequences)
        operators = engine.profile_decoder(decoder, adapters, CALLS)
    graphs.append(GraphProfile(graph="decoder", classes=class_times(operators)))
    return WorkloadProfile(
        workload=workload.name,
        title=workload.title,
        stages=_stage_seconds(opened, workload, sequences, decoder, vision),
        graphs=graphs,
    )


def _stage_seconds(
    opened: OpenedEngine,
    workload: Workload,
    sequences: Sequence[TokenSequence],
    decoder: DecoderInputs,
    vision: VisionInputs | None,
) -> dict[str, float]:
    model = opened.bundle.manifest.model
    stages: dict[str, float] = {}
    if workload.lengths:
        texts = [WORD * len(ids) for ids in random_texts(workload.lengths, model)]
        stages["tokenise"] = _median(lambda: opened.tokenizer.encode(texts))
    if vision is not None:
        limit = model.image.max_pixels
        pixels = [random_image(*size) for size in workload.images]
        stages["preprocess"] = _median(
            lambda: [patch_image(p, model.image, model.vision, limit) for p in pixels]
        )
        stages["vision"] = _median(lambda: opened.engine.forward_vision(vision))
    with opened.engine.adapters.hold([opened.task]) as handles:
        adapters = [handles[opened.task]] * len(sequences)
        # Runs overwrite their embeddings: from the second on they compute on their own results,
        # which takes as long.
        hidden = opened.engine.forward_decoder(decoder, adapters).copy()
        stages["decoder"] = _median(lambda: opened.engine.forward_decoder(decoder, adapters))
    ends = np.cumsum([len(sequence) for sequence in sequences])
    parts = np.split(hidden, ends[:-1])
    stages["heads"] = _median(
        lambda: [single_vector(p, s.pooled) for p, s in zip(parts, sequences, strict=True)]
    )
    return stages


def _median(call: Callable[[], object]) -> float:
    return float(np.median(call_seconds(call, CALLS)))
