"""Items to embeddings: prepares items in windows, runs them, gathers the vectors in order."""

from collections.abc import Iterable, Iterator, Sequence
from typing import cast

import numpy as np
from numpy.typing import NDArray

from trine.kernels.pooling import truncate
from trine.runtime.bundle import EMBEDDING_NAME, TOKENIZER_NAME, Bundle
from trine.runtime.embedding_table import EmbeddingTable
from trine.runtime.engine import Engine
from trine.runtime.inputs import Item
from trine.runtime.outputs import Embeddings
from trine.runtime.pipeline import BatchLimits, ItemVectors, Pipeline
from trine.runtime.preparation import Preparation
from trine.runtime.request import Request
from trine.runtime.sequence import TokenSequence
from trine.runtime.tokenizer import TextTokenizer

__all__ = ["Encoder"]


class Encoder:
    """Carries out checked requests. Stateless between calls, safe from several threads.

    Args:
        bundle: of the tokenizer and the embedding table.
        engine: that runs the graphs.
        limits: how much one run and one window may hold.
    """

    def __init__(self, bundle: Bundle, engine: Engine, limits: BatchLimits) -> None:
        model = bundle.manifest.model
        table = EmbeddingTable(bundle.path(EMBEDDING_NAME), model.decoder)
        self.engine = engine
        self.model = model
        self._limits = limits
        self._pipeline = Pipeline(model, engine, table, limits)
        self._preparation = Preparation(model, TextTokenizer(bundle.path(TOKENIZER_NAME)))

    def encode(
        self, items: Sequence[Item], request: Request, single: bool, multi: bool
    ) -> Embeddings:
        """Return the vectors of `items`, in order.

        Args:
            items: texts and pictures.
            request: the call's options.
            single: whether single vectors are wanted.
            multi: whether multi-vectors are wanted.

        Raises:
            InputError: an item cannot be used, or an adapter was unloaded meanwhile.
        """
        vectors: list[ItemVectors] = []
        counts: list[int] = []
        cut: list[bool] = []
        # Held for the whole request: an adapter replaced meanwhile is used by later requests only.
        with self.engine.adapters.hold(request.tasks) as handles:
            for window in self._windows(self._preparation.sequences(items, request)):
                tasks = request.tasks[len(vectors) : len(vectors) + len(window)]
                adapters = [handles[task] for task in tasks]
                dim = request.truncate_dim
                vectors += self._pipeline.run(window, adapters, single, multi, dim)
                counts += [len(sequence) for sequence in window]
                cut += [sequence.truncated for sequence in window]
        return Embeddings(
            single=self._stack(vectors, request.truncate_dim) if single else None,
            multi=[cast(NDArray[np.float32], v.multi) for v in vectors] if multi else None,
            num_tokens=np.array(counts, np.int64),
            truncated=np.array(cut, np.bool_),
        )

    def _stack(self, vectors: Sequence[ItemVectors], dim: int | None) -> NDArray[np.float32]:
        size = self.model.decoder.hidden_size
        if not vectors:
            return np.empty((0, size if dim is None else dim), np.float32)
        rows = np.array([v.single for v in vectors], np.float32)
        # An engine with heads of its own has truncated them already.
        return rows if dim is None or rows.shape[1] == dim else truncate(rows, dim)

    def _windows(self, sequences: Iterable[TokenSequence]) -> Iterator[list[TokenSequence]]:
        """Yield consecutive sequences in groups, so that the memory of many items stays bounded."""
        window: list[TokenSequence] = []
        total = 0
        for sequence in sequences:
            window.append(sequence)
            total += len(sequence)
            if total >= self._limits.window_tokens:
                yield window
                window, total = [], 0
        if window:
            yield window
