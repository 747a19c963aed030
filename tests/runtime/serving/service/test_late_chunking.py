import itertools
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from trine.runtime.inputs import Prompt
from trine.runtime.serving.service.calls import EmbedItem, ServiceError

#: `Served` of conftest.py, which tests cannot import.
Served = Any


def text(content: str, task: str = "retrieval", prompt: Prompt = "query") -> EmbedItem:
    return EmbedItem(content, task, prompt)


def close(found: NDArray[np.float32] | None, wanted: NDArray[np.float32] | None) -> bool:
    """Return whether vectors agree but for the rounding of another batch."""
    assert found is not None
    assert wanted is not None
    return found.shape == wanted.shape and bool(np.allclose(found, wanted, atol=2e-6))


@pytest.fixture(params=["served", "served_runtime"])
def either(request: pytest.FixtureRequest) -> Served:
    return request.getfixturevalue(request.param)


CHUNKS = ["The queen moves.", " She takes the rook.", " Mate in three."]


def test_late_chunking_of_one_text_is_no_chunking(either: Served) -> None:
    plain = either.embed(text(CHUNKS[0]), multi=True)
    late = either.embed(text(CHUNKS[0]), multi=True, late_chunking=True)
    assert close(late.single, plain.single)
    assert late.num_tokens.tolist() == plain.num_tokens.tolist()


def test_late_chunks_are_pooled_from_one_pass(served: Served) -> None:
    late = served.embed(*map(text, CHUNKS), multi=True, late_chunking=True)
    prefixed, *others = [
        shown.ids
        for shown in (
            *served.run(served.service.tokenize(CHUNKS[:1], "query")),
            *served.run(served.service.tokenize(CHUNKS[1:])),
        )
    ]
    whole = served.embed(
        EmbedItem(tuple(itertools.chain(prefixed, *others)), "retrieval"), multi=True
    )
    assert late.num_tokens.tolist() == [len(prefixed), *map(len, others)]
    assert late.multi is not None
    assert whole.multi is not None
    assert close(np.concatenate(late.multi), whole.multi[0])
    assert late.single is not None
    assert whole.single is not None
    plain = served.embed(*map(text, CHUNKS), late_chunking=True, normalize=False).single
    assert plain is not None
    shares = late.num_tokens[:, None] / late.num_tokens.sum()
    mean = (plain * shares).sum(axis=0)
    assert np.allclose(mean / np.linalg.norm(mean), whole.single[0], atol=2e-6)


def test_a_late_chunk_knows_what_is_before_it_and_not_what_is_behind(served: Served) -> None:
    all_three = served.embed(*map(text, CHUNKS), late_chunking=True).single
    first_two = served.embed(*map(text, CHUNKS[:2]), late_chunking=True).single
    alone = served.embed(text(CHUNKS[1])).single
    assert all_three is not None
    assert close(all_three[:2], first_two)
    assert alone is not None
    assert not np.allclose(all_three[1], alone[0], atol=1e-3)


def test_groups_are_documents_of_their_own(served: Served) -> None:
    items = [text(chunk) for chunk in CHUNKS]
    grouped = served.embed(*items, late_chunking=True, late_groups=(1, 2)).single
    assert grouped is not None
    assert close(grouped[:1], served.embed(items[0]).single)
    assert close(grouped[1:], served.embed(*items[1:], late_chunking=True).single)


def test_a_document_that_cannot_fit_is_refused_before_it_is_tokenised(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(served.service.core.tokenizer, "encode", None)
    with pytest.raises(ServiceError, match="more than 1280 characters") as refused:
        served.embed(*[text("word " * 200)] * 3, late_chunking=True, max_length=10)
    assert (refused.value.status, refused.value.index) == (422, 1)
