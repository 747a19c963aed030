"""Runs sequences through the engine and the heads: plan, vision, decoder, vectors."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trine.kernels.processors import num_processors
from trine.runtime.adapters.base import AdapterHandle
from trine.runtime.bundle.model_config import ModelConfig
from trine.runtime.engines.base import DecoderBatch, DecoderInputs, Engine, VectorEngine
from trine.runtime.inference.batch_planner import RunCosts, plan_decoder_runs, plan_vision_runs
from trine.runtime.inference.buffer_pool import FloatBuffers
from trine.runtime.inference.embedding_table import EmbeddingTable
from trine.runtime.inference.pooling import multi_vector, single_vector
from trine.runtime.preprocessing.image_processor import ImagePatches
from trine.runtime.preprocessing.sequence import TokenSequence, rope_tables
from trine.runtime.preprocessing.vision_inputs import lay_out_images, pad_layout, window_order

__all__ = ["BatchLimits", "ItemVectors", "Pipeline", "lay_out_sequences"]


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchLimits:
    """How much one run of an engine may hold, and how much is prepared ahead of it.

    Attributes:
        tokens: of a decoder run; a longer sequence has a run of its own.
        patches: of a vision run, likewise.
        window_tokens: sequences prepared together, among which runs are planned.
    """

    tokens: int = 2048
    patches: int = 4096
    window_tokens: int = 16384


@dataclass(frozen=True, slots=True)
class ItemVectors:
    """What one item came to.

    Attributes:
        single: float32 [hidden], or as many values as were asked for, normalised; None if not
            asked for.
        multi: float32 [T, projector_dim], rows normalised, or None if not asked for.
    """

    single: NDArray[np.float32] | None
    multi: NDArray[np.float32] | None


class Pipeline:
    """The compiled core with what surrounds it. Safe from several threads."""

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
        self._table = table
        self._buffers = FloatBuffers()

    def run(
        self,
        sequences: Sequence[TokenSequence],
        adapters: Sequence[AdapterHandle],
        single: bool,
        multi: bool,
        dim: int | None = None,
    ) -> list[ItemVectors]:
        """Return the vectors of each sequence, in order.

        Args:
            sequences: at least one token each.
            adapters: of each sequence, held by the caller.
            single: whether single vectors are wanted.
            multi: whether multi-vectors are wanted.
            dim: values of single vectors where the engine truncates them itself; None for all.
        """
        results: dict[int, ItemVectors] = {}
        if isinstance(self.engine, VectorEngine):
            dim = self.config.decoder.hidden_size if dim is None else dim
            results.update(self._vectors(self.engine, sequences, adapters, (single, multi, dim)))
            return [results[index] for index in range(len(sequences))]
        for index, rows in self.hidden_states(sequences, adapters):
            results[index] = ItemVectors(
                single_vector(rows, sequences[index]) if single else None,
                multi_vector(rows, adapters[index].projector) if multi else None,
            )
        return [results[index] for index in range(len(sequences))]

    def hidden_states(
        self, sequences: Sequence[TokenSequence], adapters: Sequence[AdapterHandle]
    ) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """Yield each sequence's number and its hidden states, run by run, in the order of the runs.

        The hidden states are float32 [T, hidden] after the final norm, a view into their run's.

        Args:
            sequences: at least one token each.
            adapters: of each sequence, held by the caller until the last is yielded.
        """
        image_tokens = self._image_tokens(sequences)
        for run in self._plan(sequences, adapters):
            members = [sequences[i] for i in run]
            inputs = self._decoder_inputs(run, members, image_tokens)
            hidden = self.engine.forward_decoder(inputs, [adapters[i] for i in run])
            yield from zip(run, _split_rows(hidden, members), strict=True)

    def _vectors(
        self,
        engine: VectorEngine,
        sequences: Sequence[TokenSequence],
        adapters: Sequence[AdapterHandle],
        wanted: tuple[bool, bool, int],
    ) -> Iterator[tuple[int, ItemVectors]]:
        """Yield each sequence's number and vectors from an engine that has the heads.

        Args:
            engine: this pipeline's.
            sequences, adapters: as in `run`.
            wanted: whether single vectors are, whether multi-vectors are, values of single ones.
        """
        image_tokens = self._image_tokens(sequences)
        plan = self._plan(sequences, adapters)

        def make(run: list[int]) -> DecoderBatch:
            members = [sequences[i] for i in run]
            return DecoderBatch(
                inputs=self._decoder_inputs(run, members, image_tokens),
                adapters=[adapters[i] for i in run],
                pooled=np.concatenate([member.pooled for member in members]),
                single=wanted[0],
                multi=wanted[1],
                dim=wanted[2],
            )

        for run, found in zip(plan, engine.forward_vectors(map(make, plan)), strict=True):
            members = [sequences[i] for i in run]
            multi = None if found.multi is None else _split_rows(found.multi, members)
            for place, index in enumerate(run):
                yield (
                    index,
                    ItemVectors(
                        None if found.single is None else found.single[place],
                        None if multi is None else multi[place],
                    ),
                )

    def _plan(
        self, sequences: Sequence[TokenSequence], adapters: Sequence[AdapterHandle]
    ) -> list[list[int]]:
        groups = [self.engine.batch_group(adapter) for adapter in adapters]
        costs = RunCosts.of(self.config.decoder, self.engine.pads_attention)
        return plan_decoder_runs([len(s) for s in sequences], groups, self.limits.tokens, costs)

    def _decoder_inputs(
        self,
        run: Sequence[int],
        members: Sequence[TokenSequence],
        image_tokens: Mapping[int, list[NDArray[np.float32]]],
    ) -> DecoderInputs:
        """Return a run's inputs.

        Args:
            run: numbers of its sequences.
            members: the sequences.
            image_tokens: of the images of every sequence that has some, by its number.
        """
        rows = [self._embed(s, image_tokens.get(i, ())) for i, s in zip(run, members, strict=True)]
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
        for run in plan_vision_runs([i.num_patches for i in images], self.limits.patches):
            members = [images[index] for index in run]
            size = sum(image.num_patches for image in members)
            with self._buffers.borrow(size * vision.patch_features) as flat:
                patches = flat.reshape(size, vision.patch_features)
                inputs = lay_out_images(members, vision, patches, num_processors())
                tokens = self.engine.forward_vision(inputs)
            for index, part in zip(run, np.split(tokens, len(run)), strict=True):
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
