"""When an engine is checked against the golden vectors, and what happens when it is off."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from trine.runtime.embedder import Embedder
from trine.runtime.engines.ort import session as ort_session
from trine.runtime.errors import EngineError
from trine.runtime.inputs import ImageText

IMAGE = np.full((60, 60, 3), 128, np.uint8)


@pytest.fixture
def mapped_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """No room to repack weights: they stay in their memory-mapped files."""
    monkeypatch.setattr(ort_session, "REPACK_SHARE", 0.0)


@pytest.fixture
def damaged(nano_bundle: Path, tmp_path: Path) -> Path:
    """A bundle whose decoder for retrieval has a changed weight of the right size."""
    bundle = Path(shutil.copytree(nano_bundle, tmp_path / "damaged"))
    weights = bundle / "engines" / "ort-fp32" / "decoder-retrieval.data"
    values = np.memmap(weights, np.float32, mode="r+")
    values[100_000:140_000] *= -1
    values.flush()
    return bundle


def test_weights_read_at_load_are_checked_at_load(damaged: Path) -> None:
    with pytest.raises(EngineError, match="failed its self-test on text: worst cosine"):
        Embedder.load(damaged)


@pytest.mark.usefixtures("mapped_weights")
def test_mapped_weights_are_checked_before_the_first_vector(damaged: Path) -> None:
    embedder = Embedder.load(damaged)
    for _ in range(2):
        with pytest.raises(EngineError, match="failed its self-test on text"):
            embedder.encode_text("a web server", "code")
    with pytest.raises(EngineError, match="failed its self-test"):
        embedder.check()


@pytest.mark.usefixtures("mapped_weights")
def test_nothing_is_read_for_no_items(damaged: Path) -> None:
    assert Embedder.load(damaged).encode_text([], "code").shape == (0, 256)


def test_a_switched_off_self_test_checks_nothing(damaged: Path) -> None:
    embedder = Embedder.load(damaged, self_test=False)
    embedder.check()
    assert embedder.encode_text("a web server", "retrieval").shape == (256,)


def test_mapped_and_repacked_weights_give_the_same_vectors(
    nano_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    items = ["a web server", "def add(a, b): return a + b", ImageText((IMAGE,))]
    repacked = Embedder.load(nano_bundle).encode(items, "code", return_multivector=True)
    monkeypatch.setattr(ort_session, "REPACK_SHARE", 0.0)
    embedder = Embedder.load(nano_bundle)
    embedder.check()
    mapped = embedder.encode(items, "code", return_multivector=True)
    assert repacked.single is not None
    assert mapped.single is not None
    assert float(np.abs(repacked.single - mapped.single).max()) <= 2e-6
