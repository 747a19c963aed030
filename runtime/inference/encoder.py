"""Encodes items: prepares them in windows, runs each, gathers the vectors in order."""

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial

import numpy as np

from trine.runtime.adapters.base import AdapterHandle
from trine.runtime.bundle.bundle import EMBEDDING_NAME, TOKENIZER_NAME, Bundle
from trine.runtime.engines.base import Engine
from trine.runtime.hardware.processors import num_processors
from trine.runtime.inference.batch_planner import BatchLimits
from trine.runtime.inference.embedding_table import EmbeddingTable
from trine.runtime.inference.runner import Runner
from trine.runtime.inputs import Item, StreamItem
from trine.runtime.outputs import Embeddings, Heads
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
        # Asked once: reading a container's limits takes as long as preparing a short text.
        self._num_workers = num_processors()
        self._runner = Runner(model, engine, table, limits)
        self._preprocessor = Preprocessor(model, TextTokenizer(bundle.path(TOKENIZER_NAME)))

    def encode(self, items: Sequence[Item], request: Request) -> Embeddings:
        """Return the vectors of `items`, in order, float32 whatever the request's output type.

        Args:
            items: texts and images.
            request: the call's options.

        Raises:
            InputError: an item cannot be used, or an adapter was unloaded meanwhile.
        """
        chunks = cut_chunks(
            map(StreamItem, items),
            lambda first, part: (request.part(first, first + len(part)), None),
        )
        # Held for the whole request: an adapter replaced meanwhile is used by later requests only.
        # Closed here: the threads that prepare items do not outlive a call that fails.
        with (
            self.engine.adapters.hold(request.tasks) as handles,
            closing(self._windows(chunks, finish=False)) as windows,
        ):
            found = [self._forward(window, handles, request.heads) for window in windows]
        return found[0] if len(found) == 1 else _join(found, request.heads)

    def stream(
        self, chunks: Iterator[Chunk], heads: Heads
    ) -> Generator[tuple[Window, Callable[[], Embeddings]], None, None]:
        """Yield windows of consecutive items, each with what computes its vectors.

        An adapter is held from its first use until the stream ends.

        Args:
            chunks: the items with their options.
            heads: which vectors are wanted.

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
                yield window, partial(self._forward, window, handles, heads)

    def _forward(
        self, window: Window, handles: Mapping[str, AdapterHandle], heads: Heads
    ) -> Embeddings:
        adapters = [handles[task] for task in window.tasks]
        return self._runner.encode(window.sequences, adapters, heads)

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
            num_workers=self._num_workers,
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


def _join(found: Sequence[Embeddings], heads: Heads) -> Embeddings:
    """Return the vectors of windows, or of none, as one."""
    rows = [window.single for window in found if window.single is not None]
    single = np.concatenate([np.empty((0, heads.dim), np.float32), *rows])
    multi = [rows for window in found for rows in window.multi or ()]
    empty = np.empty(0, np.int64)
    return Embeddings(
        single=single if heads.single else None,
        multi=multi if heads.multi else None,
        num_tokens=np.concatenate([empty, *(window.num_tokens for window in found)]),
        truncated=np.concatenate([empty.astype(np.bool_), *(window.truncated for window in found)]),
    )
