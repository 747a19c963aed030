"""The two methods of the published model, and those that sentence-transformers has beside them."""

import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any, cast, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from trine.runtime.bundle.bundle import Bundle
from trine.runtime.errors import InputError
from trine.runtime.inputs import ImageSource, ImageText, Item
from trine.runtime.outputs import Embeddings, OutputDtype
from trine.runtime.preprocessing.item_lists import listed_texts
from trine.runtime.request import Request, check_request
from trine.runtime.scoring.similarity import cosine_similarity

__all__ = ["PublishedMethods"]


class PublishedMethods(ABC):
    """`encode_text` and `encode_image`, for a class that embeds checked requests.

    Attributes:
        bundle: of the model.
        task: for calls that name none; None makes the task required.
    """

    bundle: Bundle
    task: str | None

    @property
    @abstractmethod
    def tasks(self) -> tuple[str, ...]:
        """Tasks that calls may name now."""

    @abstractmethod
    def _encode(self, items: Sequence[Item], request: Request) -> Embeddings:
        """Return the vectors of items as a request wants them."""

    @overload
    def encode_text(
        self,
        texts: str,
        task: str | None = None,
        max_length: int = 32768,
        batch_size: int = 8,
        return_multivector: bool = False,
        return_numpy: bool = False,
        truncate_dim: int | None = None,
        prompt_name: str | None = None,
    ) -> NDArray[np.float32]: ...

    @overload
    def encode_text(
        self,
        texts: Iterable[str],
        task: str | Sequence[str] | None = None,
        max_length: int = 32768,
        batch_size: int = 8,
        return_multivector: bool = False,
        return_numpy: bool = False,
        truncate_dim: int | None = None,
        prompt_name: str | None = None,
    ) -> NDArray[np.float32] | list[NDArray[np.float32]]: ...

    @overload
    def encode_text(
        self,
        texts: str | Iterable[str],
        task: str | Sequence[str] | None = None,
        max_length: int = 32768,
        batch_size: int = 8,
        return_multivector: bool = False,
        return_numpy: bool = False,
        truncate_dim: int | None = None,
        prompt_name: str | None = None,
        *,
        output_dtype: OutputDtype,
    ) -> NDArray[Any] | list[NDArray[Any]]: ...

    def encode_text(  # noqa: PLR0913 - the published names
        self,
        texts: str | Iterable[str],
        task: str | Sequence[str] | None = None,
        max_length: int = 32768,
        batch_size: int = 8,
        return_multivector: bool = False,
        return_numpy: bool = False,
        truncate_dim: int | None = None,
        prompt_name: str | None = None,
        *,
        output_dtype: OutputDtype = "float32",
    ) -> NDArray[Any] | list[NDArray[Any]]:
        """Return the vectors of texts, with the published method's names and defaults.

        A text gets the prefix of its prompt; task "text-matching" always that of the query.
        Warns once a call if texts were cut to `max_length`.

        Args:
            texts: one text, or several in any iterable that has an order: a list, a generator, a
                numpy array, a Series of pandas or polars, an Arrow array.
            task: an adapter's name, bare or with a side, or one for each text; None for
                `self.task`.
            max_length: of a text in tokens, prefix included, at most 32,768; the end is cut.
            batch_size: accepted for compatibility. Work is packed by tokens here (`BatchLimits`),
                so it changes neither results nor speed.
            return_multivector: one vector a token instead of one a text.
            return_numpy: accepted for compatibility; results always are numpy arrays.
            truncate_dim: leading dimensions to keep of single vectors, normalised again, 0 for all;
                None for what the checkpoint says. Its Matryoshka dimensions lose least.
                Multi-vectors are never cut.
            prompt_name: "query", "passage", or None for the side that the task's name has, as in
                "retrieval.passage", else "query".
            output_dtype: "float32"; or, made from it after cutting and normalising, "float16",
                "int8" (single vectors only; needs `output_ranges`), or a bit for each dimension,
                packed as "binary" (int8) or "ubinary" (uint8): docs/output-types.md.

        Returns:
            For one text float32 [D], or [T, projector_dim] with `return_multivector`; for several
            float32 [B, D], or a list of B arrays [T_i, projector_dim]. All normalised, in order,
            owned by the caller. Of another `output_dtype`, its dtype, and of bits D / 8 bytes.

        Raises:
            InputError: an argument is not usable.
        """
        items: list[Item] = [texts] if isinstance(texts, str) else [*listed_texts(texts)]
        request = check_request(
            self.tasks,
            self.bundle.manifest.model,
            num_items=len(items),
            task=self.task if task is None else task,
            prompt_name=prompt_name,
            truncate_dim=truncate_dim,
            max_length=max_length,
            batch_size=batch_size,
            single=not return_multivector,
            multi=return_multivector,
            output_dtype=output_dtype,
        )
        result = self._encode(items, request)
        num_cut = int(result.truncated.sum())
        if num_cut:
            warnings.warn(
                f"{num_cut} of {len(items)} texts were cut to {request.max_length} tokens; "
                "split them, or raise max_length (at most 32768)",
                stacklevel=2,
            )
        return _plain(result, isinstance(texts, str))

    def encode_query(
        self,
        texts: str | Iterable[str],
        task: str | Sequence[str] | None = None,
        *,
        max_length: int = 32768,
        return_multivector: bool = False,
        truncate_dim: int | None = None,
        output_dtype: OutputDtype = "float32",
    ) -> NDArray[Any] | list[NDArray[Any]]:
        """Return the vectors of queries: `encode_text` with `prompt_name="query"`."""
        return self.encode_text(
            texts,
            task,
            max_length,
            return_multivector=return_multivector,
            truncate_dim=truncate_dim,
            prompt_name="query",
            output_dtype=output_dtype,
        )

    def encode_document(
        self,
        texts: str | Iterable[str],
        task: str | Sequence[str] | None = None,
        *,
        max_length: int = 32768,
        return_multivector: bool = False,
        truncate_dim: int | None = None,
        output_dtype: OutputDtype = "float32",
    ) -> NDArray[Any] | list[NDArray[Any]]:
        """Return the vectors of texts to find: `encode_text` with `prompt_name="passage"`."""
        return self.encode_text(
            texts,
            task,
            max_length,
            return_multivector=return_multivector,
            truncate_dim=truncate_dim,
            prompt_name="passage",
            output_dtype=output_dtype,
        )

    def get_sentence_embedding_dimension(self) -> int:
        """Return the size of single vectors where a call names no `truncate_dim`."""
        return self.bundle.manifest.model.default_dim

    def similarity(self, a: ArrayLike, b: ArrayLike) -> NDArray[np.float32]:
        """Return float32 [n, m] cosines of single vectors.

        Args:
            a: floats [n, D] or [D], such as `encode_query` returns.
            b: floats [m, D] or [D].

        Raises:
            InputError: they differ in size, are multi-vectors, or are no floats any more.
        """
        return cosine_similarity(_float_rows("a", a), _float_rows("b", b))

    @overload
    def encode_image(
        self,
        images: ImageSource | Sequence[ImageSource],
        task: str | Sequence[str] | None = None,
        batch_size: int = 8,
        return_multivector: bool = False,
        return_numpy: bool = False,
        truncate_dim: int | None = None,
        max_pixels: int | None = None,
    ) -> NDArray[np.float32] | list[NDArray[np.float32]]: ...

    @overload
    def encode_image(
        self,
        images: ImageSource | Sequence[ImageSource],
        task: str | Sequence[str] | None = None,
        batch_size: int = 8,
        return_multivector: bool = False,
        return_numpy: bool = False,
        truncate_dim: int | None = None,
        max_pixels: int | None = None,
        *,
        output_dtype: OutputDtype,
    ) -> NDArray[Any] | list[NDArray[Any]]: ...

    def encode_image(  # noqa: PLR0913 - the published names
        self,
        images: ImageSource | Sequence[ImageSource],
        task: str | Sequence[str] | None = None,
        batch_size: int = 8,
        return_multivector: bool = False,
        return_numpy: bool = False,
        truncate_dim: int | None = None,
        max_pixels: int | None = None,
        *,
        output_dtype: OutputDtype = "float32",
    ) -> NDArray[Any] | list[NDArray[Any]]:
        """Return the vectors of images, with the published method's names and defaults.

        Args:
            images: one image or a list: paths, file bytes, Pillow images, uint8 arrays
                (`trine.runtime.preprocessing.load_image.load_image` says how each is read).
            task, batch_size, return_multivector, return_numpy, truncate_dim: as in `encode_text`.
            max_pixels: an image is shrunk to at most this many pixels; None for the checkpoint's
                own limit. More pixels are more tokens (one each 28×28 pixels in the published
                model).
            output_dtype: as in `encode_text`.

        Returns:
            As `encode_text`.

        Raises:
            InputError: an argument or image is not usable.
        """
        one = not isinstance(images, list | tuple)
        sources = [images] if one else list(cast(Sequence[ImageSource], images))
        request = check_request(
            self.tasks,
            self.bundle.manifest.model,
            num_items=len(sources),
            task=self.task if task is None else task,
            truncate_dim=truncate_dim,
            max_pixels=max_pixels,
            batch_size=batch_size,
            single=not return_multivector,
            multi=return_multivector,
            output_dtype=output_dtype,
        )
        items: list[Item] = [ImageText((source,)) for source in sources]
        result = self._encode(items, request)
        return _plain(result, one)


def _plain(result: Embeddings, one: bool) -> NDArray[Any] | list[NDArray[Any]]:
    """Return what `encode_text` and `encode_image` return of a result with one head."""
    rows = result.multi if result.single is None else result.single
    if rows is None:
        raise ValueError("no head was asked for")
    return rows[0] if one else rows


def _float_rows(name: str, vectors: ArrayLike) -> NDArray[np.float32]:
    try:
        found = np.asarray(vectors)
    except ValueError:  # arrays of different lengths
        found = np.empty((0, 0, 0), np.float32)
    if found.ndim not in (1, 2):
        raise InputError(
            f"{name} holds multi-vectors; compare those by trine.runtime.maxsim, or embed without "
            "return_multivector"
        )
    if not np.issubdtype(found.dtype, np.floating):
        raise InputError(f"{name} is of dtype {found.dtype}; give float vectors")
    return found.astype(np.float32, copy=False)
