"""Where the time of a workload goes: by stage, and inside the graphs by class of operator.

Graphs are run once more in sessions of their own with ONNX Runtime's profiler on, so that the
profiler costs the timed stages nothing.
"""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trine.runtime.bench.measure import OpenedEngine, call_seconds
from trine.runtime.bench.op_classes import ClassTime, class_times
from trine.runtime.bench.workloads import Workload, random_picture, random_texts, sequences_of
from trine.runtime.engine import DecoderInputs
from trine.runtime.engines.ort_session import choose_settings, run_session
from trine.runtime.errors import EngineError, InputError
from trine.runtime.heads import single_vector
from trine.runtime.image_patches import patch_image
from trine.runtime.pipeline import lay_out_sequences
from trine.runtime.sequence import TokenSequence
from trine.runtime.vision_layout import VisionInputs, lay_out_images

__all__ = ["GraphProfile", "WorkloadProfile", "check_profilable", "profile_workload"]

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


def check_profilable(opened: OpenedEngine) -> None:
    """Check that an engine's graphs can be run by themselves.

    Raises:
        InputError: the decoder takes its adapters as inputs.
    """
    if opened.entry.adapters != "merged":
        raise InputError(
            f"--profile runs graphs by themselves, but {opened.entry.name} takes its adapters as "
            "inputs; export with --adapters merged to profile"
        )


def profile_workload(opened: OpenedEngine, workload: Workload) -> WorkloadProfile:
    """Return the stages' times and the operators' of a workload's graphs, run in one batch.

    Args:
        opened: the engine, which `check_profilable` let pass.
        workload: texts, or one picture.
    """
    model = opened.bundle.manifest.model
    sequences = sequences_of(workload, model, opened.tokenizer)
    embeddings = np.random.default_rng(0).standard_normal(
        (sum(len(sequence) for sequence in sequences), model.decoder.hidden_size), np.float32
    )
    decoder = lay_out_sequences(sequences, embeddings, model)
    images = [image for sequence in sequences for image in sequence.images]
    vision = lay_out_images(images, model.vision) if images else None
    entry = opened.entry
    graphs = [_profiled("decoder", opened, entry.decoders[opened.task], decoder)]
    if vision is not None:
        graphs.insert(0, _profiled("vision", opened, entry.vision, vision))
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
        pixels = [random_picture(*size) for size in workload.pictures]
        stages["preprocess"] = _median(
            lambda: [patch_image(p, model.image, model.vision, limit) for p in pixels]
        )
        stages["vision"] = _median(lambda: opened.engine.run_vision(vision))
    with opened.engine.adapters.hold([opened.task]) as handles:
        adapters = [handles[opened.task]] * len(sequences)
        hidden = opened.engine.run_decoder(decoder, adapters)
        stages["decoder"] = _median(lambda: opened.engine.run_decoder(decoder, adapters))
    ends = np.cumsum([len(sequence) for sequence in sequences])
    parts = np.split(hidden, ends[:-1])
    stages["heads"] = _median(
        lambda: [single_vector(p, s) for p, s in zip(parts, sequences, strict=True)]
    )
    return stages


def _profiled(
    name: str, opened: OpenedEngine, graph: str, inputs: VisionInputs | DecoderInputs
) -> GraphProfile:
    """Run a graph in a profiled session."""
    import onnxruntime

    path = opened.bundle.path(graph)
    settings = choose_settings(opened.threads, opened.entry.weight_bytes)
    with tempfile.TemporaryDirectory() as folder:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = settings.threads
        if not settings.repack:
            options.add_session_config_entry("session.disable_prepacking", "1")
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / name)
        try:
            session = onnxruntime.InferenceSession(
                path, options, providers=["CPUExecutionProvider"]
            )
        except Exception as cause:  # onnxruntime has no common base for its own exceptions
            raise EngineError(f"{path}: ONNX Runtime cannot load it: {cause}") from cause
        for _ in range(CALLS):
            run_session(session, inputs)
        return GraphProfile(
            graph=name, classes=class_times(Path(session.end_profiling()), runs=CALLS)
        )


def _median(call: Callable[[], object]) -> float:
    return float(np.median(call_seconds(call, CALLS)))
