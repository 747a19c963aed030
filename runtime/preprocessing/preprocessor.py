"""Items to sequences: prefixes, tokens, patches, in the order the items came."""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from trine.runtime.bundle.model_config import ModelConfig
from trine.runtime.errors import InputError
from trine.runtime.inputs import ImageText, Item
from trine.runtime.preprocessing.image_processor import ImagePatches, patch_image
from trine.runtime.preprocessing.load_image import load_image
from trine.runtime.preprocessing.sequence import TokenSequence, image_sequence, text_sequence
from trine.runtime.preprocessing.tokenizer import TextTokenizer
from trine.runtime.request import Request

__all__ = ["Preprocessor"]

#: Items whose texts are tokenised together; more would only hold more memory.
CHUNK = 256


class Preprocessor:
    """Tokenises texts and cuts images into patches. Stateless between calls."""

    def __init__(self, model: ModelConfig, tokenizer: TextTokenizer) -> None:
        self._model = model
        self._tokenizer = tokenizer

    def sequences(
        self,
        items: Sequence[Item],
        request: Request,
        first: int = 0,
        threads: int = 1,
        of: str = "",
    ) -> Iterator[TokenSequence]:
        """Yield the sequence of each item, in order; images are opened when their turn comes.

        Args:
            items: texts and images.
            request: their options.
            first: number of the first of them, for messages.
            threads: that share the work on one image.
            of: what follows an item's number in messages, e.g. " of documents".

        Raises:
            InputError: an item cannot be used; the message says which.
        """
        for start in range(0, len(items), CHUNK):
            chunk = items[start : start + CHUNK]
            texts = [item if isinstance(item, str) else item.text for item in chunk]
            rows = [row for row, text in enumerate(texts) if text is not None]
            encoded = self._tokenizer.encode(
                [
                    request.prefixes[start + row]
                    + _checked(texts[row], f"{first + start + row}{of}")
                    for row in rows
                ]
            )
            token_ids = dict(zip(rows, encoded, strict=True))
            for row, item in enumerate(chunk):
                if isinstance(item, str):
                    yield text_sequence(token_ids[row], request.max_length)
                else:
                    yield self._image_sequence(
                        item, token_ids.get(row), f"{first + start + row}{of}", request, threads
                    )

    def _image_sequence(
        self,
        item: ImageText,
        text_ids: NDArray[np.int64] | None,
        number: str,
        request: Request,
        threads: int,
    ) -> TokenSequence:
        model = self._model
        if not isinstance(item.images, tuple | list) or not item.images:
            kind = type(item.images).__name__
            shown = f"an empty {kind}" if isinstance(item.images, tuple | list) else f"a {kind}"
            raise InputError(
                f"item {number}: images is {shown}; give a tuple with at least one image"
            )
        merge = model.vision.spatial_merge_size
        images: list[ImagePatches] = []
        for image, source in enumerate(item.images):
            where = f"image {number}" + (f", image {image}" if len(item.images) > 1 else "")
            pixels = load_image(source, where)
            try:
                images.append(
                    patch_image(pixels, model.image, model.vision, request.max_pixels, threads)
                )
            except InputError as cause:
                raise InputError(f"{where}: {cause}") from cause
            # Checked as images come, so that too many of them are not all held first.
            self._check_length(sum(i.num_patches for i in images) // merge**2, number)
        cut = None if text_ids is None else text_ids[: request.max_length]
        sequence = image_sequence(
            images,
            cut,
            self._tokenizer.scaffold,
            model.token_ids,
            merge,
            truncated=text_ids is not None and len(text_ids) > request.max_length,
        )
        self._check_length(len(sequence), number)
        return sequence

    def _check_length(self, num_tokens: int, number: str) -> None:
        limit = self._model.decoder.max_positions
        if num_tokens > limit:
            raise InputError(
                f"item {number} has at least {num_tokens} tokens, more than the model's {limit} "
                "positions; give fewer images or a smaller max_pixels"
            )


def _checked(text: object, number: str) -> str:
    if not isinstance(text, str):
        raise InputError(f"text {number} is a {type(text).__name__}, not a str; decode it first")
    try:
        text.encode()
    except UnicodeEncodeError as cause:
        raise InputError(
            f"text {number} holds half of a surrogate pair, which is no character; "
            "encode it with errors='replace' first"
        ) from cause
    return text
