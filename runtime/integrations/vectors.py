"""Vectors as the lists of floats that frameworks pass around."""

from collections.abc import Sequence

from trine.runtime.embedder import Embedder
from trine.runtime.inputs import Item, Prompt

__all__ = ["listed_vectors"]


def listed_vectors(
    embedder: Embedder, items: Sequence[Item], task: str, prompt: Prompt, dim: int | None
) -> list[list[float]]:
    """Return the single vectors of items, of length 1.

    Args:
        embedder: that embeds.
        items: texts and images.
        task: adapter.
        prompt: side of the texts.
        dim: leading dimensions to keep; None for all.

    Raises:
        InputError: as `Embedder.encode`.
    """
    found = embedder.encode(items, task, prompt_name=prompt, truncate_dim=dim)
    if found.single is None:
        raise ValueError("single vectors were asked for")
    vectors: list[list[float]] = found.single.tolist()
    return vectors
