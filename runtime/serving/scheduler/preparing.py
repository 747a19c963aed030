"""Items of a call to sequences: tokens, cut as the call wants, and patches. Runs in threads."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trine.runtime.bundle.model_config import PROMPTS, ModelConfig
from trine.runtime.errors import InputError
from trine.runtime.inputs import ImageText
from trine.runtime.outputs import Heads
from trine.runtime.preprocessing.preprocessor import Preprocessor
from trine.runtime.preprocessing.sequence import TokenSequence, text_sequence
from trine.runtime.preprocessing.tokenizer import NO_ENDS
from trine.runtime.request import Request
from trine.runtime.serving.service.calls import EmbedCall, EmbedItem, ServiceError
from trine.runtime.serving.service.item_fields import ItemPlace
from trine.runtime.serving.service.refusals import item_error
from trine.runtime.serving.service.tokenization import ServingTokenizer
from trine.runtime.task_names import SYMMETRIC_TASKS

__all__ = ["Prepared", "Preparer"]

#: Characters of the longest entry of the published vocabulary (a run of spaces): a text longer
#: than this times the tokens wanted is cut before it is tokenised, which changes nothing.
LONGEST_TOKEN = 128


@dataclass(frozen=True, slots=True)
class Prepared:
    """One sequence, ready for the engine.

    Attributes:
        index: of its first item in the call.
        sequence: tokens and patches.
        spans: with late chunking, (first, end) tokens of each text; else empty.
    """

    index: int
    sequence: TokenSequence
    spans: tuple[tuple[int, int], ...] = ()


def prefix_of(item: EmbedItem) -> str:
    """Return the prefix of an item's text; tasks without roles have that of the query."""
    return PROMPTS["query" if item.task in SYMMETRIC_TASKS else item.prompt]


