"""The token-embedding table: rows of long inputs are those of short ones."""

from pathlib import Path

import numpy as np
import pytest

from trine.runtime.bundle.bundle import EMBEDDING_NAME, open_bundle
from trine.runtime.inference.embedding_table import EmbeddingTable


def test_rows_gathered_in_blocks_are_the_same(
    golden_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = open_bundle(golden_bundle)
    decoder = bundle.manifest.model.decoder
    table = EmbeddingTable(bundle.path(EMBEDDING_NAME), decoder)
    ids = np.random.default_rng(0).integers(0, decoder.vocab_size, 100)
    at_once = table.rows(ids)
    assert at_once.flags.writeable
    monkeypatch.setattr("trine.runtime.inference.embedding_table.LONG_TOKENS", 7)
    monkeypatch.setattr("trine.runtime.inference.embedding_table.BLOCK_TOKENS", 7)
    in_blocks = table.rows(ids)
    assert in_blocks.flags.writeable
    np.testing.assert_array_equal(in_blocks, at_once)
