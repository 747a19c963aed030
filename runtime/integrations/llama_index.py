"""A bundle as LlamaIndex's embedding model of texts and images, in this process."""

import asyncio
from typing import Any

from llama_index.core.base.embeddings.base import Embedding
from llama_index.core.bridge.pydantic import PrivateAttr
from llama_index.core.embeddings.multi_modal_base import MultiModalEmbedding
from llama_index.core.schema import ImageType

from trine.runtime.embedder import Embedder
from trine.runtime.inputs import ImageText, Item, Prompt
from trine.runtime.integrations.vectors import listed_vectors

__all__ = ["TrineEmbedding"]


class TrineEmbedding(MultiModalEmbedding):
    """Embeds texts of nodes as passages and queries as queries; vectors have length 1.

    Args:
        embedder: that embeds, e.g. `Embedder.load(BUNDLE)`.
        task: adapter.
        truncate_dim: leading dimensions to keep; None for all.
        options: fields of LlamaIndex's own, such as `embed_batch_size`.
    """

    _embedder: Embedder = PrivateAttr()
    _task: str = PrivateAttr()
    _truncate_dim: int | None = PrivateAttr()

    def __init__(
        self,
        embedder: Embedder,
        task: str = "retrieval",
        truncate_dim: int | None = None,
        **options: Any,
    ) -> None:
        super().__init__(model_name=embedder.bundle.manifest.source.id, **options)
        self._embedder = embedder
        self._task = task
        self._truncate_dim = truncate_dim

    @classmethod
    def class_name(cls) -> str:
        """Return the name that LlamaIndex stores."""
        return "TrineEmbedding"

    def _embed(self, items: list[Item], prompt: Prompt) -> list[Embedding]:
        return listed_vectors(self._embedder, items, self._task, prompt, self._truncate_dim)

    def _get_query_embedding(self, query: str) -> Embedding:
        return self._embed([query], "query")[0]

    def _get_text_embedding(self, text: str) -> Embedding:
        return self._embed([text], "passage")[0]

    def _get_text_embeddings(self, texts: list[str]) -> list[Embedding]:
        return self._embed([*texts], "passage")

    def _get_image_embedding(self, img_file_path: ImageType) -> Embedding:
        return self._embed([ImageText((_image(img_file_path),))], "passage")[0]

    def _get_image_embeddings(self, img_file_paths: list[ImageType]) -> list[Embedding]:
        return self._embed([ImageText((_image(path),)) for path in img_file_paths], "passage")

    async def _aget_query_embedding(self, query: str) -> Embedding:
        return await asyncio.to_thread(self._get_query_embedding, query)

    async def _aget_text_embedding(self, text: str) -> Embedding:
        return await asyncio.to_thread(self._get_text_embedding, text)

    async def _aget_text_embeddings(self, texts: list[str]) -> list[Embedding]:
        return await asyncio.to_thread(self._get_text_embeddings, texts)

    async def _aget_image_embedding(self, img_file_path: ImageType) -> Embedding:
        return await asyncio.to_thread(self._get_image_embedding, img_file_path)


def _image(source: Any) -> Any:
    """Return what `ImageText` takes of what LlamaIndex calls an image: a path or an open file."""
    return source if isinstance(source, str) or hasattr(source, "read") else str(source)
