"""Trine: an engine of the bundle, from token ids and patches to vectors, and its thin parts."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from cases.inputs import multi_vectors
from numpy.typing import NDArray

from backends.contract import Call, EngineChoice, Inputs, Setup, UnsupportedCase
from backends.images import pixels_sequence
from backends.reference import item_tasks
from trine.kernels.maxsim import maxsim_scores
from trine.runtime.bundle.bundle import EMBEDDING_NAME, open_bundle
from trine.runtime.bundle.model_config import MAX_TOKENS
from trine.runtime.engines.base import EngineOptions
from trine.runtime.engines.opening import open_engine
from trine.runtime.engines.select import engine_named
from trine.runtime.inference.batch_planner import BatchLimits
from trine.runtime.inference.embedding_table import EmbeddingTable
from trine.runtime.inference.runner import Runner
from trine.runtime.outputs import Heads
from trine.runtime.preprocessing.image_processor import patch_image
from trine.runtime.preprocessing.sequence import TokenSequence, text_sequence
from trine.runtime.preprocessing.vision_inputs import lay_out_images

__all__ = ["TrineEngine", "TrineThinParts"]


class TrineEngine:
    """One engine of the bundle.

    Args:
        setup: the task.
        choice: the engine and its bundle.
        all_tasks: whether all decoders are loaded, for a case that mixes tasks.
    """

    def __init__(self, setup: Setup, choice: EngineChoice, all_tasks: bool) -> None:
        bundle = open_bundle(choice.bundle)
        entry = engine_named(bundle, choice.name)
        model = bundle.manifest.model
        self._tasks = model.tasks if all_tasks else (setup.task,)
        options = EngineOptions(threads=setup.threads, tasks=tuple(self._tasks))
        self._engine = open_engine(bundle, entry, options)
        table = EmbeddingTable(bundle.path(EMBEDDING_NAME), model.decoder)
        self._runner = Runner(model, self._engine, table, BatchLimits())
        self._heads = Heads(single=True, multi=False, dim=model.decoder.hidden_size)
        self._setup = setup
        graphs = {entry.vision, *(entry.decoders[task] for task in self._tasks)}
        self.file_bytes = sum(
            path.stat().st_size
            for graph in graphs
            for path in (bundle.path(graph), bundle.path(graph).with_suffix(".data"))
            if path.exists()
        )

    def ready(self, inputs: Inputs) -> Call:
        kind = inputs.case.kind
        if kind not in ("texts", "cold", "images", "mixed", "load"):
            raise UnsupportedCase(f"an engine has no part in {kind}")
        texts = inputs.texts[:1] if kind == "load" else inputs.texts
        sequences = [text_sequence(text, MAX_TOKENS) for text in texts]
        sequences += [pixels_sequence(pixels, self._setup.bundle) for pixels in inputs.images]
        tasks = [self._setup.task] * len(sequences)
        if kind == "mixed":
            tasks = item_tasks(tuple(sorted(self._tasks)), len(sequences))
        return lambda: self._vectors(sequences, tasks)

    def _vectors(
        self, sequences: Sequence[TokenSequence], tasks: Sequence[str]
    ) -> NDArray[np.float32]:
        with self._engine.adapters.hold(tasks) as handles:
            adapters = [handles[task] for task in tasks]
            single = self._runner.encode(sequences, adapters, self._heads).single
        assert single is not None
        return single


@dataclasses.dataclass(frozen=True, slots=True)
class TrineThinParts:
    """Image preprocessing and MaxSim, which need no engine."""

    setup: Setup
    file_bytes: int = 0

    def ready(self, inputs: Inputs) -> Call:
        if inputs.case.kind == "maxsim":
            query, *documents = multi_vectors(inputs.case.lengths)

            def score() -> None:
                maxsim_scores([query], documents, self.setup.threads)

            return score
        if inputs.case.kind == "preprocessing":
            model = open_bundle(self.setup.bundle).manifest.model

            def preprocess() -> None:
                for pixels in inputs.images:
                    image = patch_image(
                        pixels,
                        model.image,
                        model.vision,
                        model.image.max_pixels,
                        self.setup.threads,
                    )
                    # Into a new array each time, as the other backends do.
                    lay_out_images([image], model.vision, threads=self.setup.threads)

            return preprocess
        raise UnsupportedCase(f"{inputs.case.kind} needs an engine")
