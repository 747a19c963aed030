"""Items to embeddings: prepares items in windows, runs them, gathers the vectors in order."""

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from typing import cast

import numpy as np
from numpy.typing import NDArray

from trine.kernels.pooling import truncate
from trine.runtime.adapters.base import AdapterHandle
from trine.runtime.bundle.bundle import EMBEDDING_NAME, TOKENIZER_NAME, Bundle
from trine.runtime.engines.base import Engine
from trine.runtime.inference.embedding_table import EmbeddingTable
from trine.runtime.inference.runner import BatchLimits, ItemVectors, Pipeline
from trine.runtime.inputs import Item, StreamItem
from trine.runtime.outputs import Embeddings
from trine.runtime.preprocessing.prefetch import Chunk, cut_chunks, prefetch_chunks
from trine.runtime.preprocessing.preprocessor import Preprocessor
from trine.runtime.preprocessing.sequence import TokenSequence
from trine.runtime.preprocessing.tokenizer import TextTokenizer
from trine.runtime.request import Request

__all__ = ["Encoder", "Window"]


@dataclass(frozen=True, slots=True)
class Window:
    """Consecutive items, among which runs are planned.

    Attributes:
        sequences: prepared.
        tasks: of each.
    """

    sequences: Sequence[TokenSequence]
    tasks: Sequence[str]


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
        self._preprocessor = Preprocessor(model, TextTokenizer(bundle.path(TOKENIZER_NAME)))

    def encode(
        self, items: Sequence[Item], request: Request, single: bool, multi: bool
    ) -> Embeddings:
        """Return the vectors of `items`, in order.

        Args:
            items: texts and images.
            request: the call's options.
            single: whether single vectors are wanted.
            multi: whether multi-vectors are wanted.

        Raises:
            InputError: an item cannot be used, or an adapter was unloaded meanwhile.
        """
        chunks = cut_chunks(
            map(StreamItem, items), lambda first, part: request.part(first, first + len(part))
        )
        # Held for the whole request: an adapter replaced meanwhile is used by later requests only.
        with self.engine.adapters.hold(request.tasks) as handles:
            windows = self._windows(chunks, finish=False)
            found = [self._run(window, handles, request, single, multi) for window in windows]
        if len(found) == 1:
            return found[0]
        empty = np.empty(0, np.int64)
        rows = [window.single for window in found if window.single is not None]
        dim = request.truncate_dim or self.model.decoder.hidden_size
        return Embeddings(
            single=np.concatenate([np.empty((0, dim), np.float32), *rows]) if single else None,
            multi=[rows for window in found for rows in window.multi or ()] if multi else None,
            num_tokens=np.concatenate([empty, *(window.num_tokens for window in found)]),
            truncated=np.concatenate(
                [empty.astype(np.bool_), *(window.truncated for window in found)]
            ),
        )

    def stream(
        self, chunks: Iterator[Chunk], request: Request, single: bool, multi: bool
    ) -> Generator[tuple[Window, Callable[[], Embeddings]], None, None]:
        """Yield windows of consecutive items, each with what computes its vectors.

        An adapter is held from its first use until the stream ends.

        Args:
            chunks: the items.
            request: the call's options; those of items are in the chunks.
            single: whether single vectors are wanted.
            multi: whether multi-vectors are wanted.

        Raises:
            InputError: an item cannot be used; all items before it have been yielded.
        """
        handles: dict[str, AdapterHandle] = {}
        with ExitStack() as held:
            windows = held.enter_context(closing(self._windows(chunks, finish=True)))
            for window in windows:
                for task in set(window.tasks) - set(handles):
                    context = self.engine.adapters.hold([task])
                    handles[task] = held.enter_context(context)[task]
                yield window, partial(self._run, window, handles, request, single, multi)

    def _run(
        self,
        window: Window,
        handles: Mapping[str, AdapterHandle],
        request: Request,
        single: bool,
        multi: bool,
    ) -> Embeddings:
        adapters = [handles[task] for task in window.tasks]
        dim = request.truncate_dim
        vectors = self._pipeline.run(window.sequences, adapters, single, multi, dim)
        return Embeddings(
            single=self._stack(vectors, request.truncate_dim) if single else None,
            multi=[cast(NDArray[np.float32], v.multi) for v in vectors] if multi else None,
            num_tokens=np.array([len(sequence) for sequence in window.sequences], np.int64),
            truncated=np.array([sequence.truncated for sequence in window.sequences], np.bool_),
        )

    def _stack(self, vectors: Sequence[ItemVectors], dim: int | None) -> NDArray[np.float32]:
        size = self.model.decoder.hidden_size
        if not vectors:
            return np.empty((0, size if dim is None else dim), np.float32)
        rows = np.array([v.single for v in vectors], np.float32)
        # An engine with heads of its own has truncated them already.
        return rows if dim is None or rows.shape[1] == dim else truncate(rows, dim)

    def _windows(self, chunks: Iterator[Chunk], finish: bool) -> Generator[Window, None, None]:
        """Yield consecutive items in groups, so that the memory of many items stays bounded.

        Args:
            chunks: the items, prepared ahead while the caller runs a window.
            finish: whether items before one that cannot be used are yielded before its error.
        """
        vision = self.model.vision
        prepared = prefetch_chunks(
            chunks,
            self._preprocessor,
            max_tokens=self._limits.window_tokens,
            tokens_per_pixel=1 / (vision.patch_size * vision.spatial_merge_size) ** 2,
        )
        window: list[TokenSequence] = []
        tasks: list[str] = []
        total = 0
        with closing(prepared):
            for chunk in prepared:
                for sequence, task in zip(chunk.sequences, chunk.tasks, strict=True):
                    window.append(sequence)
                    tasks.append(task)
                    total += len(sequence)
                    if total >= self._limits.window_tokens:
                        yield Window(window, tasks)
                        window, tasks, total = [], [], 0
                if chunk.error is not None:
                    if window and finish:
                        yield Window(window, tasks)
                    raise chunk.error
            if window:
                yield Window(window, tasks)
