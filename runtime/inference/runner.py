"""Runs sequences through the engine: plans batches, vision tower, decoder, pooling."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trine.kernels.pooling import truncate
from trine.runtime.adapters.base import AdapterHandle
from trine.runtime.bundle.model_config import ModelConfig
from trine.runtime.engines.base import DecoderBatch, DecoderInputs, Engine, VectorEngine
from trine.runtime.hardware.processors import num_processors
from trine.runtime.inference.batch_planner import (
    BatchCosts,
    BatchLimits,
    plan_decoder_batches,
    plan_vision_batches,
)
from trine.runtime.inference.buffer_pool import FloatBuffers
from trine.runtime.inference.embedding_table import EmbeddingTable
from trine.runtime.inference.pooling import multi_vector, single_vector
from trine.runtime.outputs import Embeddings, Heads
from trine.runtime.preprocessing.image_processor import ImagePatches
from trine.runtime.preprocessing.sequence import TokenSequence, rope_tables
from trine.runtime.preprocessing.vision_inputs import lay_out_images, pad_layout, window_order

__all__ = ["BatchVectors", "Runner", "lay_out_sequences"]


@dataclass(frozen=True, slots=True)
class BatchVectors:
    """What one batch came to.

    Attributes:
        single: float32 [B, hidden], or as many values as were asked for, normalised; None if not
            wanted.
        multi: float32 [T, projector_dim] of each sequence, rows normalised; None if not wanted.
    """

    single: NDArray[np.float32] | None
    multi: list[NDArray[np.float32]] | None


class Runner:
    """An engine with what surrounds it: batches, embedding table, heads. Safe from several threads.

    Args:
        config: of the model.
        engine: that runs the graphs.
        table: of token embeddings.
        limits: of one batch.
    """

    def __init__(
        self,
        config: ModelConfig,
        engine: Engine,
        table: EmbeddingTable,
        limits: BatchLimits,
    ) -> None:
        self.config = config
        self.engine = engine
        self.limits = limits
        self.costs = BatchCosts.of(config.decoder, engine.pads_attention)
        self._table = table
        self._buffers = FloatBuffers()

    def encode(
        self, sequences: Sequence[TokenSequence], adapters: Sequence[AdapterHandle], heads: Heads
    ) -> Embeddings:
        """Return the vectors of each sequence, in order, float32.

        Args:
            sequences: at least one token each.
            adapters: of each sequence, held by the caller.
            heads: which vectors are wanted.
        """
        groups = [self.engine.batch_group(adapter) for adapter in adapters]
        lengths = [len(sequence) for sequence in sequences]
        plan = plan_decoder_batches(lengths, groups, self.limits.tokens, self.costs)
        single = np.empty((len(sequences), heads.dim), np.float32) if heads.single else None
        multi: dict[int, NDArray[np.float32]] = {}
        found = self._batches(plan, sequences, adapters, heads)
        for batch, vectors in zip(plan, found, strict=True):
            if single is not None and vectors.single is not None:
                # An engine with heads of its own has truncated them already.
                whole = vectors.single.shape[1] > heads.dim
                single[batch] = truncate(vectors.single, heads.dim) if whole else vectors.single
            if vectors.multi is not None:
                multi.update(zip(batch, vectors.multi, strict=True))
        return Embeddings(
            single=single,
            multi=[multi[index] for index in range(len(sequences))] if heads.multi else None,
            num_tokens=np.array(lengths, np.int64),
            truncated=np.array([sequence.truncated for sequence in sequences], np.bool_),
        )

    def forward(
        self, sequences: Sequence[TokenSequence], adapters: Sequence[AdapterHandle]
    ) -> list[NDArray[np.float32]]:
        """Return the hidden states of each sequence of one batch, as it is.

        They are float32 [T, hidden] after the final norm, views into the batch's.

        Args:
            sequences: at least one, of one or more tokens each.
            adapters: of each sequence, held by the caller, all of one `batch_group`.
        """
        inputs = self._decoder_inputs(sequences, self._image_tokens(sequences))
        return _split_rows(self.engine.forward_decoder(inputs, adapters), sequences)

    def forward_vectors(
        self, sequences: Sequence[TokenSequence], adapters: Sequence[AdapterHandle], heads: Heads
    ) -> BatchVectors:
        """Return the vectors of one batch, as it is.

        Args:
            sequences, adapters: as in `forward`.
            heads: which vectors are wanted.
        """
        (found,) = self._batches([range(len(sequences))], sequences, adapters, heads)
        return found

    def _batches(
        self,
        plan: Sequence[Sequence[int]],
        sequences: Sequence[TokenSequence],
        adapters: Sequence[AdapterHandle],
        heads: Heads,
    ) -> Iterator[BatchVectors]:
        """Yield the vectors of each batch of a plan; single ones may still be whole."""
        image_tokens = self._image_tokens(sequences)

        def batches() -> Iterator[DecoderBatch]:
            for batch in plan:
                members = [sequences[index] for index in batch]
                tokens = {
                    place: image_tokens[index]
                    for place, index in enumerate(batch)
                    if index in image_tokens
                }
                yield DecoderBatch(
                    inputs=self._decoder_inputs(members, tokens),
                    adapters=[adapters[index] for index in batch],
                    pooled=np.concatenate([member.pooled for member in members]),
                    heads=heads,
                )

        if isinstance(self.engine, VectorEngine):
            for batch, found in zip(plan, self.engine.forward_vectors(batches()), strict=True):
                members = [sequences[index] for index in batch]
                rows = None if found.multi is None else _split_rows(found.multi, members)
                yield BatchVectors(found.single, rows)
            return
        for run in batches():
            yield _pool(self.engine.forward_decoder(run.inputs, run.adapters), run)

    def _decoder_inputs(
        self,
        members: Sequence[TokenSequence],
        image_tokens: Mapping[int, list[NDArray[np.float32]]],
    ) -> DecoderInputs:
        """Return a batch's inputs; `image_tokens` by the number of the member they are of."""
        rows = [
            self._embed(member, image_tokens.get(number, ()))
            for number, member in enumerate(members)
        ]
        embeddings = rows[0] if len(rows) == 1 else np.concatenate(rows)
        return lay_out_sequences(members, embeddings, self.config)

    def _image_tokens(
        self, sequences: Sequence[TokenSequence]
    ) -> dict[int, list[NDArray[np.float32]]]:
        """Return the image tokens of each image of the sequences that have some, by number."""
        tokens = iter(self._forward_vision([image for s in sequences for image in s.images]))
        return {
            index: [next(tokens) for _ in sequence.images]
            for index, sequence in enumerate(sequences)
            if sequence.images
        }

    def _forward_vision(self, images: Sequence[ImagePatches]) -> list[NDArray[np.float32]]:
        """Return the image tokens of each image, float32 [N, hidden] in raster order."""
        vision = self.config.vision
        results: dict[int, NDArray[np.float32]] = {}
        for batch in plan_vision_batches([i.num_patches for i in images], self.limits.patches):
            members = [images[index] for index in batch]
            size = sum(image.num_patches for image in members)
            with self._buffers.borrow(size * vision.patch_features) as flat:
                patches = flat.reshape(size, vision.patch_features)
                inputs = lay_out_images(members, vision, patches, num_processors())
                tokens = self.engine.forward_vision(inputs)
            for index, part in zip(batch, np.split(tokens, len(batch)), strict=True):
                order, _ = window_order(images[index].grid, vision)
                results[index] = np.empty_like(part)
                results[index][order] = part
        return [results[index] for index in range(len(images))]

    def _embed(
        self, sequence: TokenSequence, image_tokens: Sequence[NDArray[np.float32]]
    ) -> NDArray[np.float32]:
        """Return float32 [T, hidden]: rows of the table, with image tokens in their slots."""
        embeddings = self._table.rows(sequence.token_ids)
        if image_tokens:
            embeddings[sequence.image_slots] = np.concatenate(image_tokens)
        return embeddings


