"""The two methods of the published model, with its names and defaults."""

import warnings
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast, overload

import numpy as np
from numpy.typing import NDArray

from trine.runtime.bundle.bundle import Bundle
from trine.runtime.errors import InputError
from trine.runtime.inputs import ImageSource, ImageText, Item
from trine.runtime.outputs import Embeddings, OutputDtype
from trine.runtime.request import Request, check_request

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
    def _encode(
        self,
        items: Sequence[Item],
        request: Request,
        single: bool,
        multi: bool,
        output_dtype: OutputDtype,
    ) -> Embeddings:
        """Return the vectors of items, with the heads and in the type that were asked for."""

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
        texts: Sequence[str],
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
        texts: str | Sequence[str],
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
        texts: str | Sequence[str],
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
            texts: one text, or several.
            task: an adapter's name, or one for each text; None for `self.task`.
            max_length: of a text in tokens, prefix included, at most 32,768; the end is cut.
            batch_size: accepted for compatibility. Work is packed by tokens here (`BatchLimits`),
                so it changes neither results nor speed.
            return_multivector: one vector a token instead of one a text.
            return_numpy: accepted for compatibility; results always are numpy arrays.
            truncate_dim: leading dimensions to keep of single vectors, one of the checkpoint's
                Matryoshka dimensions, normalised again; None for what the checkpoint says.
                Multi-vectors are never cut.
            prompt_name: "query" (also if None) or "passage".
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
        if (
            isinstance(texts, Path | bytes | bytearray)
            or not isinstance(texts, str | Sequence | np.ndarray)
            or (isinstance(texts, np.ndarray) and not texts.ndim)
        ):
            raise InputError(f"texts is a {type(texts).__name__}; give a str or a list of str")
        items: list[Item] = [texts] if isinstance(texts, str) else list(texts)
        for index, item in enumerate(items):
            if not isinstance(item, str):
                raise InputError(
                    f"text {index} is a {type(item).__name__}, not a str; decode it first"
                )
        request = check_request(
            self.tasks,
            self.bundle.manifest.model,
            num_items=len(items),
            task=self.task if task is None else task,
            prompt_name=prompt_name,
            truncate_dim=self._dim(truncate_dim),
            max_length=max_length,
            batch_size=batch_size,
        )
        result = self._encode(
            items, request, not return_multivector, return_multivector, output_dtype
        )
        num_cut = int(result.truncated.sum())
        if num_cut:
            warnings.warn(
                f"{num_cut} of {len(items)} texts were cut to {request.max_length} tokens; "
                "split them, or raise max_length (at most 32768)",
                stacklevel=2,
            )
        return _plain(result, isinstance(texts, str))

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
            truncate_dim=self._dim(truncate_dim),
            max_pixels=max_pixels,
            batch_size=batch_size,
        )
        items: list[Item] = [ImageText((source,)) for source in sources]
        result = self._encode(
            items, request, not return_multivector, return_multivector, output_dtype
        )
        return _plain(result, one)

    def _dim(self, truncate_dim: int | None) -> int | None:
        """Return the dimensions a call asks for, else those the checkpoint prescribes."""
        return self.bundle.manifest.model.truncate_dim if truncate_dim is None else truncate_dim


def _plain(result: Embeddings, one: bool) -> NDArray[Any] | list[NDArray[Any]]:
    """Return what `encode_text` and `encode_image` return of a result with one head."""
    rows = result.multi if result.single is None else result.single
    if rows is None:
        raise ValueError("no head was asked for")
    return rows[0] if one else rows
