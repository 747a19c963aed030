"""A bundle as LangChain's `Embeddings`, in this process: no server, no PyTorch."""

from langchain_core.embeddings import Embeddings

from trine.runtime.embedder import Embedder
from trine.runtime.integrations.vectors import listed_vectors

__all__ = ["TrineEmbeddings"]


class TrineEmbeddings(Embeddings):
    """Embeds documents as passages and queries as queries; vectors have length 1.

    Args:
        embedder: that embeds, e.g. `Embedder.load(BUNDLE)`.
        task: adapter.
        truncate_dim: leading dimensions to keep; None for all.
    """

    def __init__(
        self, embedder: Embedder, task: str = "retrieval", truncate_dim: int | None = None
    ) -> None:
        self.embedder = embedder
        self.task = task
        self.truncate_dim = truncate_dim

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Return a vector a text, as a passage.

        Raises:
            InputError: the task is not one of the bundle's, or a text cannot be used.
        """
        return listed_vectors(self.embedder, texts, self.task, "passage", self.truncate_dim)

    def embed_query(self, text: str) -> list[float]:
        """Return the vector of a query; errors as of `embed_documents`."""
        return listed_vectors(self.embedder, [text], self.task, "query", self.truncate_dim)[0]