def _pool(hidden: NDArray[np.float32], run: DecoderBatch) -> BatchVectors:
    """Return the vectors of a batch whose engine has no heads."""
    ends = np.cumsum(run.inputs.lengths)[:-1]
    rows = np.split(hidden, ends)
    single = multi = None
    if run.heads.single:
        pooled = np.split(run.pooled, ends)
        single = np.stack([single_vector(r, p) for r, p in zip(rows, pooled, strict=True)])
    if run.heads.multi:
        projectors = (adapter.projector for adapter in run.adapters)
        multi = [multi_vector(r, p) for r, p in zip(rows, projectors, strict=True)]
    return BatchVectors(single, multi)


def _split_rows(
    rows: NDArray[np.float32], members: Sequence[TokenSequence]
) -> list[NDArray[np.float32]]:
    """Return the rows of each sequence, views into `rows`."""
    return np.split(rows, np.cumsum([len(member) for member in members])[:-1])


def lay_out_sequences(
    sequences: Sequence[TokenSequence], embeddings: NDArray[np.float32], config: ModelConfig
) -> DecoderInputs:
    """Return the decoder's inputs for `sequences` packed behind one another.

    Args:
        sequences: whose tokens `embeddings` holds, in order.
        embeddings: float32 [T, hidden].
        config: for the rotary tables.
    """
    lengths = np.array([len(sequence) for sequence in sequences])
    pad_index, unpad_index = pad_layout(lengths)
    positions = np.concatenate([sequence.positions for sequence in sequences], axis=1)
    cos, sin = rope_tables(positions, config.decoder)
    return DecoderInputs(
        embeddings=embeddings,
        rope_cos=cos,
        rope_sin=sin,
        pad_index=pad_index,
        unpad_index=unpad_index,
        last_index=(lengths - 1).astype(np.int32),
        padded_length=np.array(lengths.max(), np.int32),
    )