class Preparer:
    """Makes sequences. Stateless between calls, so safe from several threads.

    Args:
        model: of vocabulary and limits.
        preprocessor: of images.
        tokenizer: of texts.
        max_pixels: an image is shrunk to.
    """

    def __init__(
        self,
        model: ModelConfig,
        preprocessor: Preprocessor,
        tokenizer: ServingTokenizer,
        max_pixels: int,
    ) -> None:
        self._model = model
        self._preprocessor = preprocessor
        self._tokenizer = tokenizer
        self._max_pixels = max_pixels

    def texts(self, call: EmbedCall, indices: Sequence[int], max_length: int) -> list[Prepared]:
        """Return the sequences of texts and of token ids.

        Args:
            call: of the items.
            indices: of the items to prepare.
            max_length: tokens of each, prefix included.

        Raises:
            ServiceError: 422 an item cannot be encoded, is empty, or is too long and not to be cut.
        """
        ids = dict(zip(indices, self._token_ids(call, indices, max_length), strict=True))
        return [
            Prepared(index, self._cut(call, index, ids[index], max_length)) for index in indices
        ]

    def document(self, call: EmbedCall, indices: Sequence[int], max_length: int) -> Prepared:
        """Return texts as one sequence for late chunking.

        The first text has the prefix; each is tokenised by itself, so that a token is of one text,
        and the tokens follow one another with nothing between. The decoder is causal: a text's
        vectors know the texts before it, and are the same whatever comes behind it. The first
        text's are those it has alone. Where the tokenizer adds tokens at the ends, they stand once,
        around the whole, and count for the first text and the last.

        Args:
            call: of the items, all with one task and prompt.
            indices: of the texts, consecutive.
            max_length: tokens of the whole, prefix included.

        Raises:
            ServiceError: 422 an item has no tokens, or the whole is too long: cutting it would
                leave texts without any.
        """
        self._check_document_size(call, indices, max_length)
        parts = self._token_ids(call, indices, max_length, first_only=True)
        for index, part in zip(indices, parts, strict=True):
            if not len(part):
                place = call.place(index)
                raise item_error(
                    place, f"{place} has no tokens of its own for late chunking; leave it out"
                )
        around = self._tokenizer.ends
        parts[0] = np.concatenate([around.start, parts[0]])
        parts[-1] = np.concatenate([parts[-1], around.end])
        ends = np.cumsum([len(part) for part in parts])
        if ends[-1] > max_length:
            index = indices[int(np.searchsorted(ends, max_length, side="right"))]
            raise item_error(
                call.place(index),
                f"the texts for late chunking have {ends[-1]} tokens together, more than "
                f"{max_length}; send them in several requests",
            )
        spans = zip((ends - [len(part) for part in parts]).tolist(), ends.tolist(), strict=True)
        return Prepared(indices[0], text_sequence(np.concatenate(parts), max_length), tuple(spans))

    def _check_document_size(
        self, call: EmbedCall, indices: Sequence[int], max_length: int
    ) -> None:
        """Refuse a document that has too many tokens however it is tokenised."""
        reach = max_length * LONGEST_TOKEN
        size = 0
        for index in indices:
            content = call.items[index].content
            # An id is a token, whatever it spells.
            size += len(content) if isinstance(content, str) else 0
            if size > reach:
                raise item_error(
                    call.place(index),
                    f"the texts for late chunking have more than {reach} characters together, "
                    f"which are more than {max_length} tokens; send them in several requests",
                )

    def image(self, call: EmbedCall, index: int, max_length: int) -> Prepared:
        """Return the sequence of an item with images.

        Raises:
            ServiceError: 422 an image cannot be decoded, or the item is too long.
        """
        item = call.items[index]
        content = item.content
        if not isinstance(content, ImageText):
            raise TypeError(content)
        prefix = prefix_of(item)
        tail = self._tail(content.text, prefix, call, index, max_length)
        request = Request(
            tasks=(item.task,),
            prefixes=(prefix,),
            heads=Heads(call.single, call.multi, self._model.decoder.hidden_size),
            output_dtype="float32",
            max_length=max_length,
            max_pixels=self._max_pixels,
        )
        place = call.place(index)
        try:
            wanted = ImageText(content.images, tail)
            (sequence,) = self._preprocessor.sequences(
                [wanted], request, place.index, of=f" of {place.field}"
            )
        except InputError as cause:
            raise item_error(place, str(cause)) from cause
        if sequence.truncated and call.truncate == "none":
            raise _too_long(place, max_length)
        if tail != content.text:
            sequence = dataclasses.replace(sequence, truncated=True)
        return Prepared(index, sequence)

    def _tail(
        self, text: str | None, prefix: str, call: EmbedCall, index: int, max_length: int
    ) -> str | None:
        """Return an image's text, its start cut if it is too long and that is wanted."""
        if text is None or call.truncate != "start":
            return text
        _check_text(text, call.place(index))
        text = text[-(max_length + 1) * LONGEST_TOKEN :]
        (shown,) = self._tokenizer.show([text], prefix)
        excess = len(shown.ids) - max_length
        if excess <= 0:
            return text
        first = shown.offsets[min(shown.num_prefix_tokens + excess, len(shown.ids) - 1)][0]
        return text[max(first - len(prefix), 0) :]

    def _token_ids(
        self, call: EmbedCall, indices: Sequence[int], max_length: int, first_only: bool = False
    ) -> list[NDArray[np.int64]]:
        """Return int64 [T] of each item, prefix included (with `first_only`, only the first's)."""
        reach = (max_length + 1) * LONGEST_TOKEN
        ids: dict[int, NDArray[np.int64]] = {}
        texts: dict[int, str] = {}
        for index in indices:
            item = call.items[index]
            if isinstance(item.content, str):
                _check_text(item.content, call.place(index))
                start = call.truncate == "start"
                bounded = item.content[-reach:] if start else item.content[:reach]
                own = index == indices[0] or not first_only
                texts[index] = (prefix_of(item) if own else "") + bounded
            elif isinstance(item.content, tuple):
                ids[index] = self._checked_ids(item.content, call.place(index))
            else:
                place = call.place(index)
                raise item_error(place, f"{place} has images; late chunking takes texts only")
        ids |= zip(texts, self._tokenizer.encode(list(texts.values())), strict=True)
        return [ids[index] for index in indices]

    def _checked_ids(self, token_ids: tuple[int, ...], place: ItemPlace) -> NDArray[np.int64]:
        size = self._model.decoder.vocab_size
        if not token_ids:
            raise item_error(place, f"{place} has no token ids; give at least one")
        wrong = next((i for i in token_ids if not 0 <= i < size), None)
        if wrong is not None:
            raise item_error(
                place, f"{place} has the token id {wrong}; the vocabulary has 0 to {size - 1}"
            )
        return np.array(token_ids, np.int64)

    def _cut(
        self, call: EmbedCall, index: int, ids: NDArray[np.int64], max_length: int
    ) -> TokenSequence:
        """Return the sequence of an item's tokens, cut as the call wants."""
        item = call.items[index]
        # Ids are taken for all that the model is to see.
        ends = self._tokenizer.ends if isinstance(item.content, str) else NO_ENDS
        room = max(max_length - len(ends), 0)
        if len(ids) <= room or call.truncate == "end":
            return text_sequence(ids, max_length, ends)
        if call.truncate == "none":
            raise _too_long(call.place(index), max_length)
        head = 0
        if isinstance(item.content, str):
            # The prefix stays: it tells the model what the text is.
            shown = self._tokenizer.show([item.content[:LONGEST_TOKEN]], prefix_of(item))[0]
            head = max(min(shown.num_prefix_tokens, room - 1), 0)
        kept = np.concatenate([ids[:head], ids[len(ids) - room + head :]])
        return dataclasses.replace(text_sequence(kept, max_length, ends), truncated=True)


def _check_text(text: str, place: ItemPlace) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as cause:
        raise item_error(
            place, f"{place} holds half of a surrogate pair, which is no character; remove it"
        ) from cause


def _too_long(place: ItemPlace, max_length: int) -> ServiceError:
    return item_error(
        place,
        f"{place} has more than {max_length} tokens; shorten it, or allow truncation",
        code="text_too_long",
    )
