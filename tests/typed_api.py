"""How the public types look to a caller under `mypy --strict`. Type-checked, never run."""

from pathlib import Path
from typing import Any, assert_type

import numpy as np
from numpy.typing import NDArray

from trine import Embedder, Embedding, Embeddings, ImageText, StreamItem
from trine.runtime import (
    BundleError,
    CheckpointError,
    DependencyError,
    EngineError,
    InputError,
    TopK,
    TrineError,
    cosine_similarity,
    maxsim,
    maxsim_top_k,
)

Vectors = NDArray[np.float32]

embedder = Embedder.load("bundle", engine="auto", tasks=["code"], threads=2, self_test=False)
assert_type(embedder, Embedder)
assert_type(Embedder.load(Path("bundle")), Embedder)
assert_type(embedder.tasks, tuple[str, ...])
embedder.task = "retrieval"

one_text = embedder.encode_text("a text", task="retrieval", prompt_name="query", truncate_dim=128)
assert_type(one_text, Vectors)
texts = embedder.encode_text(["a", "b"], task=["retrieval", "code"], max_length=512, batch_size=8)
assert_type(texts, Vectors | list[Vectors])

images = embedder.encode_image(
    [Path("a.png"), "b.png", b"bytes", np.zeros((8, 8, 3), np.uint8)],
    task="retrieval",
    max_pixels=100_000,
    return_multivector=True,
)
assert_type(images, Vectors | list[Vectors])

packed = embedder.encode_text(["a", "b"], task="retrieval", output_dtype="ubinary")
assert_type(packed, NDArray[Any] | list[NDArray[Any]])

item = ImageText((Path("page.png"), b"bytes"), "a caption")
assert_type(item.text, str | None)
found = embedder.encode(
    ["a text", item],
    ["retrieval", "code"],
    prompt_name=["query", "passage"],
    return_multivector=True,
)
assert_type(found, Embeddings)
assert_type(found.single, NDArray[Any] | None)
assert_type(found.multi, list[NDArray[Any]] | None)
assert_type(found.num_tokens, NDArray[np.int64])
assert_type(found.truncated, NDArray[np.bool_])

for result in embedder.encode_stream(["a", item, StreamItem("a", "code", "query")], "retrieval"):
    assert_type(result, Embedding)
    assert_type(result.single, NDArray[Any] | None)

if found.single is not None and found.multi is not None:
    assert_type(cosine_similarity(one_text, found.single), Vectors)
    assert_type(maxsim(found.multi, found.multi), Vectors)
    assert_type(maxsim_top_k(found.multi[0], found.multi, 3), TopK)

try:
    embedder.encode_text("", "unknown")
except InputError as error:
    assert_type(error, InputError)
    as_value_error: ValueError = error
except (BundleError, CheckpointError, DependencyError, EngineError) as other:
    as_base: TrineError = other

embedder.encode_text(b"bytes")  # type: ignore[arg-type]
embedder.encode_text("a", max_len=3)  # type: ignore[call-overload]
embedder.encode(["a"], "code", output_dtype="float64")  # type: ignore[arg-type]
embedder.encode(["a"], "code", "query")  # type: ignore[call-arg]
Embedder.load("bundle", "auto")  # type: ignore[call-arg]
found.single = None  # type: ignore[misc]
