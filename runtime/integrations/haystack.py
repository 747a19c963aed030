"""A bundle as Haystack's two components of embedding, in this process."""

from dataclasses import replace
from typing import Any

from haystack import Document, component, default_from_dict, default_to_dict

from trine.runtime.embedder import Embedder
from trine.runtime.errors import InputError
from trine.runtime.inputs import Prompt
from trine.runtime.integrations.vectors import listed_vectors

__all__ = ["TrineDocumentEmbedder", "TrineTextEmbedder"]


class _Model:
    """What both components keep: how the bundle is loaded, and the embedder once it is."""

    def __init__(self, bundle: str, task: str, truncate_dim: int | None, engine: str) -> None:
        self.bundle = bundle
        self.task = task
        self.truncate_dim = truncate_dim
        self.engine = engine
        self._embedder: Embedder | None = None

    def load(self) -> Embedder:
        if self._embedder is None:
            self._embedder = Embedder.load(self.bundle, engine=self.engine)
        return self._embedder

    def embed(self, texts: list[str], prompt: Prompt) -> list[list[float]]:
        return listed_vectors(self.load(), texts, self.task, prompt, self.truncate_dim)

    def state(self) -> dict[str, object]:
        """Return the constructor's arguments."""
        names = ("bundle", "task", "truncate_dim", "engine")
        return {name: getattr(self, name) for name in names}


@component
class TrineTextEmbedder:
    """Embeds a query.

    Args:
        bundle: folder or Hub id.
        task: adapter.
        truncate_dim: leading dimensions to keep; None for all.
        engine: as in `Embedder.load`.
    """

    def __init__(
        self,
        bundle: str,
        task: str = "retrieval",
        truncate_dim: int | None = None,
        engine: str = "auto",
    ) -> None:
        self._model = _Model(bundle, task, truncate_dim, engine)

    def warm_up(self) -> None:
        """Load the bundle, which the first run does otherwise."""
        self._model.load()

    @component.output_types(embedding=list[float])
    def run(self, text: str) -> dict[str, Any]:
        """Return the query's vector, of length 1.

        Raises:
            InputError: it is no text.
        """
        if not isinstance(text, str):
            raise InputError(
                f"text is a {type(text).__name__}; give a str, or documents to "
                "TrineDocumentEmbedder"
            )
        return {"embedding": self._model.embed([text], "query")[0]}

    def to_dict(self) -> dict[str, Any]:
        """Return what a pipeline stores."""
        return default_to_dict(self, **self._model.state())

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "TrineTextEmbedder":
        """Return the component that a pipeline stored."""
        return default_from_dict(cls, data)


@component
class TrineDocumentEmbedder:
    """Embeds documents as passages, their titles or other fields before them if wanted.

    Args:
        bundle, task, truncate_dim, engine: as of `TrineTextEmbedder`.
        meta_fields: of the documents, which are embedded with the content.
    """

    def __init__(
        self,
        bundle: str,
        task: str = "retrieval",
        truncate_dim: int | None = None,
        engine: str = "auto",
        meta_fields: list[str] | None = None,
    ) -> None:
        self._model = _Model(bundle, task, truncate_dim, engine)
        self._meta_fields = meta_fields or []

    def warm_up(self) -> None:
        """Load the bundle, which the first run does otherwise."""
        self._model.load()

    @component.output_types(documents=list[Document])
    def run(self, documents: list[Document]) -> dict[str, Any]:
        """Return the documents with their vectors, of length 1; those given are left as they are.

        Raises:
            InputError: one has no text.
        """
        texts = []
        for index, document in enumerate(documents):
            if document.content is None:
                raise InputError(f"document {index} ({document.id}) has no content; give it a text")
            parts = [document.meta.get(name) for name in self._meta_fields]
            texts.append("\n".join([*(str(part) for part in parts if part), document.content]))
        vectors = self._model.embed(texts, "passage")
        return {
            "documents": [
                replace(document, embedding=vector)
                for document, vector in zip(documents, vectors, strict=True)
            ]
        }

    def to_dict(self) -> dict[str, Any]:
        """Return what a pipeline stores."""
        return default_to_dict(self, **self._model.state(), meta_fields=self._meta_fields)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "TrineDocumentEmbedder":
        """Return the component that a pipeline stored."""
        return default_from_dict(cls, data)
