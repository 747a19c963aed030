"""From runs of the engine to the vectors of a call's items."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from trine.kernels.pooling import l2_normalise, mean_rows, truncate
from trine.runtime.engines.base import VectorEngine
from trine.runtime.inference.pooling import mean_vector, multi_vector, single_vector
from trine.runtime.inference.runner import ItemVectors, Pipeline
from trine.runtime.preprocessing.sequence import TokenSequence
from trine.runtime.serving.scheduler.work_queue import Entry
from trine.runtime.serving.service.calls import ImageSpan

__all__ = ["image_spans", "item_vectors", "forward_entries", "stack_multi", "stack_single"]


def forward_entries(pipeline: Pipeline, entries: Sequence[Entry]) -> list[list[ItemVectors]]:
    """Return the vectors of each entry's items, one, or one a text with late chunking.

    An engine with heads of its own, on a GPU, makes them where the hidden states are, unless some
    entry wants what its heads do not make. Then hidden states come back for all entries: that costs
    less than a second run, which would read all weights again.

    Args:
        pipeline: of the engine.
        entries: at least one.
    """
    sequences = [entry.sequence for entry in entries]
    adapters = [entry.adapter for entry in entries]
    if isinstance(pipeline.engine, VectorEngine) and not any(map(_needs_hidden_states, entries)):
        single, multi = any(e.single for e in entries), any(e.multi for e in entries)
        whole = pipeline.run(sequences, adapters, single, multi)
        return [
            [
                ItemVectors(
                    vectors.single if entry.single else None,
                    vectors.multi if entry.multi else None,
                )
            ]
            for entry, vectors in zip(entries, whole, strict=True)
        ]
    found = {
        index: item_vectors(entries[index], hidden)
        for index, hidden in pipeline.hidden_states(sequences, adapters)
    }
    return [found[index] for index in range(len(entries))]


def _needs_hidden_states(entry: Entry) -> bool:
    """Return whether an entry wants texts of a document apart, or means that are not normalised."""
    return bool(entry.spans) or (entry.single and not entry.normalize)


def item_vectors(entry: Entry, hidden: NDArray[np.float32]) -> list[ItemVectors]:
    """Return the vectors of an entry's items: one, or one a text with late chunking.

    Single vectors are normalised if the call wants that; multi-vectors always are.

    Args:
        entry: that was run.
        hidden: float32 [T, hidden], its hidden states.
    """
    multi = multi_vector(hidden, entry.adapter.projector) if entry.multi else None
    if not entry.spans:
        single = None
        if entry.single:
            pooled = entry.sequence.pooled
            single = (
                single_vector(hidden, entry.sequence)
                if entry.normalize
                else mean_vector(hidden, pooled)
            )
        return [ItemVectors(single, multi)]
    results = []
    for first, end in entry.spans:
        mean = mean_rows(hidden[first:end]) if entry.single else None
        results.append(
            ItemVectors(
                l2_normalise(mean) if mean is not None and entry.normalize else mean,
                # Copies, so that the receiver of one text does not hold the whole document.
                None if multi is None else multi[first:end].copy(),
            )
        )
    return results


def stack_single(
    vectors: Sequence[ItemVectors], size: int, dim: int | None, normalize: bool
) -> NDArray[np.float32]:
    """Return float32 [B, D], cut to `dim` where that is given, and then normalised if wanted.

    Args:
        vectors: of the items, with single vectors.
        size: of a whole vector.
        dim: leading dimensions to keep, or None.
        normalize: whether the vectors are of length 1.
    """
    rows = np.array([v.single for v in vectors], np.float32).reshape(len(vectors), size)
    if dim is None or dim == size:
        return rows
    return truncate(rows, dim) if normalize else np.ascontiguousarray(rows[:, :dim])


def stack_multi(vectors: Sequence[ItemVectors], dim: int | None) -> tuple[NDArray[np.float32], ...]:
    """Return float32 [T, d] of each item, rows cut to `dim` and normalised again if it is given."""
    rows = [v.multi for v in vectors if v.multi is not None]
    return tuple(rows if dim is None else (truncate(matrix, dim) for matrix in rows))


def image_spans(sequence: TokenSequence, merge: int) -> tuple[ImageSpan, ...]:
    """Return where the image tokens of each image lie in a sequence.

    Args:
        sequence: of an item.
        merge: patches per image token along each side.
    """
    spans = []
    slot = 0
    for number, image in enumerate(sequence.images):
        rows, columns = (side // merge for side in image.grid)
        spans.append(ImageSpan(int(sequence.image_slots[slot]), rows, columns, number))
        slot += rows * columns
    return tuple(spans)
