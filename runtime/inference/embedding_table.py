"""The token-embedding table: rows gathered from a memory-mapped file, in the checkpoint's dtype.

A row that no text uses is never read, so the table costs no memory of its own.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trine.runtime.bundle.dtypes import widen
from trine.runtime.bundle.model_config import DecoderConfig
from trine.runtime.bundle.safetensors_file import TensorFile
from trine.runtime.errors import BundleError

__all__ = ["EMBEDDING_TENSOR", "EmbeddingTable"]

EMBEDDING_TENSOR = "embed_tokens.weight"
#: Tokens of a text that is gathered in blocks, and of a block. Each token touches its row, and the
#: system maps 64 kB around it: of 4,096 tokens a quarter of a gigabyte would stay resident.
#: A block has a map of its own, which takes a fraction of a millisecond.
LONG_TOKENS, BLOCK_TOKENS = 512, 128


class EmbeddingTable:
    """Rows of the table by token id; safe to use from several threads.

    Args:
        path: a safetensors file with the tensor `embed_tokens.weight` [vocabulary, hidden].
        decoder: the shape it must have.

    Raises:
        BundleError: the file is damaged or holds something else.
    """

    def __init__(self, path: Path, decoder: DecoderConfig) -> None:
        file = TensorFile(path, BundleError)
        file.require(EMBEDDING_TENSOR, (decoder.vocab_size, decoder.hidden_size))
        self._file = file
        self._dtype = file.tensors[EMBEDDING_TENSOR].dtype
        self._table = file.stored(EMBEDDING_TENSOR)

    def rows(self, token_ids: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return float32 [T, hidden], owned by the caller, of int64 [T] token ids."""
        if len(token_ids) <= LONG_TOKENS:
            return widen(np.take(self._table, token_ids, axis=0), self._dtype)
        rows = np.empty((len(token_ids), self._table.shape[1]), np.float32)
        for start in range(0, len(token_ids), BLOCK_TOKENS):
            block = slice(start, start + BLOCK_TOKENS)
            # A map of its own, whose pages go with it.
            table = self._file.stored(EMBEDDING_TENSOR)
            rows[block] = widen(np.take(table, token_ids[block], axis=0), self._dtype)
        return rows
